/* RMS norm of rows. A block takes a row. */
#include "cuda/device.cuh"

/* N: numbers that a thread takes at a time. */
template <class R, class A, int N>
static __global__ void rmsnorm_kernel(size_t width, double eps, const R *x, const R *w, A *y, R *inverse_rms)
{
    __shared__ R room[STM_WARP];
    const R *row = x + blockIdx.x * width;
    R sum = 0, of_row[N], of_w[N];
    for (size_t i = threadIdx.x * N; i < width; i += blockDim.x * N) {
        stm_load<N>(row + i, of_row);
        for (int j = 0; j < N; j++)
            sum += of_row[j] * of_row[j];
    }
    sum = stm_block_sum(sum, room);
    const R inverse = (R)(1 / sqrt((double)sum / (double)width + eps));
    for (size_t i = threadIdx.x * N; i < width; i += blockDim.x * N) {
        stm_load<N>(row + i, of_row);
        stm_load<N>(w + i, of_w);
        for (int j = 0; j < N; j++)
            of_row[j] = of_row[j] * inverse * of_w[j];
        stm_store<N>(of_row, y + blockIdx.x * width + i);
    }
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

template <class R, class A> stm_status stm_cuda_activation_ops<R, A>::rmsnorm(stm_stream *stream, const stm_rmsnorm *a)
{
    const bool wide = stm_go_in_eights(a->width, a->x, a->w, a->y);
    return stm_launch(stream, (unsigned)a->n_rows, STM_BLOCK, 0,
                      wide ? rmsnorm_kernel<R, A, 4> : rmsnorm_kernel<R, A, 1>, a->width, a->eps, (const R *)a->x,
                      (const R *)a->w, (A *)a->y, (R *)a->inverse_rms);
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

template stm_status stm_cuda_ops<float>::rmsnorm_backward(stm_stream *, const stm_rmsnorm *);
template stm_status stm_cuda_ops<double>::rmsnorm_backward(stm_stream *, const stm_rmsnorm *);
template stm_status stm_cuda_activation_ops<float, float>::rmsnorm(stm_stream *, const stm_rmsnorm *);
template stm_status stm_cuda_activation_ops<float, __nv_bfloat16>::rmsnorm(stm_stream *, const stm_rmsnorm *);
template stm_status stm_cuda_activation_ops<double, double>::rmsnorm(stm_stream *, const stm_rmsnorm *);
