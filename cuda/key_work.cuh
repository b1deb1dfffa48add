/* cuda/key_work.cuh: how the gradients of keys are shared out among blocks that each fill a multiprocessor.
 *
 * A tile of keys meets all rows that see it. With few KV heads there are fewer tiles than multiprocessors, and under a
 * causal mask the first meets many times the rows of the last: so the rows of long ones are cut. Blocks of a cut tile
 * leave their sums in slots of the scratch, which are then added in order: equal calls give equal bits. */
#ifndef STM_CUDA_KEY_WORK_CUH
#define STM_CUDA_KEY_WORK_CUH

#include "cuda/attend.cuh"

enum { STM_NO_SLOT = -1 };

/* A block: keys of a part from first_key on meet tall rows [first, end) of the call. */
struct stm_key_work {
    unsigned part, first_key, first, end;
    int slot;         /* where its sums go; STM_NO_SLOT: straight to the accumulators */
    unsigned n_slots; /* of the tile, this one's and the next; 0 but in a cut tile's first block */
};

/* Of all parts, in order; those of a wave (stm_attend_end_of_wave) use slots of their own. n_slots: most of a wave. */
struct stm_key_plan {
    const stm_key_work *work;
    size_t n, n_slots;
};

/* Tiles of n_keys keys; rows are met n_rows tall ones a step. The plan is the stream's until the next. Fails:
 * STM_ERR_MEMORY. */
stm_status stm_plan_keys(stm_stream *stream, const stm_attend *a, size_t n_keys, size_t n_rows, stm_key_plan *out);

/* A slot's numbers of a KV head: dk, dv, each [n_keys, width], width no less than head_dim. */
static inline __host__ __device__ size_t stm_slot_size(size_t n_keys, size_t width)
{
    return 2 * n_keys * width;
}

/* Adds the slots of `n` blocks, those of a wave, to the accumulators. slots: [.., n_kv_heads, stm_slot_size]. */
stm_status stm_add_slots(stm_stream *stream, const stm_attend *a, const stm_attend_part *parts,
                         const stm_key_work *work, size_t n, size_t n_keys, size_t width, const float *slots);

#endif
