/* How far the members of a group are from each other at each position (stm_spread of backend.h). A block takes a
 * position, a thread columns of it, whose members it reads twice: for their mean, then for each one's distance from it.
 */
#include "cuda/device.cuh"

/* e^x - x - 1 for x held to +-11. */
static __device__ double stm_distance(double x)
{
    const double most = 11;
    x = x < -most ? -most : x > most ? most : x; /* a NaN stays one */
    return expm1(x) - x;
}

template <class R> static __global__ void spread_kernel(stm_spread a)
{
    __shared__ double room[STM_WARP];
    const size_t t = blockIdx.x, begin = (size_t)a.first_rows[t], end = (size_t)a.first_rows[t + 1];
    const double uniform = -log((double)a.n_vocab), n = (double)a.n_members, n_ended = n - (double)(end - begin);
    const R *logits = (const R *)a.logits;
    double sum = 0;
    for (size_t i = threadIdx.x; i < a.n_columns; i += blockDim.x) {
        double mean = n_ended * uniform;
        for (size_t r = begin; r < end; r++)
            mean += (double)logits[r * a.stride + i] * a.inverse_temperature - a.lse[r];
        mean /= n;
        for (size_t r = begin; r < end; r++)
            sum += stm_distance(mean - ((double)logits[r * a.stride + i] * a.inverse_temperature - a.lse[r]));
        if (n_ended > 0)
            sum += n_ended * stm_distance(mean - uniform);
    }
    sum = stm_block_sum(sum, room);
    if (threadIdx.x == 0)
        a.sums[t] = (a.first_column == 0 ? 0.0 : a.sums[t]) + sum;
}

template <class R> stm_status stm_cuda_ops<R>::spread(stm_stream *stream, const stm_spread *a)
{
    return stm_launch(stream, (unsigned)a->n_positions, STM_BLOCK, 0, spread_kernel<R>, *a);
}

template stm_status stm_cuda_ops<float>::spread(stm_stream *, const stm_spread *);
template stm_status stm_cuda_ops<double>::spread(stm_stream *, const stm_spread *);
