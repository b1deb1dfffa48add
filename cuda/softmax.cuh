/* cuda/softmax.cuh: what the head and the sampler share: a block's sums over a row of logits. Called by all threads of
 * a block; the results are the same in all. */
#ifndef STM_CUDA_SOFTMAX_CUH
#define STM_CUDA_SOFTMAX_CUH

#include "cuda/device.cuh"

/* Sums of e^(z - m) and of e^(z - m) z; a column of probability 0 adds nothing, whatever its z. */
struct stm_softmax_sums {
    double s, t;
};

/* room: shared memory, [STM_WARP]. N: logits that a thread takes at a time; n is a multiple of it. */
template <int N, class R> __device__ R stm_largest_scaled(const R *logits, size_t n, R inverse, R *room)
{
    R largest = -(R)INFINITY, z[N];
#pragma unroll 4
    for (size_t i = threadIdx.x * N; i < n; i += blockDim.x * N) {
        stm_load<N>(logits + i, z);
        for (int j = 0; j < N; j++)
            largest = z[j] * inverse > largest ? z[j] * inverse : largest;
    }
    return stm_block_max(largest, room);
}

template <int N, class R>
__device__ stm_softmax_sums stm_scaled_sums(const R *logits, size_t n, R inverse, R m, double *room)
{
    double s = 0, t = 0;
#pragma unroll 2
    for (size_t i = threadIdx.x * N; i < n; i += blockDim.x * N) {
        R x[N];
        stm_load<N>(logits + i, x);
        for (int j = 0; j < N; j++) {
            const R z = x[j] * inverse, e = exp(z - m);
            s += (double)e;
            t += e == R(0) ? 0.0 : (double)(e * z);
        }
    }
    s = stm_block_sum(s, room);
    t = stm_block_sum(t, room);
    return {s, t};
}

#endif
