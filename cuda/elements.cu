/* Operations on elements, and sums of them: biases, SwiGLU, AdamW, the gradient's norm. */
#include "cuda/sums.cuh"

template <class R, class A> struct bias_terms {
    const A *dy;
    size_t stride;

    template <int N> __device__ __forceinline__ void get(size_t row, size_t i, R x[N]) const
    {
        stm_load<N>(dy + row * stride + i, x);
    }
};

/* N: numbers that a thread takes at a time, here and below. */
template <class R, class A, int N> static __global__ void swiglu_kernel(size_t n_rows, size_t width, const A *gu, A *h)
{
    R g[N], u[N];
    for (STM_EACH_ELEMENT(piece, n_rows * width / N)) {
        const size_t i = piece * N, at = i / width * 2 * width + i % width;
        stm_load<N>(gu + at, g);
        stm_load<N>(gu + at + width, u);
        for (int j = 0; j < N; j++)
            g[j] = g[j] / (R(1) + exp(-g[j])) * u[j];
        stm_store<N>(g, h + i);
    }
}

/* With s = sigmoid(g): d silu(g) / dg = s (1 + g (1 - s)). */
template <class R, class A, int N>
static __global__ void swiglu_backward_kernel(size_t n_rows, size_t width, const A *gu, const A *dh, A *dgu, A *h)
{
    R g[N], u[N], dy[N], silu_u[N];
    for (STM_EACH_ELEMENT(piece, n_rows * width / N)) {
        const size_t i = piece * N, at = i / width * 2 * width + i % width;
        stm_load<N>(gu + at, g);
        stm_load<N>(gu + at + width, u);
        stm_load<N>(dh + i, dy);
        for (int j = 0; j < N; j++) {
            const R s = R(1) / (R(1) + exp(-g[j])), silu = g[j] * s;
            g[j] = dy[j] * u[j] * s * (R(1) + g[j] * (R(1) - s));
            silu_u[j] = silu * u[j];
            u[j] = dy[j] * silu;
        }
        stm_store<N>(g, dgu + at);
        stm_store<N>(u, dgu + at + width);
        if (h)
            stm_store<N>(silu_u, h + i);
    }
}

/* What of AdamW is the same for all elements. */
template <class R> struct adamw_step {
    R beta1, rest1, beta2, rest2, decay, rate, eps, inverse_root, scale;
};

template <class R, int N>
static __global__ void adamw_kernel(size_t n, adamw_step<R> s, const R *gradient, R *parameter, R *exp_avg,
                                    R *exp_avg_sq)
{
    R d[N], mean[N], square[N], value[N];
    for (STM_EACH_ELEMENT(piece, n / N)) {
        const size_t i = piece * N;
        stm_load<N>(gradient + i, d);
        stm_load<N>(exp_avg + i, mean);
        stm_load<N>(exp_avg_sq + i, square);
        stm_load<N>(parameter + i, value);
        for (int j = 0; j < N; j++) {
            d[j] *= s.scale;
            mean[j] = s.beta1 * mean[j] + s.rest1 * d[j];
            square[j] = s.beta2 * square[j] + s.rest2 * d[j] * d[j];
            value[j] = s.decay * value[j] - s.rate * mean[j] / (sqrt(square[j]) * s.inverse_root + s.eps);
        }
        stm_store<N>(mean, exp_avg + i);
        stm_store<N>(square, exp_avg_sq + i);
        stm_store<N>(value, parameter + i);
    }
}

/* Pieces of one size, so that the device does not matter. */
enum { SQUARES_OF_A_PIECE = 1 << 14 };

template <class R, int N> static __global__ void square_pieces_kernel(size_t n, const R *x, double *pieces)
{
    __shared__ double room[STM_WARP];
    const size_t first = (size_t)blockIdx.x * SQUARES_OF_A_PIECE, end = STM_MIN(n, first + SQUARES_OF_A_PIECE);
    double sum = 0;
#pragma unroll 4
    for (size_t i = first + threadIdx.x * N; i < end; i += blockDim.x * N) {
        R some[N];
        stm_load<N>(x + i, some);
        for (int j = 0; j < N; j++)
            sum += (double)some[j] * (double)some[j];
    }
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

template <class R, class A>
stm_status stm_cuda_activation_ops<R, A>::bias_backward(stm_stream *stream, const stm_bias *a)
{
    const bias_terms<R, A> terms = {(const A *)a->dy, a->stride};
    R *pieces;
    STM_TRY(stm_cuda_scratch(stream, stm_sum_rows_bytes<R>(a->n_rows, a->width), &pieces));
    return stm_go_in_eights(a->width | a->stride, a->dy)
               ? stm_sum_rows<8>(stream, a->n_rows, a->width, terms, pieces, (R *)a->db)
               : stm_sum_rows<1>(stream, a->n_rows, a->width, terms, pieces, (R *)a->db);
}

template <class R, class A> stm_status stm_cuda_activation_ops<R, A>::swiglu(stm_stream *stream, const stm_swiglu *a)
{
    const bool wide = stm_go_in_eights(a->width, a->gu, a->h);
    return stm_launch(stream, stm_blocks_for(stream, a->n_rows * a->width / (wide ? 8 : 1)), STM_BLOCK, 0,
                      wide ? swiglu_kernel<R, A, 8> : swiglu_kernel<R, A, 1>, a->n_rows, a->width, (const A *)a->gu,
                      (A *)a->h);
}

template <class R, class A>
stm_status stm_cuda_activation_ops<R, A>::swiglu_backward(stm_stream *stream, const stm_swiglu *a)
{
    const bool wide = stm_go_in_eights(a->width, a->gu, a->dh, a->dgu, a->h);
    return stm_launch(stream, stm_blocks_for(stream, a->n_rows * a->width / (wide ? 8 : 1)), STM_BLOCK, 0,
                      wide ? swiglu_backward_kernel<R, A, 8> : swiglu_backward_kernel<R, A, 1>, a->n_rows, a->width,
                      (const A *)a->gu, (const A *)a->dh, (A *)a->dgu, (A *)a->h);
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
    const bool wide = stm_go_in_eights(a->n, a->gradient, a->parameter, a->exp_avg, a->exp_avg_sq);
    return stm_launch(stream, stm_blocks_for(stream, a->n / (wide ? 4 : 1)), STM_BLOCK, 0,
                      wide ? adamw_kernel<R, 4> : adamw_kernel<R, 1>, a->n, step, (const R *)a->gradient,
                      (R *)a->parameter, (R *)a->exp_avg, (R *)a->exp_avg_sq);
}

template <class R>
stm_status stm_cuda_ops<R>::sum_squares(stm_stream *stream, size_t n, const void *x, double *host_sum)
{
    const size_t n_pieces = stm_pieces_of(n, SQUARES_OF_A_PIECE);
    double *pieces;
    STM_TRY(stm_cuda_scratch(stream, (n_pieces + 1) * sizeof *pieces, &pieces));
    double *total = pieces + n_pieces;
    STM_TRY(stm_launch(stream, (unsigned)n_pieces, STM_BLOCK, 0,
                       stm_go_in_eights(n, x) ? square_pieces_kernel<R, 4> : square_pieces_kernel<R, 1>, n,
                       (const R *)x, pieces));
    STM_TRY(stm_launch(stream, 1, STM_BLOCK, 0, add_up_kernel, n_pieces, (const double *)pieces, total));
    return stm_cuda_read(stream, host_sum, total, sizeof *total);
}

#define INSTANCES(R)                                                                                                   \
    template stm_status stm_cuda_ops<R>::adamw(stm_stream *, const stm_adamw *);                                       \
    template stm_status stm_cuda_ops<R>::sum_squares(stm_stream *, size_t, const void *, double *)
INSTANCES(float);
INSTANCES(double);

#define ACTIVATION_INSTANCES(R, A)                                                                                     \
    template stm_status stm_cuda_activation_ops<R, A>::bias_backward(stm_stream *, const stm_bias *);                  \
    template stm_status stm_cuda_activation_ops<R, A>::swiglu(stm_stream *, const stm_swiglu *);                       \
    template stm_status stm_cuda_activation_ops<R, A>::swiglu_backward(stm_stream *, const stm_swiglu *)
ACTIVATION_INSTANCES(float, float);
ACTIVATION_INSTANCES(float, __nv_bfloat16);
ACTIVATION_INSTANCES(double, double);
