/* cuda/softmax.cuh: what the head and the sampler share: a block's sums over a row of logits. Called by all threads of
 * a block; the results are the same in all. */
#ifndef STM_CUDA_SOFTMAX_CUH
#define STM_CUDA_SOFTMAX_CUH

#include "cuda/device.cuh"

/* Sums of e^(z - m) and of e^(z - m) z; a column of probability 0 adds nothing, whatever its z. */
struct stm_softmax_sums {
    double s, t;
};

/* room: shared memory, [STM_WARP]. */
template <class R> __device__ R stm_largest_scaled(const R *logits, size_t n, R inverse, R *room)
{
    R largest = -(R)INFINITY;
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) {
        const R z = logits[i] * inverse;
        largest = z > largest ? z : largest;
    }
    return stm_block_max(largest, room);
}

template <class R> __device__ stm_softmax_sums stm_scaled_sums(const R *logits, size_t n, R inverse, R m, double *room)
{
    double s = 0, t = 0;
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) {
        const R z = logits[i] * inverse, e = exp(z - m);
        s += (double)e;
        t += e == R(0) ? 0.0 : (double)(e * z);
    }
    s = stm_block_sum(s, room);
    t = stm_block_sum(t, room);
    return {s, t};
}

#endif
