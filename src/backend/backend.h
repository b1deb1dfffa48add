/* src/backend/backend.h: what a device must do.
 *
 * Adding an operation: a row here, a plain loop in cpu.c, a kernel in cuda/, a case in tests/unit/backend_ops.c. `real`
 * below is the backend's number: float or double (real_bytes says). Pointers in argument structs are device memory
 * unless marked host; matrices are row-major. Arrays are of reals, but for those said to be of activations: what
 * products and attention hand to one another, in the backend's smaller number where it has one (activation_bytes
 * says), rounded to nearest; sums are formed in reals. Rows of activations whose width is a multiple of 8 begin at
 * multiples of 16 bytes. Work is queued on a stream, in order; `synchronize` waits for it. Sums
 * are taken in an order that depends on the shapes and the number of threads alone, so equal calls give equal bits.
 * Local, all of it. Fails: STM_ERR_DEVICE, STM_ERR_MEMORY. In-place accumulation is written `+=`; outputs never overlap
 * inputs unless said. */
#ifndef STM_BACKEND_BACKEND_H
#define STM_BACKEND_BACKEND_H

#include "base/base.h"

typedef struct stm_stream stm_stream; /* opaque: a queue of work, and the scratch of its kernels */

/* C[m,n] = alpha * op(A) op(B) + beta * C; op(A) is [m,k], op(B) is [k,n]; transposed: stored as [k,m], [n,k]. */
typedef struct {
    bool transpose_a, transpose_b;
    struct {
        bool a, b, c;
    } activations; /* which are of activations */
    size_t m, n, k;
    double alpha, beta;
    const void *a, *b;
    void *c;
    size_t lda, ldb, ldc; /* elements between the starts of rows as stored */
} stm_gemm;

/* y[r,:] = table[ids[r],:]. backward: dtable[ids[r],:] += dy[r,:]. */
typedef struct {
    size_t n_rows, width;
    const int32_t *ids; /* [n_rows] */
    const void *table;  /* [.., width] */
    void *y;            /* [n_rows, width] */
    const void *dy;     /* backward */
    void *dtable;       /* backward */
} stm_embed;

/* gather: y[i,:] = x[rows[i],:], of reals or of activations. scatter_add: x[rows[i],:] += y[i,:], of reals; rows are
 * distinct. */
typedef struct {
    bool activations; /* gather: x and y are */
    size_t n_rows, width;
    const int32_t *rows; /* [n_rows] */
    void *x, *y;
} stm_rows;

/* y[r,:] = x[r,:] * w / rms(x[r,:]), rms = sqrt(mean(x^2) + eps) (Zhang and Sennrich 2019, arXiv 1910.07467);
 * inverse_rms [n_rows] is kept. backward: dx[r,:] += .., dw[:] += .. from dy, x, inverse_rms; dx_rounded becomes a copy
 * of dx as it then is. Activations: y, dx_rounded. */
typedef struct {
    size_t n_rows, width;
    double eps;
    const void *x, *w;
    void *y, *inverse_rms;
    const void *dy;
    void *dx, *dw;
    void *dx_rounded; /* [n_rows, width] or NULL */
} stm_rmsnorm;

/* db += sum over r of dy[r,:]; rows of dy, activations, start `stride` apart. */
typedef struct {
    size_t n_rows, width, stride;
    const void *dy;
    void *db;
} stm_bias;

/* From projections to what attention reads: their biases, optional RMS norm over head_dim (Qwen3's q/k norm), then
 * rotary position embedding in the half-split form (pair i, i + head_dim/2), angle from cosine, sine [max_positions,
 * head_dim/2]. q_in [n_q_rows, >= n_heads*head_dim] -> q [n_q_rows, n_heads, head_dim] k_in, v_in [n_kv_rows, ..] -> k,
 * v [n_kv_heads, kv_stride, head_dim], rows 0 .. n_kv_rows-1 (v gets its bias only). Rows of the _in arrays start
 * in_stride_q, in_stride_kv elements apart. Either row count may be 0. backward: dq, dk, dv (laid out as q, k, v) ->
 * dq_in, dk_in, dv_in (strided as q_in, k_in, v_in; overwritten); the norms' inputs are read from q_in, k_in, and their
 * biases; dq_norm, dk_norm += . Activations: q_in, k_in, v_in, q, k, v, dq, dq_in, dk_in, dv_in; dk and dv are sums, in
 * reals. */
typedef struct {
    size_t n_q_rows, n_kv_rows, n_heads, n_kv_heads, head_dim;
    size_t in_stride_q, in_stride_kv, kv_stride;
    const int32_t *q_positions, *kv_positions; /* [n_q_rows], [n_kv_rows] */
    const void *cosine, *sine;
    const void *q_bias, *k_bias, *v_bias; /* [n_heads*head_dim], [n_kv_heads*head_dim] or NULL: none of the three */
    const void *q_norm, *k_norm;          /* [head_dim] or NULL: no norm */
    double norm_eps;
    const void *q_in, *k_in, *v_in;
    void *q, *k, *v;
    const void *dq, *dk, *dv;
    void *dq_in, *dk_in, *dv_in;
    void *dq_norm, *dk_norm;
} stm_rotary;

/* Rows [first_row, first_row + n_rows) of the queries attend to keys 0 .. n_keys-1; if causal, the i-th of these rows
 * only to keys 0 .. i + diagonal. k, v: [n_kv_heads, kv_stride, head_dim], activations. dk, dv: accumulators of the
 * same layout, stride dkv_stride, reals. */
typedef struct {
    size_t first_row, n_rows;
    size_t n_keys, kv_stride, dkv_stride;
    const int32_t *grown; /* keys beyond n_keys when attention runs, up to most_grown; NULL: none. See device_parts */
    size_t most_grown;
    const void *k, *v;
    void *dk, *dv;
    bool causal;
    size_t diagonal;
} stm_attend_part;

/* Row i of k, v [n_kv_heads, n_rows, head_dim] goes to row positions[i] of slot slots[i] in k_cache, v_cache [..,
 * n_kv_heads, slot_rows, head_dim]; all four are of activations. */
typedef struct {
    size_t n_rows, n_kv_heads, head_dim, slot_rows;
    const int32_t *slots, *positions; /* [n_rows] */
    const void *k, *v;
    void *k_cache, *v_cache;
} stm_append;

/* Attention of a chunk's rows to several parts, merged by log-sum-exp as if the keys were one list. Every row is in at
 * least one part. A query head h reads KV head h / (n_heads / n_kv_heads). For a block of rows all query heads of a KV
 * head form one tall matrix. forward: o [n_rows, n_heads, head_dim], lse [n_rows, n_heads]. backward: from q, o, lse,
 * d_o: dq (overwritten), dk, dv of each part (+=; two parts may share accumulators). parts is host memory, sorted so
 * that rows meet their parts from the root down. Activations: q, o, d_o, dq, and k, v of the parts. */
typedef struct {
    size_t n_rows, n_heads, n_kv_heads, head_dim;
    double scale;  /* 1 / sqrt(head_dim) */
    const void *q; /* [n_rows, n_heads, head_dim] */
    size_t n_parts;
    const stm_attend_part *parts;
    /* In a forward of a backend that records, or NULL: the same list in device memory. Then of `parts` shapes alone are
     * read, and keys may have `grown`. Bits do not depend on most_grown. */
    const stm_attend_part *device_parts;
    void *o, *lse;
    const void *d_o;
    void *dq;
} stm_attend;

/* h = silu(g) * u for gu = [g | u], [n_rows, 2 * width] -> h [n_rows, width] (Shazeer 2020, arXiv 2002.05202).
 * backward: dgu from dh; h is written again where it is not NULL. All are of activations. */
typedef struct {
    size_t n_rows, width;
    const void *gu;
    void *h;
    const void *dh;
    void *dgu;
} stm_swiglu;

/* One block of vocabulary columns [first_column, first_column + n_columns) of the head; logits [n_rows, n_columns] are
 * raw, their rows `stride` apart. z = logit * inverse_temperature[r]. Running sums in double, [n_rows] each: maximum m,
 * sum s of exp(z - m), weighted t of exp(z - m) * z, target's z. forward: updates them; `first_column` 0 starts them.
 * finish: logp = z_target - lse, entropy = lse - t/s, lse = m + log s. backward: dlogits [n_rows, n_columns],
 * activations, rows `dstride` apart, become dL/dlogit = (dlogp (onehot - p) - dentropy p (log p + H)) *
 * inverse_temperature; they may be the logits themselves where activations are reals. */
typedef struct {
    size_t n_rows, first_column, n_columns, stride;
    void *logits;
    void *dlogits; /* backward */
    size_t dstride;
    const int32_t *targets;
    const double *inverse_temperature;
    double *m, *s, *t, *z_target;
    double *logp, *entropy, *lse;
    const double *dlogp, *dentropy; /* backward; dentropy may be NULL */
} stm_head_block;

/* How far the distributions of a group's members are from each other, position by position, over one block of
 * vocabulary columns. Rows first_rows[t] .. first_rows[t + 1] - 1 of logits [n_rows, n_columns], `stride` apart, are
 * the members that have a token at position t; the others of the n_members are uniform over n_vocab. With l = logit *
 * inverse_temperature - lse (uniform: -log n_vocab) and x = (mean of l over the members) - l, held to +-11:
 * sums[t] += sum over members and columns of e^x - x - 1, in double; `first_column` 0 starts them. */
typedef struct {
    size_t n_positions, n_members, n_vocab, first_column, n_columns, stride;
    const void *logits;
    double inverse_temperature;
    const int32_t *first_rows; /* [n_positions + 1] */
    const double *lse;         /* [n_rows] */
    double *sums;              /* [n_positions] */
} stm_spread;

/* Samples one id a row from whole logits [n_rows, n_columns]. Over z = logit / temperature (0: greedy, recorded at 1):
 * log-prob and entropy are over all columns; then top_k, top_p, min_p are applied in this order to the columns < n_ids
 * that `banned` does not hold, and the cumulative distribution of what is kept is inverted at `uniform` in order of id.
 * kept_mass: probability, over all columns, of what was kept. */
typedef struct {
    size_t n_rows, n_columns, n_ids;
    const void *logits;
    double temperature, top_p, min_p;
    size_t top_k;          /* 0: off */
    const uint8_t *banned; /* [n_ids] or NULL: 1 where an id must not be sampled */
    const double *uniform; /* [n_rows] */
    int32_t *id;           /* [n_rows] */
    double *logp, *entropy, *kept_mass;
} stm_sample;

/* Rows of decoding go one token on. from[r] >= 0: row r was row from[r] of the last round, which drew sampled[from[r]]
 * for it; from[r] < 0: it begins with the token -1 - from[r]. That goes to ids[r]; positions[r] and lengths[r] count
 * up; uniform[r] becomes the next number of uniforms [n_rows, n_ahead], number turns[r], which counts up, too. From
 * then on from[r] = r. All device memory, [n_rows]; `sampled` has the last round's rows. */
typedef struct {
    size_t n_rows, n_ahead;
    const int32_t *sampled;
    const double *uniforms;
    int32_t *from, *turns, *ids, *positions, *lengths;
    double *uniform;
} stm_advance;

enum { STM_MARKS = 16, STM_RECORDINGS = 16 }; /* of a stream */

/* AdamW with decoupled decay (Loshchilov and Hutter 2019, arXiv 1711.05101), bias-corrected, over n elements; `step`
 * counts from 1; the gradient is multiplied by `scale` first (clipping). */
typedef struct {
    size_t n;
    int64_t step;
    double lr, beta1, beta2, eps, weight_decay, scale;
    void *parameter;
    const void *gradient;
    void *exp_avg, *exp_avg_sq;
} stm_adamw;

/* Bytes [first, first + n) of an array. */
typedef struct {
    size_t first, n;
} stm_byte_range;

/* What a backend does whose memory is apart from the host's, which cannot touch it.
 *
 * A second queue runs beside the stream's, for messages: its stream serves the rows below, copies between the device
 * and alloc_host's memory, `add` and `synchronize`. */
typedef struct {
    size_t piece_bytes; /* that are worth a copy of their own; a multiple of 8 */
    /* Memory behind bytes [first, end) of a reserved array, where there is none yet. */
    stm_status (*commit)(stm_stream *, void *array, size_t first, size_t end);
    /* Host memory that the device copies from and to by itself: `copy` then does not wait. */
    stm_status (*alloc_host)(stm_stream *, size_t bytes, void *out);
    void (*free_host)(stm_stream *, void *memory);
    stm_status (*open_beside)(stm_stream *, stm_stream **out); /* closed before the first, by close */
    stm_status (*follow)(stm_stream *beside, stm_stream *); /* what the other holds by now comes before what follows */
    /* *mark: a number, greater each time, for all that the queue holds; and whether that is done. */
    stm_status (*note)(stm_stream *beside, uint64_t *mark);
    stm_status (*has_passed)(stm_stream *beside, uint64_t mark, bool *passed);
    /* sum[i] = parts[0][i] + parts[1][i] + .., in this order, float in double; parts [n_parts, n], sum maybe the first
     */
    stm_status (*add_in_order)(stm_stream *, size_t n_parts, size_t n, const void *parts, void *sum);
    void *(*queue_of)(stm_stream *); /* as other libraries of the device take it: a cudaStream_t */
} stm_apart;

/* What a process computes on, where that is not the host itself. */
typedef struct {
    char name[80]; /* for people; "": the host */
    char id[24];   /* tells the devices of a node apart, whichever of them a process sees */
    size_t bytes;  /* of its own memory; 0: it is the host's */
} stm_device;

/* Rows of a product that are as good as any number of them. A GPU's multiprocessors take a tile of 128 x 128 or more
 * numbers each, in waves of which the last is never full: with 8,192 rows of a hidden size of 1,536 it is the sixth. */
enum { STM_ROWS_OF_HOST = 1024, STM_ROWS_OF_DEVICE = 8192 };

/* Columns of a block of logits: as caches hold; or, by 512 rows, 128 tiles of 128 x 256, one for each multiprocessor of
 * an H100. */
enum { STM_HEAD_COLUMNS_OF_HOST = 2048, STM_HEAD_COLUMNS_OF_DEVICE = 8192 };

typedef struct stm_backend {
    const char *name;      /* "cpu" */
    const char *precision; /* as --precision spells it; "bfloat16": reals are float, products round their operands */
    size_t real_bytes, activation_bytes;
    size_t weight_bytes;    /* that a model's weight takes: a real, and what round_weights keeps of it */
    size_t head_columns;    /* of logits that a block of the head has: STM_HEAD_COLUMNS_OF_HOST, .. DEVICE */
    size_t chunk_rows;      /* that it computes at once where memory allows: STM_ROWS_OF_HOST, STM_ROWS_OF_DEVICE */
    int (*n_devices)(void); /* that this process can use; NULL: there is nothing to choose */
    /* Chooses this process's device, before open: those of a node in turn, by the process's place among the node's. */
    stm_status (*choose_device)(int node_rank);
    stm_status (*open)(int n_threads, stm_stream **out); /* n_threads 0: as OpenMP says */
    void (*close)(stm_stream *);
    void (*describe)(const stm_stream *, stm_device *out);
    stm_status (*alloc)(stm_stream *, size_t bytes,
                        void *out); /* out: address of a pointer; aligned to 64; contents undefined */
    void (*free)(stm_stream *, void *memory);
    const stm_apart *apart; /* of a device that has memory of its own; NULL: it is the host's */
    /* An array with addresses for all of `bytes`, and memory for ranges of it alone; nothing else may be touched.
     * Contents undefined; aligned to 64. unreserve: with the same number of bytes. */
    stm_status (*reserve)(stm_stream *, size_t bytes, const stm_byte_range *ranges, size_t n_ranges, void *out);
    void (*unreserve)(stm_stream *, void *array, size_t bytes);
    stm_status (*write)(stm_stream *, void *device, const void *host, size_t bytes);
    stm_status (*read)(stm_stream *, void *host, const void *device, size_t bytes); /* waits */
    stm_status (*copy)(stm_stream *, void *to, const void *from, size_t bytes); /* device to device, or stm_apart's */
    stm_status (*zero)(stm_stream *, void *device, size_t bytes);
    stm_status (*synchronize)(stm_stream *);
    /* The n reals at `weights` are a model's, new or changed: a backend that multiplies in a smaller precision makes
     * its rounded copy now, which products that read them use from here on. n 0: they are weights no longer. */
    stm_status (*round_weights)(stm_stream *, const void *weights, size_t n);
    stm_status (*gemm)(stm_stream *, const stm_gemm *);
    stm_status (*add)(stm_stream *, size_t n, const void *x, void *y);            /* y += x, reals */
    stm_status (*to_activations)(stm_stream *, size_t n, const void *x, void *y); /* y = x, reals, as activations */
    stm_status (*embed)(stm_stream *, const stm_embed *);
    stm_status (*embed_backward)(stm_stream *, const stm_embed *);
    stm_status (*gather)(stm_stream *, const stm_rows *);
    stm_status (*scatter_add)(stm_stream *, const stm_rows *);
    stm_status (*rmsnorm)(stm_stream *, const stm_rmsnorm *);
    stm_status (*rmsnorm_backward)(stm_stream *, const stm_rmsnorm *);
    stm_status (*bias_backward)(stm_stream *, const stm_bias *);
    stm_status (*rotary)(stm_stream *, const stm_rotary *);
    stm_status (*rotary_backward)(stm_stream *, const stm_rotary *);
    stm_status (*append)(stm_stream *, const stm_append *);
    stm_status (*attend)(stm_stream *, const stm_attend *);
    stm_status (*attend_backward)(stm_stream *, const stm_attend *);
    stm_status (*swiglu)(stm_stream *, const stm_swiglu *);
    stm_status (*swiglu_backward)(stm_stream *, const stm_swiglu *);
    stm_status (*head_block)(stm_stream *, const stm_head_block *);
    stm_status (*head_finish)(stm_stream *, const stm_head_block *);
    stm_status (*head_block_backward)(stm_stream *, const stm_head_block *);
    stm_status (*spread)(stm_stream *, const stm_spread *);
    stm_status (*sample)(stm_stream *, const stm_sample *);
    stm_status (*adamw)(stm_stream *, const stm_adamw *);
    stm_status (*sum_squares)(stm_stream *, size_t n, const void *x, double *host_sum); /* waits */

    /* What lets the host run ahead of a device. NULL, all of them, where work is done when a call returns.
     * host_room: host memory that `write` and `copy` move while the host goes on, contents undefined; the stream owns
     * it, until the next call. wait_mark: until what was queued before `mark` (of the same number, below
     * STM_MARKS) is done; has_passed_mark: whether it is. */
    stm_status (*host_room)(stm_stream *, size_t bytes, void *out); /* out: address of a pointer; aligned to 64 */
    stm_status (*mark)(stm_stream *, size_t mark);
    stm_status (*wait_mark)(stm_stream *, size_t mark);
    stm_status (*has_passed_mark)(stm_stream *, size_t mark, bool *passed);
    /* What is queued between begin and end is not done, but kept with all its arguments (not with what these point to),
     * as one piece of work that replay queues. A stream holds a recording of each number, below STM_RECORDINGS; the
     * next of its number takes its place. In it nothing may wait or take memory: the same work must have run once
     * before. After a failure in between it is ended, too, and not replayed. can_replay: there is one of that number,
     * and no greater work has run since. */
    stm_status (*begin_recording)(stm_stream *);
    stm_status (*end_recording)(stm_stream *, size_t number);
    bool (*can_replay)(const stm_stream *, size_t number);
    stm_status (*replay)(stm_stream *, size_t number);
    stm_status (*advance)(stm_stream *, const stm_advance *);
} stm_backend;

/* One source, compiled for each; the last is there where oneDNN is: take it from stm_backend_find. */
extern const stm_backend stm_backend_cpu_f32, stm_backend_cpu_f64, stm_backend_cpu_bf16;

/* The backend for a name ("cpu", "cuda", "auto") and a precision. auto: GPUs where the module for them is there and
 * finds one, else the CPU; only where NVIDIA's driver runs, or the environment names a folder of modules, is it opened,
 * since that takes a while. Anything that is not there is STM_ERR_INPUT, naming what is. */
stm_status stm_backend_find(const char *name, stm_precision precision, const stm_backend **out);

/* Address of element i of an array of reals. */
static inline void *stm_at(const stm_backend *backend, const void *array, size_t i)
{
    return (char *)array + i * backend->real_bytes;
}

/* The same of an array of activations. */
static inline void *stm_activation_at(const stm_backend *backend, const void *array, size_t i)
{
    return (char *)array + i * backend->activation_bytes;
}

#endif
