/* RMS norm of rows. Forward a block takes a row. Backward it takes several, one after the other, so that what a row
 * adds to dw never leaves it: x and dy are read once, 16 bytes of float a number and 18 with the rounded dx, where sums
 * of their own would read both again. */
#include "cuda/mma.cuh"
#include "cuda/sums.cuh"

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

/* y = w x s with s = 1/rms: dx = s (w dy - x s^2 mean(w dy x)), dw = dy x s. A thread has the same columns of all rows,
 * and their dw in shared memory. */
template <class R, class A, int N>
static __global__ void rmsnorm_backward_kernel(stm_rmsnorm a, size_t rows_of_piece, R *pieces)
{
    __shared__ R room[STM_WARP];
    R *dw = (R *)stm_launch_shared(); /* [width] */
    const R *w = (const R *)a.w, zeros[N] = {};
    const size_t width = a.width, step = (size_t)blockDim.x * N;
    const size_t begin = blockIdx.x * rows_of_piece, end = STM_MIN(a.n_rows, begin + rows_of_piece);
    for (size_t i = threadIdx.x * N; i < width; i += step)
        stm_store<N>(zeros, dw + i);
    for (size_t r = begin; r < end; r++) {
        const R *x = (const R *)a.x + r * width, *dy = (const R *)a.dy + r * width, s = ((const R *)a.inverse_rms)[r];
        R *dx = (R *)a.dx + r * width, sum = 0;
        R of_x[N], of_w[N], of_dy[N], of_dw[N], of_dx[N];
        for (size_t i = threadIdx.x * N; i < width; i += step) {
            stm_load<N>(x + i, of_x);
            stm_load<N>(w + i, of_w);
            stm_load<N>(dy + i, of_dy);
            stm_load<N>(dw + i, of_dw);
            for (int j = 0; j < N; j++) {
                sum += of_x[j] * of_w[j] * of_dy[j];
                of_dw[j] += of_dy[j] * of_x[j] * s;
            }
            stm_store<N>(of_dw, dw + i);
        }
        const R slope = stm_block_sum(sum, room) / (R)width * s * s;
        for (size_t i = threadIdx.x * N; i < width; i += step) { /* x and dy come from the caches */
            stm_load<N>(x + i, of_x);
            stm_load<N>(w + i, of_w);
            stm_load<N>(dy + i, of_dy);
            stm_load<N>(dx + i, of_dx);
            for (int j = 0; j < N; j++)
                of_dx[j] += s * (of_w[j] * of_dy[j] - of_x[j] * slope);
            stm_store<N>(of_dx, dx + i);
            if (a.dx_rounded)
                stm_store<N>(of_dx, (A *)a.dx_rounded + r * width + i);
        }
    }
    for (size_t i = threadIdx.x * N; i < width; i += step) {
        R of_dw[N];
        stm_load<N>(dw + i, of_dw);
        stm_store<N>(of_dw, pieces + blockIdx.x * width + i);
    }
}

/* Threads that have the n pieces of a row, as many each as may be. */
static unsigned threads_for(size_t n)
{
    const size_t turns = STM_MAX(stm_pieces_of(n, STM_BLOCK), (size_t)1), each = stm_pieces_of(n, turns);
    return (unsigned)(STM_MAX(stm_pieces_of(each, STM_WARP), (size_t)1) * STM_WARP);
}

template <class R, class A> stm_status stm_cuda_activation_ops<R, A>::rmsnorm(stm_stream *stream, const stm_rmsnorm *a)
{
    const bool wide = stm_go_in_eights(a->width, a->x, a->w, a->y);
    return stm_launch(stream, (unsigned)a->n_rows, threads_for(a->width / (wide ? 4 : 1)), 0,
                      wide ? rmsnorm_kernel<R, A, 4> : rmsnorm_kernel<R, A, 1>, a->width, a->eps, (const R *)a->x,
                      (const R *)a->w, (A *)a->y, (R *)a->inverse_rms);
}

template <class R, class A>
stm_status stm_cuda_activation_ops<R, A>::rmsnorm_backward(stm_stream *stream, const stm_rmsnorm *a)
{
    const bool wide = stm_go_in_eights(a->width, a->x, a->w, a->dy, a->dx, a->dx_rounded);
    const size_t rows_of_piece = stm_rows_of_piece(a->n_rows, 8), n_pieces = stm_pieces_of(a->n_rows, rows_of_piece);
    const size_t shared_bytes = a->width * sizeof(R);
    const auto kernel = wide ? rmsnorm_backward_kernel<R, A, 4> : rmsnorm_backward_kernel<R, A, 1>;
    R *pieces;
    STM_TRY(stm_cuda_scratch(stream, n_pieces * a->width * sizeof(R), &pieces));
    STM_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes));
    STM_TRY(stm_launch(stream, (unsigned)n_pieces, threads_for(a->width / (wide ? 4 : 1)), shared_bytes, kernel, *a,
                       rows_of_piece, pieces));
    return stm_add_up(stream, n_pieces, a->width, (const R *)pieces, (R *)a->dw);
}

#define ACTIVATION_INSTANCES(R, A)                                                                                     \
    template stm_status stm_cuda_activation_ops<R, A>::rmsnorm(stm_stream *, const stm_rmsnorm *);                     \
    template stm_status stm_cuda_activation_ops<R, A>::rmsnorm_backward(stm_stream *, const stm_rmsnorm *)
ACTIVATION_INSTANCES(float, float);
ACTIVATION_INSTANCES(float, __nv_bfloat16);
ACTIVATION_INSTANCES(double, double);
