/* RMS norm of rows. A block takes a row. */
#include "cuda/device.cuh"

template <class R>
static __global__ void rmsnorm_kernel(size_t width, double eps, const R *x, const R *w, R *y, R *inverse_rms)
{
    __shared__ R room[STM_WARP];
    const R *row = x + blockIdx.x * width;
    R sum = 0;
    for (size_t i = threadIdx.x; i < width; i += blockDim.x)
        sum += row[i] * row[i];
    sum = stm_block_sum(sum, room);
    const R inverse = (R)(1 / sqrt((double)sum / (double)width + eps));
    for (size_t i = threadIdx.x; i < width; i += blockDim.x)
        y[blockIdx.x * width + i] = row[i] * inverse * w[i];
    if (threadIdx.x == 0)
        inverse_rms[blockIdx.x] = inverse;
}

/* y = w x s with s = 1/rms: dx = s (w dy - x s^2 mean(w dy x)). */
template <class R>
static __global__ void rmsnorm_backward_kernel(size_t width, const R *x, const R *w, const R *inverse_rms, const R *dy,
                                               R *dx)
{
    __shared__ R room[STM_WARP];
    const size_t first = blockIdx.x * width;
    R sum = 0;
    for (size_t i = threadIdx.x; i < width; i += blockDim.x)
        sum += x[first + i] * w[i] * dy[first + i];
    sum = stm_block_sum(sum, room);
    const R s = inverse_rms[blockIdx.x], slope = sum / (R)width * s * s;
    for (size_t i = threadIdx.x; i < width; i += blockDim.x)
        dx[first + i] += s * (w[i] * dy[first + i] - x[first + i] * slope);
}

template <class R> struct norm_weight_terms {
    size_t width;
    const R *x, *dy, *inverse_rms;

    __device__ R operator()(size_t row, size_t i) const
    {
        return dy[row * width + i] * x[row * width + i] * inverse_rms[row];
    }
};

template <class R> stm_status stm_cuda_ops<R>::rmsnorm(stm_stream *stream, const stm_rmsnorm *a)
{
    return stm_launch(stream, (unsigned)a->n_rows, STM_BLOCK, 0, rmsnorm_kernel<R>, a->width, a->eps, (const R *)a->x,
                      (const R *)a->w, (R *)a->y, (R *)a->inverse_rms);
}

template <class R> stm_status stm_cuda_ops<R>::rmsnorm_backward(stm_stream *stream, const stm_rmsnorm *a)
{
    const norm_weight_terms<R> terms = {a->width, (const R *)a->x, (const R *)a->dy, (const R *)a->inverse_rms};
    R *pieces;
    STM_TRY(stm_cuda_scratch(stream, stm_sum_rows_bytes<R>(a->n_rows, a->width), &pieces));
    STM_TRY(stm_launch(stream, (unsigned)a->n_rows, STM_BLOCK, 0, rmsnorm_backward_kernel<R>, a->width, terms.x,
                       (const R *)a->w, terms.inverse_rms, terms.dy, (R *)a->dx));
    return stm_sum_rows(stream, a->n_rows, a->width, terms, pieces, (R *)a->dw);
}

#define INSTANCES(R)                                                                                                   \
    template stm_status stm_cuda_ops<R>::rmsnorm(stm_stream *, const stm_rmsnorm *);                                   \
    template stm_status stm_cuda_ops<R>::rmsnorm_backward(stm_stream *, const stm_rmsnorm *)
INSTANCES(float);
INSTANCES(double);
