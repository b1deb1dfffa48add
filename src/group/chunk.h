/* src/group/chunk.h: a chunk: segments of a forest that run through the model together.
 *
 * A chunk is any list of segments in preorder, of any parents and trees, whose other ancestors have run: dense work
 * (projections, feed-forward, head) sees one matrix of all rows, and only attention asks which rows are whose. Against
 * an ancestor the rows below it are one range, because the segments stand in preorder.
 *
 *      rows      | s4 | s5   | s7  | s8 |
 *      part s0   [-----------------------]   every key, one tall GEMM
 *      part s3   [-----------]               every key
 *      own       [\\\\][\\\\\\][\\\\\][\\\\]   causal
 *
 * A chunk owns K and V of its rows for every layer, and in a pass with gradient their accumulators: descendants in this
 * and in later chunks read the former and add to the latter. Nothing is copied per descendant. */
#ifndef STM_GROUP_CHUNK_H
#define STM_GROUP_CHUNK_H

#include "group/forest.h"
#include "model/layer.h"

typedef struct stm_chunk stm_chunk;
typedef struct stm_profile stm_profile; /* group/profile.h */

/* What a pass is for. PREFILL leaves K and V alone; SCORE visits log-probs; GRADIENT also goes back. */
typedef enum { STM_PASS_PREFILL, STM_PASS_SCORE, STM_PASS_GRADIENT } stm_pass_kind;

/* Tokens [first_token, first_token + n) of one response. logp is 0 where the token has no loss and the pass is for the
 * gradient. dlogp (GRADIENT only): the visitor adds dL/dlogp. x, lse (SCORE only): the last layer's output
 * [n, hidden_size] and the log of the sum of e^logit [n] of the rows that predict them; device memory. */
typedef struct {
    size_t group, response, first_token, n;
    const double *logp, *entropy;
    double *dlogp;
    const void *x;
    const double *lse;
} stm_visit;

/* Where a segment's K and V lie; chunk NULL: not here. */
typedef struct {
    stm_chunk *chunk;
    size_t first_row;
} stm_place;

/* What a pass did, to be added over ranks. */
typedef struct {
    double rows;        /* computed, recomputation not counted */
    double rows_again;  /* recomputed for their activations */
    double rows_active; /* through the head */
    double chunks;
    double n_not_finite; /* log-probs that are not finite numbers */
} stm_pass_counts;

/* Where chunks lie: arenas used as stacks, so that those of one bank end in the reverse order of their creation. */
typedef struct {
    stm_arena *device, *host;
    void *range; /* of the device's arena, where its memory is not the host's; else NULL */
    size_t range_bytes;
} stm_bank;

typedef struct {
    stm_mark device, host;
} stm_bank_mark;

static inline stm_bank_mark stm_bank_mark_of(const stm_bank *bank)
{
    return (stm_bank_mark){stm_arena_mark(bank->device), stm_arena_mark(bank->host)};
}

static inline void stm_bank_reset(const stm_bank *bank, stm_bank_mark mark)
{
    stm_arena_reset(bank->device, mark.device);
    stm_arena_reset(bank->host, mark.host);
}

/* A walk over a forest, through the layers that this rank has of the model: all, or those of a stage. */
typedef struct {
    stm_pass_kind kind;
    const stm_model *model;
    const stm_forest *forest;
    stm_arena *device, *host; /* for the pass's tables, and for what lives while a chunk runs */
    stm_place *places;        /* [n_segments] */
    void *gradient;           /* [n_parameters] reals, added to; GRADIENT only */
    void (*visit)(void *context, const stm_visit *visit);
    void (*preview)(void *context, const stm_visit *visit); /* GRADIENT: also sees log-probs when rows go forward, which
                                                             * is before any row of their responses goes back; dlogp is
                                                             * NULL. NULL: the head runs in the backward alone */
    void *context;
    stm_pass_counts counts;
    size_t not_finite_group, not_finite_response; /* of the first log-prob that was not a number */
    stm_profile *profile;                         /* NULL: none */
    const stm_layer_hooks *hooks;                 /* of a team or a pipeline; NULL: alone */
    const struct stm_window *window;              /* K and V that ranks of a node share (mpi/window.h); NULL: none */
    struct stm_courier *courier;                  /* of the messages within the team (mpi/courier.h) */
    struct stm_neighbours *neighbours;            /* the stages beside this one; NULL: all layers are here */
    struct stm_reduction *reduction; /* of the gradient over ranks (mpi/reduction.h); NULL: not while it is computed */
    struct stm_rounds *rounds;       /* of its layers over ranks (mpi/rounds.h), in place of `gradient`; NULL: none */
    bool last_backward;              /* no chunk goes back after this one: what it has passed is final */
    size_t *part_of;                 /* [n_segments], STM_NONE between uses: which part reads a segment */
} stm_pass;

/* Begins a pass over the forest: takes its tables from the host arena. The caller resets the arenas afterwards. Local.
 * Fails: STM_ERR_MEMORY. */
stm_status stm_pass_begin(stm_pass *pass);

/* Takes room in a bank for segments [n] (preorder, copied) and says in pass->places that they lie here. computes false:
 * only K, V (and accumulators, zeroed) are wanted, which another rank will fill. kv: where K and V lie that others may
 * read until the chunk is closed, so that they are written once; NULL: in the bank. The bank owns *out. Local. Fails:
 * STM_ERR_MEMORY. */
stm_status stm_chunk_create(stm_pass *pass, const stm_bank *bank, const size_t *segments, size_t n, bool computes,
                            void *kv, stm_chunk **out);

/* Room on the device that lives as long as the chunk, the newest of its bank. Fails: STM_ERR_MEMORY. */
stm_status stm_chunk_take(stm_chunk *chunk, size_t bytes, void *out);

/* Runs all layers, and where the pass is SCORE the head and the visitor (on the last stage). keep: activations stay for
 * the backward; else they are computed again there, and of the last layer only K and V are formed now. Ancestors in
 * other chunks must have K and V. Local. Fails: STM_ERR_DEVICE, STM_ERR_MEMORY. */
stm_status stm_chunk_forward(stm_pass *pass, stm_chunk *chunk, bool keep);

/* Head, visitor, and all layers backward; what descendants add to dK, dV must have been added. Adds to pass->gradient
 * and to the accumulators of ancestors. Local. Fails: STM_ERR_DEVICE, STM_ERR_MEMORY. */
stm_status stm_chunk_backward(stm_pass *pass, stm_chunk *chunk);

/* No chunk goes back on this rank: what others report layer by layer to pass->reduction is final here at once. Local.
 */
void stm_pass_without_backward(const stm_pass *pass);

size_t stm_chunk_n_rows(const stm_chunk *chunk);

/* K and V of one layer that is here, [2, n_kv_heads, n_rows, head_dim] activations, and their accumulators, as many
 * reals; n of each. */
void *stm_chunk_kv(const stm_pass *pass, const stm_chunk *chunk, size_t layer);
void *stm_chunk_dkv(const stm_pass *pass, const stm_chunk *chunk, size_t layer);
size_t stm_chunk_kv_n(const stm_pass *pass, const stm_chunk *chunk);

/* Memory of n_rows rows: the accumulators of their K and V over all layers; K and V (gradient: with accumulators); and
 * the activations that backward reads. */
size_t stm_chunk_dkv_bytes(const stm_model *model, size_t n_rows);
size_t stm_chunk_kv_bytes(const stm_model *model, size_t n_rows, bool gradient);
size_t stm_chunk_kept_bytes(const stm_model *model, size_t n_rows);

/* Memory besides, while a chunk of n_rows rows runs: scratch of a layer, of the head, gradients of rows. */
size_t stm_chunk_scratch_bytes(const stm_model *model, size_t n_rows, bool gradient);

#endif
