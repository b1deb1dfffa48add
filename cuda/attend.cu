/* Attention, in the plain form that serves every number, head size and shape: a warp takes a query, or a key, and meets
 * its partners 32 at a time. Sums run over parts, keys and rows in order, so equal calls give equal bits. */
#include "cuda/attend.cuh"

enum { MOST_HEAD_DIM = 256, LANE_WIDTH = MOST_HEAD_DIM / STM_WARP };

/* The numbers [head_dim] of a vector that fall to a lane: element j * 32 + lane. */
template <class R> struct lane_vector {
    R x[LANE_WIDTH];

    __device__ void zero()
    {
        for (int j = 0; j < LANE_WIDTH; j++)
            x[j] = 0;
    }
    __device__ void scale(R factor)
    {
        for (int j = 0; j < LANE_WIDTH; j++)
            x[j] *= factor;
    }
    template <class A> __device__ void add(R factor, const A *from, size_t n)
    {
        const unsigned lane = threadIdx.x % STM_WARP;
        for (int j = 0; j < LANE_WIDTH; j++)
            if (j * STM_WARP + lane < n)
                x[j] += factor * stm_real(from[j * STM_WARP + lane]);
    }
    __device__ void add_to(R *to, size_t n) const
    {
        const unsigned lane = threadIdx.x % STM_WARP;
        for (int j = 0; j < LANE_WIDTH; j++)
            if (j * STM_WARP + lane < n)
                to[j * STM_WARP + lane] += x[j];
    }
    template <class A> __device__ void write(R factor, A *to, size_t n) const
    {
        const unsigned lane = threadIdx.x % STM_WARP;
        for (int j = 0; j < LANE_WIDTH; j++)
            if (j * STM_WARP + lane < n)
                stm_put(factor * x[j], &to[j * STM_WARP + lane]);
    }
};

template <class R, class A> static __device__ R dot(const A *x, const A *y, size_t n)
{
    R sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += stm_real(x[i]) * stm_real(y[i]);
    return sum;
}

static __device__ size_t kv_head_of(const stm_attend &a, size_t head)
{
    return head / (a.n_heads / a.n_kv_heads);
}

/* The warp's number among all, and whether it has work. */
static __device__ size_t warp_number()
{
    return (blockIdx.x * (size_t)blockDim.x + threadIdx.x) / STM_WARP;
}

/* A warp takes head h of row r, the vector of that number: meet(k, v, n) for n keys that the row sees, 32 at most, and
 * their values, each [n, head_dim]. */
template <class A, class Meet>
static __device__ __forceinline__ void meet_keys(const stm_attend &a, const stm_attend_part *parts, size_t vector,
                                                 Meet meet)
{
    const size_t r = vector / a.n_heads, kv_head = kv_head_of(a, vector % a.n_heads), d = a.head_dim;
    for (size_t p = 0; p < a.n_parts; p++) {
        const size_t n_keys = stm_keys_seen(parts[p], r);
        const A *k = (const A *)parts[p].k + kv_head * parts[p].kv_stride * d;
        const A *v = (const A *)parts[p].v + kv_head * parts[p].kv_stride * d;
        for (size_t first = 0; first < n_keys; first += STM_WARP)
            meet(k + first * d, v + first * d, STM_MIN((size_t)STM_WARP, n_keys - first));
    }
}

/* Running maximum and sum as in Milakov and Gimelshein 2018, arXiv 1805.02867. */
template <class R, class A> static __global__ void attend_kernel(stm_attend a, const stm_attend_part *parts)
{
    const size_t vector = warp_number(), d = a.head_dim;
    const unsigned lane = threadIdx.x % STM_WARP;
    if (vector >= a.n_rows * a.n_heads)
        return;
    const A *q = (const A *)a.q + vector * d;
    const R scale = (R)a.scale;
    R m = -(R)INFINITY, sum = 0;
    lane_vector<R> o;
    o.zero();
    meet_keys<A>(a, parts, vector, [&](const A *k, const A *v, size_t n) {
        const R s = lane < n ? scale * dot<R>(q, k + lane * d, d) : -(R)INFINITY;
        const R greater = stm_warp_max(s > m ? s : m), shrink = exp(m - greater), e = exp(s - greater);
        sum = sum * shrink + stm_warp_sum(e);
        o.scale(shrink);
        for (size_t j = 0; j < n; j++)
            o.add(__shfl_sync(STM_ALL_LANES, e, (int)j), v + j * d, d);
        m = greater;
    });
    o.write(1 / sum, (A *)a.o + vector * d, d);
    if (lane == 0)
        ((R *)a.lse)[vector] = m + log(sum);
}

/* p = e^(s - lse), ds = p (d_o v - d_o o) scale: Dao 2022, arXiv 2205.14135, appendix B. delta [n_rows, n_heads]: d_o o
 * of each. */
template <class R, class A>
static __global__ void query_gradient_kernel(stm_attend a, const stm_attend_part *parts, R *delta)
{
    const size_t vector = warp_number(), d = a.head_dim;
    const unsigned lane = threadIdx.x % STM_WARP;
    if (vector >= a.n_rows * a.n_heads)
        return;
    const A *q = (const A *)a.q + vector * d, *d_o = (const A *)a.d_o + vector * d, *o = (const A *)a.o + vector * d;
    const R lse = ((const R *)a.lse)[vector], scale = (R)a.scale;
    R own = 0;
    for (size_t i = lane; i < d; i += STM_WARP)
        own += stm_real(d_o[i]) * stm_real(o[i]);
    own = stm_warp_sum(own);
    if (lane == 0)
        delta[vector] = own;
    lane_vector<R> dq;
    dq.zero();
    meet_keys<A>(a, parts, vector, [&](const A *k, const A *v, size_t n) {
        R ds = 0;
        if (lane < n) {
            const R probability = exp(scale * dot<R>(q, k + lane * d, d) - lse);
            ds = probability * (dot<R>(d_o, v + lane * d, d) - own) * scale;
        }
        for (size_t j = 0; j < n; j++)
            dq.add(__shfl_sync(STM_ALL_LANES, ds, (int)j), k + j * d, d);
    });
    dq.write(1, (A *)a.dq + vector * d, d);
}

/* Of parts of one wave, which share no accumulator: blocks' y counts parts, a warp takes key i of KV head h and meets
 * the rows and query heads that see it. */
template <class R, class A>
static __global__ void key_gradient_kernel(stm_attend a, const stm_attend_part *parts, const R *delta)
{
    const stm_attend_part part = parts[blockIdx.y];
    const size_t vector = warp_number(), d = a.head_dim, share = a.n_heads / a.n_kv_heads;
    const unsigned lane = threadIdx.x % STM_WARP;
    if (vector >= part.n_keys * a.n_kv_heads)
        return;
    const size_t key = vector / a.n_kv_heads, kv_head = vector % a.n_kv_heads;
    const A *k = (const A *)part.k + (kv_head * part.kv_stride + key) * d;
    const A *v = (const A *)part.v + (kv_head * part.kv_stride + key) * d;
    const R scale = (R)a.scale;
    const size_t unseen = part.causal && key > part.diagonal ? key - part.diagonal : 0; /* rows before the first */
    const size_t n = part.n_rows > unseen ? (part.n_rows - unseen) * share : 0;
    lane_vector<R> dk, dv;
    dk.zero();
    dv.zero();
    for (size_t first = 0; first < n; first += STM_WARP) {
        const size_t count = STM_MIN((size_t)STM_WARP, n - first), i = first + STM_MIN((size_t)lane, count - 1);
        const size_t own = (part.first_row + unseen + i / share) * a.n_heads + kv_head * share + i % share;
        const A *q = (const A *)a.q + own * d, *d_o = (const A *)a.d_o + own * d;
        const R probability = lane < count ? exp(scale * dot<R>(q, k, d) - ((const R *)a.lse)[own]) : R(0);
        const R ds = probability * (dot<R>(d_o, v, d) - delta[own]) * scale;
        for (size_t j = 0; j < count; j++) {
            const size_t other = (size_t)__shfl_sync(STM_ALL_LANES, (unsigned long long)own, (int)j);
            dv.add(__shfl_sync(STM_ALL_LANES, probability, (int)j), (const A *)a.d_o + other * d, d);
            dk.add(__shfl_sync(STM_ALL_LANES, ds, (int)j), (const A *)a.q + other * d, d);
        }
    }
    dk.add_to((R *)part.dk + (kv_head * part.dkv_stride + key) * d, d);
    dv.add_to((R *)part.dv + (kv_head * part.dkv_stride + key) * d, d);
}

static unsigned blocks_of_rows(const stm_attend *a)
{
    return (unsigned)stm_pieces_of(a->n_rows * a->n_heads, STM_BLOCK / STM_WARP);
}

template <class R, class A> stm_status stm_cuda_activation_ops<R, A>::attend(stm_stream *stream, const stm_attend *a)
{
    const stm_attend_part *parts;
    void *none;
    STM_TRY(stm_attend_send_parts(stream, a, 0, &parts, &none));
    return stm_launch(stream, blocks_of_rows(a), STM_BLOCK, 0, attend_kernel<R, A>, *a, parts);
}

stm_status stm_attend_send_parts(stm_stream *stream, const stm_attend *a, size_t besides, const stm_attend_part **parts,
                                 void **after)
{
    const size_t bytes = a->device_parts ? 0 : a->n_parts * sizeof **parts, padded = (bytes + 63) / 64 * 64;
    char *room;
    if (a->head_dim > MOST_HEAD_DIM)
        return stm_fail(STM_ERR_DEVICE, "cuda: heads of %zu numbers; expected at most %d", a->head_dim, MOST_HEAD_DIM);
    STM_TRY(stm_cuda_scratch(stream, padded + besides, &room));
    *parts = a->device_parts ? a->device_parts : (const stm_attend_part *)room;
    *after = room + padded;
    return stm_cuda_write(stream, room, a->parts, bytes);
}

/* True if two parts may write to the same number. */
static bool share_accumulator(const stm_attend *a, size_t real_bytes, const stm_attend_part *x,
                              const stm_attend_part *y)
{
    const char *x_begin = (const char *)x->dk, *y_begin = (const char *)y->dk;
    const size_t row = a->head_dim * real_bytes;
    const char *x_end = x_begin + ((a->n_kv_heads - 1) * x->dkv_stride + x->n_keys) * row;
    const char *y_end = y_begin + ((a->n_kv_heads - 1) * y->dkv_stride + y->n_keys) * row;
    return x_begin < y_end && y_begin < x_end;
}

size_t stm_attend_end_of_wave(const stm_attend *a, size_t real_bytes, size_t first)
{
    enum { MOST = 1024 }; /* pairs are compared */
    for (size_t end = first + 1; end < a->n_parts; end++) {
        if (end - first == MOST)
            return end;
        for (size_t p = first; p < end; p++)
            if (share_accumulator(a, real_bytes, &a->parts[p], &a->parts[end]))
                return end;
    }
    return a->n_parts;
}

template <class R, class A>
stm_status stm_cuda_activation_ops<R, A>::attend_backward(stm_stream *stream, const stm_attend *a)
{
    const stm_attend_part *parts;
    void *room = NULL;
    STM_TRY(stm_attend_send_parts(stream, a, a->n_rows * a->n_heads * sizeof(R), &parts, &room));
    R *delta = (R *)room;
    STM_TRY(stm_launch(stream, blocks_of_rows(a), STM_BLOCK, 0, query_gradient_kernel<R, A>, *a, parts, delta));
    for (size_t first = 0, end; first < a->n_parts; first = end) {
        size_t most_keys = 0;
        end = stm_attend_end_of_wave(a, sizeof(R), first);
        for (size_t p = first; p < end; p++)
            most_keys = STM_MAX(most_keys, a->parts[p].n_keys);
        const unsigned blocks = (unsigned)stm_pieces_of(most_keys * a->n_kv_heads, STM_BLOCK / STM_WARP);
        STM_TRY(stm_launch(stream, dim3(blocks, (unsigned)(end - first)), STM_BLOCK, 0, key_gradient_kernel<R, A>, *a,
                           parts + first, (const R *)delta));
    }
    return STM_OK;
}

#define ACTIVATION_INSTANCES(R, A)                                                                                     \
    template stm_status stm_cuda_activation_ops<R, A>::attend(stm_stream *, const stm_attend *);                       \
    template stm_status stm_cuda_activation_ops<R, A>::attend_backward(stm_stream *, const stm_attend *)
ACTIVATION_INSTANCES(float, float);
ACTIVATION_INSTANCES(float, __nv_bfloat16);
ACTIVATION_INSTANCES(double, double);
