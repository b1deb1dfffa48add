/* The rotary embedding with its optional norm of heads. A warp takes a head of a row. */
#include "cuda/sums.cuh"

/* The heads of Q, or of K, of a call, and V's beside K's. Head h of row r is vector r * n_heads + h of the counts
 * below. */
template <class R> struct heads {
    size_t n_rows, n_heads, head_dim, in_stride;
    size_t row_stride, head_stride; /* of the rotated side: [rows, heads, dim] or [heads, rows, dim] */
    const int32_t *positions;
    const R *cosine, *sine, *norm, *bias, *values_bias; /* norm, bias NULL: none */
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
    /* Of one of the biases, the head's; NULL for NULL. */
    __device__ const R *of_head(const R *biases, size_t vector) const
    {
        return biases ? biases + vector % n_heads * head_dim : NULL;
    }
    __device__ size_t angle(size_t vector) const
    {
        return (size_t)positions[vector / n_heads] * (head_dim / 2);
    }
};

/* x += bias, N neighbours; NULL: nothing. */
template <int N, class R> static __device__ __forceinline__ void add_bias(const R *bias, R x[N])
{
    R more[N];
    if (!bias)
        return;
    stm_load<N>(bias, more);
    for (int j = 0; j < N; j++)
        x[j] += more[j];
}

/* dy turned back by the row's angle: the gradient of what was rotated, elements i .. i + N - 1, of one half. */
template <int N, class R, class D>
static __device__ __forceinline__ void turn_back(const D *dy, const R *cosine, const R *sine, size_t half, size_t i,
                                                 R x[N])
{
    const size_t angle = i < half ? i : i - half, other = i < half ? i + half : i - half;
    const R direction = i < half ? R(1) : R(-1);
    R y[N], c[N], s[N];
    stm_load<N>(dy + i, x);
    stm_load<N>(dy + other, y);
    stm_load<N>(cosine + angle, c);
    stm_load<N>(sine + angle, s);
    for (int j = 0; j < N; j++)
        x[j] = x[j] * c[j] + direction * y[j] * s[j];
}

/* N neighbours of the first half of a head, and those of the second that turn with them. */
template <class R, int N> struct pairs {
    R low[N], high[N];

    template <class T> __device__ __forceinline__ void load(const T *x, size_t half, size_t i)
    {
        stm_load<N>(x + i, low);
        stm_load<N>(x + i + half, high);
    }
    /* And the head's bias, or NULL, to them. */
    template <class T> __device__ __forceinline__ void load(const T *x, const R *bias, size_t half, size_t i)
    {
        load(x, half, i);
        add_bias<N>(bias ? bias + i : NULL, low);
        add_bias<N>(bias ? bias + i + half : NULL, high);
    }
    template <class T> __device__ __forceinline__ void store(T *x, size_t half, size_t i) const
    {
        stm_store<N>(low, x + i);
        stm_store<N>(high, x + i + half);
    }
    __device__ __forceinline__ void multiply(R factor, const pairs &other)
    {
        for (int j = 0; j < N; j++) {
            low[j] *= factor * other.low[j];
            high[j] *= factor * other.high[j];
        }
    }
    __device__ __forceinline__ R dot(const pairs &other) const
    {
        R sum = 0;
        for (int j = 0; j < N; j++)
            sum += low[j] * other.low[j] + high[j] * other.high[j];
        return sum;
    }
    /* direction: 1, or -1 for back. */
    __device__ __forceinline__ void turn(const R *cosine, const R *sine, R direction)
    {
        R c[N], s[N];
        stm_load<N>(cosine, c);
        stm_load<N>(sine, s);
        for (int j = 0; j < N; j++) {
            const R x = low[j], y = high[j];
            s[j] *= direction;
            low[j] = x * c[j] - y * s[j];
            high[j] = y * c[j] + x * s[j];
        }
    }
};

/* The lane's pieces of a head: N of each half at a time. */
#define EACH_PAIR(i, half, N)                                                                                          \
    size_t i = threadIdx.x % STM_WARP * (N);                                                                           \
    i < (half);                                                                                                        \
    i += STM_WARP * (N)

template <int N, class R, class A>
static __device__ R inverse_rms_of(const A *x, const R *bias, size_t width, double eps)
{
    pairs<R, N> own;
    R sum = 0;
    for (EACH_PAIR(i, width / 2, N)) {
        own.load(x, bias, width / 2, i);
        sum += own.dot(own);
    }
    return (R)(1 / sqrt((double)stm_warp_sum(sum) / (double)width + eps));
}

/* from + bias -> to, a head. */
template <int N, class R, class From, class To>
static __device__ void copy_head(const From *from, const R *bias, size_t head_dim, To *to)
{
    pairs<R, N> own;
    for (EACH_PAIR(i, head_dim / 2, N)) {
        own.load(from, bias, head_dim / 2, i);
        own.store(to, head_dim / 2, i);
    }
}

/* x -> y; values (V's, NULL: none) are copied in the same way. N: numbers that a lane takes at a time, here and below.
 */
template <class R, class A, int N>
static __global__ void rotate_kernel(heads<R> h, const A *x, A *y, const A *values_in, A *values_out)
{
    const size_t vector = (blockIdx.x * (size_t)blockDim.x + threadIdx.x) / STM_WARP, half = h.head_dim / 2;
    if (vector >= h.n())
        return;
    const size_t in = h.in(vector), out = h.out(vector), angle = h.angle(vector);
    const R *bias = h.of_head(h.bias, vector);
    const R inverse = h.norm ? inverse_rms_of<N>(x + in, bias, h.head_dim, h.eps) : R(1);
    pairs<R, N> own, weights;
    for (EACH_PAIR(i, half, N)) {
        own.load(x + in, bias, half, i);
        if (h.norm) {
            weights.load(h.norm, half, i);
            own.multiply(inverse, weights);
        }
        own.turn(h.cosine + angle + i, h.sine + angle + i, R(1));
        own.store(y + out, half, i);
    }
    if (values_in)
        copy_head<N>(values_in + in, h.of_head(h.values_bias, vector), h.head_dim, values_out + out);
}

/* dy -> dx, of Q activations, of K and V sums in reals (D); x is read where there is a norm, and inverse [n] written.
 */
template <class R, class A, class D, int N>
static __global__ void rotate_backward_kernel(heads<R> h, const D *dy, const A *x, A *dx, const D *dvalues_in,
                                              A *dvalues_out, R *inverse)
{
    const size_t vector = (blockIdx.x * (size_t)blockDim.x + threadIdx.x) / STM_WARP, half = h.head_dim / 2;
    if (vector >= h.n())
        return;
    const size_t in = h.in(vector), out = h.out(vector), angle = h.angle(vector);
    const R *c = h.cosine + angle, *s = h.sine + angle;
    const R *bias = h.of_head(h.bias, vector);
    const R rms = h.norm ? inverse_rms_of<N>(x + in, bias, h.head_dim, h.eps) : R(1);
    pairs<R, N> d, own, weights;
    R sum = 0;
    for (EACH_PAIR(i, half, N)) {
        d.load(dy + out, half, i);
        d.turn(c + i, s + i, R(-1));
        if (!h.norm) {
            d.store(dx + in, half, i);
            continue;
        }
        own.load(x + in, bias, half, i);
        weights.load(h.norm, half, i);
        d.multiply(R(1), weights);
        sum += d.dot(own);
    }
    if (h.norm) {
        const R slope = stm_warp_sum(sum) / (R)h.head_dim * rms * rms;
        for (EACH_PAIR(i, half, N)) {
            d.load(dy + out, half, i);
            d.turn(c + i, s + i, R(-1));
            own.load(x + in, bias, half, i);
            weights.load(h.norm, half, i);
            for (int j = 0; j < N; j++) {
                d.low[j] = rms * (weights.low[j] * d.low[j] - own.low[j] * slope);
                d.high[j] = rms * (weights.high[j] * d.high[j] - own.high[j] * slope);
            }
            d.store(dx + in, half, i);
        }
        if (threadIdx.x % STM_WARP == 0)
            inverse[vector] = rms;
    }
    if (dvalues_in)
        copy_head<N>(dvalues_in + out, (const R *)NULL, h.head_dim, dvalues_out + in);
}

template <class R, class A, class D> struct head_norm_terms {
    heads<R> h;
    const D *dy;
    const A *x;
    const R *inverse;

    template <int N> __device__ __forceinline__ void get(size_t vector, size_t i, R term[N]) const
    {
        const size_t angle = h.angle(vector);
        const R *bias = h.of_head(h.bias, vector);
        R own[N];
        stm_load<N>(x + h.in(vector) + i, own);
        add_bias<N>(bias ? bias + i : NULL, own);
        turn_back<N>(dy + h.out(vector), h.cosine + angle, h.sine + angle, h.head_dim / 2, i, term);
        for (int j = 0; j < N; j++)
            term[j] *= own[j] * inverse[vector];
    }
};

template <class R> static heads<R> q_heads(const stm_rotary *a)
{
    return {.n_rows = a->n_q_rows,
            .n_heads = a->n_heads,
            .head_dim = a->head_dim,
            .in_stride = a->in_stride_q,
            .row_stride = a->n_heads * a->head_dim,
            .head_stride = a->head_dim,
            .positions = a->q_positions,
            .cosine = (const R *)a->cosine,
            .sine = (const R *)a->sine,
            .norm = (const R *)a->q_norm,
            .bias = (const R *)a->q_bias,
            .values_bias = NULL,
            .eps = a->norm_eps};
}

template <class R> static heads<R> k_heads(const stm_rotary *a)
{
    return {.n_rows = a->n_kv_rows,
            .n_heads = a->n_kv_heads,
            .head_dim = a->head_dim,
            .in_stride = a->in_stride_kv,
            .row_stride = a->head_dim,
            .head_stride = a->kv_stride * a->head_dim,
            .positions = a->kv_positions,
            .cosine = (const R *)a->cosine,
            .sine = (const R *)a->sine,
            .norm = (const R *)a->k_norm,
            .bias = (const R *)a->k_bias,
            .values_bias = (const R *)a->v_bias,
            .eps = a->norm_eps};
}

template <class R> static unsigned blocks_of(const heads<R> &h)
{
    return (unsigned)stm_pieces_of(h.n_rows * h.n_heads, STM_BLOCK / STM_WARP);
}

/* Whether these arrays, and the tables, may be read two numbers at a time. */
template <class R, class... T> static bool goes_in_pairs(const heads<R> &h, const T *...arrays)
{
    return stm_go_in_eights(h.head_dim | h.in_stride, h.cosine, h.sine, h.norm, h.bias, h.values_bias) &&
           stm_go_in_eights(h.head_dim, arrays...);
}

template <class R, class A>
static stm_status rotate(stm_stream *stream, const heads<R> &h, const void *x, void *y, const void *values_in,
                         void *values_out)
{
    const bool wide = goes_in_pairs(h, x, y, values_in, values_out);
    return stm_launch(stream, blocks_of(h), STM_BLOCK, 0, wide ? rotate_kernel<R, A, 2> : rotate_kernel<R, A, 1>, h,
                      (const A *)x, (A *)y, (const A *)values_in, (A *)values_out);
}

template <class R, class A> stm_status stm_cuda_activation_ops<R, A>::rotary(stm_stream *stream, const stm_rotary *a)
{
    STM_TRY((rotate<R, A>(stream, q_heads<R>(a), a->q_in, a->q, NULL, NULL)));
    return rotate<R, A>(stream, k_heads<R>(a), a->k_in, a->k, a->v_in, a->v);
}

/* Of Q's heads or K's. scratch: inverse [n], and the pieces of a sum. */
template <class R, class A, class D>
static stm_status backward_of(stm_stream *stream, const heads<R> &h, const void *dy, const void *x, void *dx,
                              const void *dv, void *dv_in, void *dnorm)
{
    const size_t n = h.n_rows * h.n_heads;
    const bool wide = goes_in_pairs(h, dy, x, dx, dv, dv_in);
    R *inverse = NULL;
    if (h.norm)
        STM_TRY(stm_cuda_scratch(stream, n * sizeof(R) + stm_sum_rows_bytes<R>(n, h.head_dim), &inverse));
    STM_TRY(stm_launch(stream, blocks_of(h), STM_BLOCK, 0,
                       wide ? rotate_backward_kernel<R, A, D, 2> : rotate_backward_kernel<R, A, D, 1>, h, (const D *)dy,
                       (const A *)x, (A *)dx, (const D *)dv, (A *)dv_in, inverse));
    if (!h.norm || n == 0)
        return STM_OK;
    const head_norm_terms<R, A, D> terms = {h, (const D *)dy, (const A *)x, inverse};
    return wide ? stm_sum_rows<4>(stream, n, h.head_dim, terms, inverse + n, (R *)dnorm)
                : stm_sum_rows<1>(stream, n, h.head_dim, terms, inverse + n, (R *)dnorm);
}

template <class R, class A>
stm_status stm_cuda_activation_ops<R, A>::rotary_backward(stm_stream *stream, const stm_rotary *a)
{
    STM_TRY((backward_of<R, A, A>(stream, q_heads<R>(a), a->dq, a->q_in, a->dq_in, NULL, NULL, a->dq_norm)));
    return backward_of<R, A, R>(stream, k_heads<R>(a), a->dk, a->k_in, a->dk_in, a->dv, a->dv_in, a->dk_norm);
}

#define ACTIVATION_INSTANCES(R, A)                                                                                     \
    template stm_status stm_cuda_activation_ops<R, A>::rotary(stm_stream *, const stm_rotary *);                       \
    template stm_status stm_cuda_activation_ops<R, A>::rotary_backward(stm_stream *, const stm_rotary *)
ACTIVATION_INSTANCES(float, float);
ACTIVATION_INSTANCES(float, __nv_bfloat16);
ACTIVATION_INSTANCES(double, double);
