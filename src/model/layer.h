/* src/model/layer.h: one decoder layer over the rows of a chunk, forward and backward.
 *
 *   x ─ norm ─┬─ q (active rows) ─ rotary ─┐
 *             └─ k, v (all rows) ─ rotary ─┴─ attend ─ o ─(+)─ norm ─ gate, up ─ swiglu ─ down ─(+)─ out
 *
 * In the last layer only rows with loss are wanted: `active` lists them, and everything but K and V is computed for
 * these alone. The other layers pass NULL: all rows. Activations that backward reads lie in stm_layer_kept; what it can
 * cheaply form again lies in scratch. Between norms, products and attention numbers are activations of backend.h (A
 * below); x, x_mid, out and their gradients are sums over layers, in reals (R). */
#ifndef STM_MODEL_LAYER_H
#define STM_MODEL_LAYER_H

#include "model/model.h"

/* n: number of active rows (= n_rows where all are active). */
typedef struct {
    void *x;            /* R [n_rows, hidden]: the layer's input; the caller puts it there */
    void *inverse_rms1; /* R [n_rows] */
    void *q_raw;        /* A [n, n_heads*head_dim]: projections before the q/k norm; only models that have it */
    void *kv_raw;       /* A [n_rows, 2*n_kv_heads*head_dim] */
    void *q, *o;        /* A [n, n_heads, head_dim] */
    void *lse;          /* R [n, n_heads] */
    void *x_mid;        /* R [n, hidden]: after attention */
    void *inverse_rms2; /* R [n] */
    void *gu;           /* A [n, 2*intermediate] */
} stm_layer_kept;

/* Room for the intermediate results of one layer, for up to n_rows rows. */
typedef struct {
    size_t n_rows;
    void *a;        /* A [n_rows, hidden] */
    void *b;        /* [n_rows, hidden]: A in forward, R in backward */
    void *q, *kv;   /* A [n_rows, n_heads*head_dim], [n_rows, 2*n_kv_heads*head_dim] */
    void *h;        /* A [n_rows, intermediate] */
    void *dq, *d_o; /* backward only: A [n_rows, n_heads*head_dim] each */
    void *dh, *dgu; /* backward only: A [n_rows, intermediate], [n_rows, 2*intermediate] */
    void *picked;   /* backward only: R [n_rows, hidden], where dgu was */
    /* Backward: the gradient, R, of which `a` has the rounded copy that products take; NULL: none. A layer leaves that
     * of its dx_in to the next. */
    const void *rounded;
} stm_layer_scratch;

/* What a rank of a team does while a layer runs. meet: in forward when K and V of the rows are formed and before any
 * are read, in backward when dK and dV of ancestors have their part and before those of the rows are read. drive:
 * between operations, to move messages; cheap. */
typedef struct {
    stm_status (*meet)(void *context, size_t layer, bool backward);
    void (*drive)(void *context);
    void *context;
} stm_layer_hooks;

/* Rows of a chunk as a layer sees them. Arrays are device memory. */
typedef struct {
    size_t n_rows;
    const int32_t *positions; /* [n_rows] */
    size_t n_active;          /* with active */
    const int32_t *active;    /* [n_active] rows, ascending; NULL: all rows */
    const int32_t *active_positions;
    void *k, *v; /* A [n_kv_heads, kv_stride, head_dim]: where this layer's K and V of these rows go */
    size_t kv_stride;
    const void *dk, *dv; /* R, backward: what has been summed for them, same layout and stride */
    size_t n_parts;
    const stm_attend_part *parts;        /* rows counted among the active ones; host memory */
    const stm_attend_part *device_parts; /* stm_attend of backend.h; else NULL */
    const stm_append *append;            /* decode: K and V also go to the slots' caches before attention; else NULL */
    const stm_layer_hooks *hooks;        /* NULL: none */
} stm_layer_rows;

size_t stm_layer_kept_bytes(const stm_model *model, size_t n_rows, size_t n_active); /* with `x` */

/* Cuts `memory` ([stm_layer_kept_bytes]) into the arrays of *kept. */
void stm_layer_kept_init(const stm_model *model, size_t n_rows, size_t n_active, void *memory, stm_layer_kept *kept);

size_t stm_layer_scratch_bytes(const stm_model *model, size_t n_rows, bool backward);
void stm_layer_scratch_init(const stm_model *model, size_t n_rows, bool backward, void *memory,
                            stm_layer_scratch *scratch);

/* Reads kept->x, writes `out` [n, hidden] (the next layer's x). With n_active = 0 and `active` set, only K and V are
 * computed. Local, but for the hooks. Fails: STM_ERR_DEVICE. */
stm_status stm_layer_forward(const stm_model *model, size_t layer, const stm_layer_rows *rows, stm_layer_kept *kept,
                             stm_layer_scratch *scratch, void *out);

/* dx: [n, hidden] the gradient of `out`; dx_in [n_rows, hidden] becomes the gradient of x. Where all rows are active
 * both may be one buffer; else they must differ. Adds to `gradient` (layout of the parameters) and to the dk, dv of the
 * parts; those of the chunk's own rows (rows->dk, dv) must be the accumulators that the parts name. Local, but for
 * the hooks. With the scratch of the layer above, dx is that layer's dx_in, unchanged. Fails: STM_ERR_DEVICE. */
stm_status stm_layer_backward(const stm_model *model, size_t layer, const stm_layer_rows *rows,
                              const stm_layer_kept *kept, stm_layer_scratch *scratch, void *dx, void *dx_in,
                              void *gradient);

#endif
