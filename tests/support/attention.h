/* tests/support/attention.h: attention over parts by definition, one softmax over all keys that a row sees, in double,
 * and the same through a backend. */
#ifndef STM_TESTS_ATTENTION_H
#define STM_TESTS_ATTENTION_H

#include "support/device.h"

enum { MAX_PARTS = 40 };

/* A part: its rows, its keys, and which array of keys (and accumulator) it reads. */
typedef struct {
    size_t first_row, n_rows, n_keys, source;
    bool causal;
    size_t diagonal;
} part_shape;

typedef struct {
    size_t n_rows, n_heads, n_kv_heads, head_dim, kv_stride, n_sources, n_parts;
    part_shape parts[MAX_PARTS];
    bool on_device;          /* where the parts lie; for o and lse alone */
    size_t grown[MAX_PARTS]; /* of parts on the device: the last of n_keys, which a count beside them tells of */
    double *q, *k, *v, *d_o; /* k, v: [n_sources, n_kv_heads, kv_stride, head_dim] */
} attention;

typedef struct {
    double *o, *lse, *dq, *dk, *dv;
} attention_answer;

size_t attention_n_q(const attention *p);         /* numbers in q, o, dq, d_o */
size_t attention_source_size(const attention *p); /* numbers in one source's k, v, dk, dv */

/* Random q, k, v, d_o, far from uniform weights; with `rounded` numbers that bfloat16 holds. */
void attention_fill(attention *p, bool rounded);
void attention_empty(attention *p);

/* dk, dv start from 0. magnitude, where not NULL, becomes what errors of P and dS relative to themselves are multiplied
 * by at most: the same sums over the sizes of their terms (o, dv of P, dq, dk of dS), where the size of dS is that of
 * P (dP - delta) and besides of what an error of delta, from that of o, makes of it. lse: 0. */
attention_answer attention_expected(const attention *p, attention_answer *magnitude);

/* Accumulators start from a number other than 0, have rows of their own after each head's, which must stay as they are,
 * and what was added comes back. Without `backward`: o and lse alone. */
attention_answer attention_found(device *dev, const attention *p, bool backward);

void attention_discard(attention_answer *x);

#endif
