/* Operations on elements, and sums of them: biases, SwiGLU, AdamW, the gradient's norm. */
#include "cuda/device.cuh"

template <class R> static __global__ void bias_kernel(size_t width, size_t stride, const R *b, R *y)
{
    for (size_t i = threadIdx.x; i < width; i += blockDim.x)
        y[blockIdx.x * stride + i] += b[i];
}

template <class R> struct bias_terms {
    const R *dy;
    size_t stride;

    __device__ R operator()(size_t row, size_t i) const
    {
        return dy[row * stride + i];
    }
};

template <class R> static __global__ void swiglu_kernel(size_t n_rows, size_t width, const R *gu, R *h)
{
    for (STM_EACH_ELEMENT(i, n_rows * width)) {
        const size_t at = i / width * 2 * width + i % width;
        const R g = gu[at], u = gu[at + width];
        h[i] = g / (R(1) + exp(-g)) * u;
    }
}

/* With s = sigmoid(g): d silu(g) / dg = s (1 + g (1 - s)). */
template <class R>
static __global__ void swiglu_backward_kernel(size_t n_rows, size_t width, const R *gu, const R *dh, R *dgu, R *h)
{
    for (STM_EACH_ELEMENT(i, n_rows * width)) {
        const size_t at = i / width * 2 * width + i % width;
        const R g = gu[at], u = gu[at + width], dy = dh[i];
        const R s = R(1) / (R(1) + exp(-g)), silu = g * s;
        dgu[at] = dy * u * s * (R(1) + g * (R(1) - s));
        dgu[at + width] = dy * silu;
        if (h)
            h[i] = silu * u;
    }
}

/* What of AdamW is the same for all elements. */
template <class R> struct adamw_step {
    R beta1, rest1, beta2, rest2, decay, rate, eps, inverse_root, scale;
};

template <class R>
static __global__ void adamw_kernel(size_t n, adamw_step<R> s, const R *gradient, R *parameter, R *exp_avg,
                                    R *exp_avg_sq)
{
    for (STM_EACH_ELEMENT(i, n)) {
        const R d = s.scale * gradient[i];
        const R mean = s.beta1 * exp_avg[i] + s.rest1 * d, square = s.beta2 * exp_avg_sq[i] + s.rest2 * d * d;
        exp_avg[i] = mean;
        exp_avg_sq[i] = square;
        parameter[i] = s.decay * parameter[i] - s.rate * mean / (sqrt(square) * s.inverse_root + s.eps);
    }
}

/* Pieces of one size, so that the device does not matter. */
enum { SQUARES_OF_A_PIECE = 1 << 14 };

template <class R> static __global__ void square_pieces_kernel(size_t n, const R *x, double *pieces)
{
    __shared__ double room[STM_WARP];
    const size_t first = (size_t)blockIdx.x * SQUARES_OF_A_PIECE, end = STM_MIN(n, first + SQUARES_OF_A_PIECE);
    double sum = 0;
    for (size_t i = first + threadIdx.x; i < end; i += blockDim.x)
        sum += (double)x[i] * (double)x[i];
    sum = stm_block_sum(sum, room);
    if (threadIdx.x == 0)
        pieces[blockIdx.x] = sum;
}

static __global__ void add_up_kernel(size_t n, const double *pieces, double *total)
{
    __shared__ double room[STM_WARP];
    double sum = 0;
    for (size_t i = threadIdx.x; i < n; i += blockDim.x)
        sum += pieces[i];
    sum = stm_block_sum(sum, room);
    if (threadIdx.x == 0)
        *total = sum;
}

template <class R> stm_status stm_cuda_ops<R>::bias(stm_stream *stream, const stm_bias *a)
{
    return stm_launch(stream, (unsigned)a->n_rows, STM_BLOCK, 0, bias_kernel<R>, a->width, a->stride, (const R *)a->b,
                      (R *)a->y);
}

template <class R> stm_status stm_cuda_ops<R>::bias_backward(stm_stream *stream, const stm_bias *a)
{
    R *pieces;
    STM_TRY(stm_cuda_scratch(stream, stm_sum_rows_bytes<R>(a->n_rows, a->width), &pieces));
    return stm_sum_rows(stream, a->n_rows, a->width, bias_terms<R>{(const R *)a->dy, a->stride}, pieces, (R *)a->db);
}

template <class R> stm_status stm_cuda_ops<R>::swiglu(stm_stream *stream, const stm_swiglu *a)
{
    return stm_launch(stream, stm_blocks_for(stream, a->n_rows * a->width), STM_BLOCK, 0, swiglu_kernel<R>, a->n_rows,
                      a->width, (const R *)a->gu, (R *)a->h);
}

template <class R> stm_status stm_cuda_ops<R>::swiglu_backward(stm_stream *stream, const stm_swiglu *a)
{
    return stm_launch(stream, stm_blocks_for(stream, a->n_rows * a->width), STM_BLOCK, 0, swiglu_backward_kernel<R>,
                      a->n_rows, a->width, (const R *)a->gu, (const R *)a->dh, (R *)a->dgu, (R *)a->h);
}

template <class R> stm_status stm_cuda_ops<R>::adamw(stm_stream *stream, const stm_adamw *a)
{
    const double correction1 = 1 - pow(a->beta1, (double)a->step), correction2 = 1 - pow(a->beta2, (double)a->step);
    const adamw_step<R> step = {(R)a->beta1,
                                (R)(1 - a->beta1),
                                (R)a->beta2,
                                (R)(1 - a->beta2),
                                (R)(1 - a->lr * a->weight_decay),
                                (R)(a->lr / correction1),
                                (R)a->eps,
                                (R)(1 / sqrt(correction2)),
                                (R)a->scale};
    return stm_launch(stream, stm_blocks_for(stream, a->n), STM_BLOCK, 0, adamw_kernel<R>, a->n, step,
                      (const R *)a->gradient, (R *)a->parameter, (R *)a->exp_avg, (R *)a->exp_avg_sq);
}

template <class R>
stm_status stm_cuda_ops<R>::sum_squares(stm_stream *stream, size_t n, const void *x, double *host_sum)
{
    const size_t n_pieces = stm_pieces_of(n, SQUARES_OF_A_PIECE);
    double *pieces;
    STM_TRY(stm_cuda_scratch(stream, (n_pieces + 1) * sizeof *pieces, &pieces));
    double *total = pieces + n_pieces;
    STM_TRY(stm_launch(stream, (unsigned)n_pieces, STM_BLOCK, 0, square_pieces_kernel<R>, n, (const R *)x, pieces));
    STM_TRY(stm_launch(stream, 1, STM_BLOCK, 0, add_up_kernel, n_pieces, (const double *)pieces, total));
    return stm_cuda_read(stream, host_sum, total, sizeof *total);
}

#define INSTANCES(R)                                                                                                   \
    template stm_status stm_cuda_ops<R>::bias(stm_stream *, const stm_bias *);                                         \
    template stm_status stm_cuda_ops<R>::bias_backward(stm_stream *, const stm_bias *);                                \
    template stm_status stm_cuda_ops<R>::swiglu(stm_stream *, const stm_swiglu *);                                     \
    template stm_status stm_cuda_ops<R>::swiglu_backward(stm_stream *, const stm_swiglu *);                            \
    template stm_status stm_cuda_ops<R>::adamw(stm_stream *, const stm_adamw *);                                       \
    template stm_status stm_cuda_ops<R>::sum_squares(stm_stream *, size_t, const void *, double *)
INSTANCES(float);
INSTANCES(double);
