/* cuda/attend.cuh: what the forms of attention share: parts on the device, and which of them may run at once. */
#ifndef STM_CUDA_ATTEND_CUH
#define STM_CUDA_ATTEND_CUH

#include "cuda/device.cuh"

/* The parts on the device: where they are, or copied to the front of the scratch; `besides` further bytes of that are
 * at *after. Fails: STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_attend_send_parts(stm_stream *stream, const stm_attend *a, size_t besides, const stm_attend_part **parts,
                                 void **after);

/* The end of the wave that begins with part `first`: the next parts, until one shares an accumulator with another. */
size_t stm_attend_end_of_wave(const stm_attend *a, size_t real_bytes, size_t first);

/* The table's two rows where products round to bfloat16: on tensor cores for heads of a multiple of 8 numbers, up to
 * 256, else in plain form. */
stm_status stm_cuda_attend_bf16(stm_stream *stream, const stm_attend *a);
stm_status stm_cuda_attend_backward_bf16(stm_stream *stream, const stm_attend *a);

/* The first on tensor cores where the rows' tiles are fewer than the device's multiprocessors, as in a decode round. */
stm_status stm_attend_few(stm_stream *stream, const stm_attend *a);

/* Adds to the gradients of keys and values of n_parts parts, one wave, for heads of 129 to 256 numbers; most_keys: of
 * the longest part. */
stm_status stm_attend_wide_keys(stm_stream *stream, const stm_attend *a, const stm_attend_part *parts, size_t n_parts,
                                size_t most_keys, const float *delta);

/* The gradients by products of warpgroups, for heads of up to D numbers, 64 or 128, where the stream has_wgmma; and o.
 * prepare: what of_keys, which takes parts [first, end), one wave, is to find at its room's beginning, and the room's
 * bytes. */
struct stm_key_plan;
template <int D> struct stm_attend_hopper {
    static stm_status attend(stm_stream *stream, const stm_attend *a);
    static stm_status prepare(stm_stream *stream, const stm_attend *a, stm_key_plan *plan, size_t *bytes);
    static stm_status of_queries(stm_stream *stream, const stm_attend *a, const stm_attend_part *parts,
                                 const float *delta);
    static stm_status of_keys(stm_stream *stream, const stm_attend *a, const stm_attend_part *parts, size_t first,
                              size_t end, const float *delta, const stm_key_plan *plan, void *room);
};

/* Keys of a part: no fewer than it will have; and now. */
static inline size_t stm_attend_most_keys(const stm_attend_part *part)
{
    return part->n_keys + (part->grown ? part->most_grown : 0);
}

static inline __device__ size_t stm_keys_of(const stm_attend_part &part)
{
    return part.n_keys + (part.grown ? (size_t)*part.grown : 0);
}

/* Keys that row r of the call sees of a part; 0 where it is not of the part's rows. */
static inline __device__ size_t stm_keys_seen(const stm_attend_part &part, size_t r)
{
    if (r < part.first_row || r >= part.first_row + part.n_rows)
        return 0;
    const size_t n_keys = stm_keys_of(part);
    return part.causal ? STM_MIN(n_keys, r - part.first_row + part.diagonal + 1) : n_keys;
}

#endif
