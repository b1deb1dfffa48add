/* The rotary embedding with its optional norm of heads. A warp takes a head of a row. */
#include "cuda/device.cuh"

/* The heads of Q, or of K, of a call, and V's beside K's. Head h of row r is vector r * n_heads + h of the counts
 * below. */
template <class R> struct heads {
    size_t n_rows, n_heads, head_dim, in_stride;
    size_t row_stride, head_stride; /* of the rotated side: [rows, heads, dim] or [heads, rows, dim] */
    const int32_t *positions;
    const R *cosine, *sine, *norm; /* norm NULL: none */
    double eps;

    __device__ size_t n() const
    {
        return n_rows * n_heads;
    }
    __device__ size_t in(size_t vector) const
    {
        return vector / n_heads * in_stride + vector % n_heads * head_dim;
    }
    __device__ size_t out(size_t vector) const
    {
        return vector / n_heads * row_stride + vector % n_heads * head_stride;
    }
    __device__ size_t angle(size_t vector) const
    {
        return (size_t)positions[vector / n_heads] * (head_dim / 2);
    }
};

/* dy turned back by the row's angle: the gradient of what was rotated, element i. */
template <class R> static __device__ R turned_back(const R *dy, const R *c, const R *s, size_t half, size_t i)
{
    return i < half ? dy[i] * c[i] + dy[i + half] * s[i] : dy[i] * c[i - half] - dy[i - half] * s[i - half];
}

template <class R> static __device__ R inverse_rms_of(const R *x, size_t width, double eps)
{
    R sum = 0;
    for (size_t i = threadIdx.x % STM_WARP; i < width; i += STM_WARP)
        sum += x[i] * x[i];
    return (R)(1 / sqrt((double)stm_warp_sum(sum) / (double)width + eps));
}

/* x -> y; values (V's, NULL: none) are copied in the same way. */
template <class R> static __global__ void rotate_kernel(heads<R> h, const R *x, R *y, const R *values_in, R *values_out)
{
    const size_t vector = (blockIdx.x * (size_t)blockDim.x + threadIdx.x) / STM_WARP, half = h.head_dim / 2;
    if (vector >= h.n())
        return;
    const size_t in = h.in(vector), out = h.out(vector), angle = h.angle(vector);
    const R inverse = h.norm ? inverse_rms_of(x + in, h.head_dim, h.eps) : R(1);
    for (size_t i = threadIdx.x % STM_WARP; i < half; i += STM_WARP) {
        const R x0 = h.norm ? x[in + i] * inverse * h.norm[i] : x[in + i];
        const R x1 = h.norm ? x[in + i + half] * inverse * h.norm[i + half] : x[in + i + half];
        const R c = h.cosine[angle + i], s = h.sine[angle + i];
        y[out + i] = x0 * c - x1 * s;
        y[out + i + half] = x1 * c + x0 * s;
    }
    for (size_t i = threadIdx.x % STM_WARP; values_in && i < h.head_dim; i += STM_WARP)
        values_out[out + i] = values_in[in + i];
}

/* dy -> dx; x is read where there is a norm, and inverse [n] written. */
template <class R>
static __global__ void rotate_backward_kernel(heads<R> h, const R *dy, const R *x, R *dx, const R *dvalues_in,
                                              R *dvalues_out, R *inverse)
{
    const size_t vector = (blockIdx.x * (size_t)blockDim.x + threadIdx.x) / STM_WARP, half = h.head_dim / 2;
    const size_t lane = threadIdx.x % STM_WARP;
    if (vector >= h.n())
        return;
    const size_t in = h.in(vector), out = h.out(vector), angle = h.angle(vector);
    const R *c = h.cosine + angle, *s = h.sine + angle;
    for (size_t i = lane; dvalues_in && i < h.head_dim; i += STM_WARP)
        dvalues_out[in + i] = dvalues_in[out + i];
    if (!h.norm) {
        for (size_t i = lane; i < h.head_dim; i += STM_WARP)
            dx[in + i] = turned_back(dy + out, c, s, half, i);
        return;
    }
    const R rms = inverse_rms_of(x + in, h.head_dim, h.eps);
    R sum = 0;
    for (size_t i = lane; i < h.head_dim; i += STM_WARP)
        sum += x[in + i] * h.norm[i] * turned_back(dy + out, c, s, half, i);
    const R slope = stm_warp_sum(sum) / (R)h.head_dim * rms * rms;
    for (size_t i = lane; i < h.head_dim; i += STM_WARP)
        dx[in + i] = rms * (h.norm[i] * turned_back(dy + out, c, s, half, i) - x[in + i] * slope);
    if (lane == 0)
        inverse[vector] = rms;
}

template <class R> struct head_norm_terms {
    heads<R> h;
    const R *dy, *x, *inverse;

    __device__ R operator()(size_t vector, size_t i) const
    {
        const size_t angle = h.angle(vector);
        return turned_back(dy + h.out(vector), h.cosine + angle, h.sine + angle, h.head_dim / 2, i) *
               x[h.in(vector) + i] * inverse[vector];
    }
};

template <class R> static heads<R> q_heads(const stm_rotary *a)
{
    return {a->n_q_rows, a->n_heads,     a->head_dim,          a->in_stride_q,     a->n_heads * a->head_dim,
            a->head_dim, a->q_positions, (const R *)a->cosine, (const R *)a->sine, (const R *)a->q_norm,
            a->norm_eps};
}

template <class R> static heads<R> k_heads(const stm_rotary *a)
{
    return {a->n_kv_rows,         a->n_kv_heads,        a->head_dim,
            a->in_stride_kv,      a->head_dim,          a->kv_stride * a->head_dim,
            a->kv_positions,      (const R *)a->cosine, (const R *)a->sine,
            (const R *)a->k_norm, a->norm_eps};
}

template <class R> static unsigned blocks_of(const heads<R> &h)
{
    return (unsigned)stm_pieces_of(h.n_rows * h.n_heads, STM_BLOCK / STM_WARP);
}

template <class R> stm_status stm_cuda_ops<R>::rotary(stm_stream *stream, const stm_rotary *a)
{
    const heads<R> q = q_heads<R>(a), k = k_heads<R>(a);
    STM_TRY(stm_launch(stream, blocks_of(q), STM_BLOCK, 0, rotate_kernel<R>, q, (const R *)a->q_in, (R *)a->q,
                       (const R *)NULL, (R *)NULL));
    return stm_launch(stream, blocks_of(k), STM_BLOCK, 0, rotate_kernel<R>, k, (const R *)a->k_in, (R *)a->k,
                      (const R *)a->v_in, (R *)a->v);
}

/* Of Q's heads or K's. scratch: inverse [n], and the pieces of a sum. */
template <class R>
static stm_status backward_of(stm_stream *stream, const heads<R> &h, const R *dy, const R *x, R *dx, const R *dv,
                              R *dv_in, R *dnorm)
{
    const size_t n = h.n_rows * h.n_heads;
    R *inverse = NULL;
    if (h.norm)
        STM_TRY(stm_cuda_scratch(stream, n * sizeof(R) + stm_sum_rows_bytes<R>(n, h.head_dim), &inverse));
    STM_TRY(
        stm_launch(stream, blocks_of(h), STM_BLOCK, 0, rotate_backward_kernel<R>, h, dy, x, dx, dv, dv_in, inverse));
    if (!h.norm || n == 0)
        return STM_OK;
    return stm_sum_rows(stream, n, h.head_dim, head_norm_terms<R>{h, dy, x, inverse}, inverse + n, dnorm);
}

template <class R> stm_status stm_cuda_ops<R>::rotary_backward(stm_stream *stream, const stm_rotary *a)
{
    STM_TRY(backward_of(stream, q_heads<R>(a), (const R *)a->dq, (const R *)a->q_in, (R *)a->dq_in, (const R *)NULL,
                        (R *)NULL, (R *)a->dq_norm));
    return backward_of(stream, k_heads<R>(a), (const R *)a->dk, (const R *)a->k_in, (R *)a->dk_in, (const R *)a->dv,
                       (R *)a->dv_in, (R *)a->dk_norm);
}

#define INSTANCES(R)                                                                                                   \
    template stm_status stm_cuda_ops<R>::rotary(stm_stream *, const stm_rotary *);                                     \
    template stm_status stm_cuda_ops<R>::rotary_backward(stm_stream *, const stm_rotary *)
INSTANCES(float);
INSTANCES(double);
