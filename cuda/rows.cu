/* Operations that move or add rows. */
#include "cuda/device.cuh"

/* N: numbers that a thread takes at a time, here and below. */
template <class R, int N> static __global__ void add_kernel(size_t n, const R *x, R *y)
{
    R sum[N], more[N];
    for (STM_EACH_ELEMENT(piece, n / N)) {
        stm_load<N>(y + piece * N, sum);
        stm_load<N>(x + piece * N, more);
        for (int j = 0; j < N; j++)
            sum[j] += more[j];
        stm_store<N>(sum, y + piece * N);
    }
}

template <class R, class A, int N> static __global__ void to_activations_kernel(size_t n, const R *x, A *y)
{
    R some[N];
    for (STM_EACH_ELEMENT(piece, n / N)) {
        stm_load<N>(x + piece * N, some);
        stm_store<N>(some, y + piece * N);
    }
}

/* Blocks' x counts rows, their threads take the columns. */
template <class T> static __global__ void gather_kernel(size_t width, const int32_t *rows, const T *x, T *y)
{
    const T *from = x + (size_t)rows[blockIdx.x] * width;
    for (size_t i = threadIdx.x; i < width; i += blockDim.x)
        y[blockIdx.x * width + i] = from[i];
}

template <class R> static __global__ void scatter_add_kernel(size_t width, const int32_t *rows, const R *y, R *x)
{
    R *to = x + (size_t)rows[blockIdx.x] * width;
    for (size_t i = threadIdx.x; i < width; i += blockDim.x)
        to[i] += y[blockIdx.x * width + i];
}

/* Finds the rows of [first, end) that have the id: *n of them, in order, in found [STM_BLOCK]; end - first is at most
 * STM_BLOCK. Called by the whole block. */
static __device__ void find_rows(const int32_t *ids, int32_t id, size_t first, size_t end, size_t *found, unsigned *n)
{
    __shared__ unsigned of_warp[STM_BLOCK / STM_WARP];
    const unsigned lane = threadIdx.x % STM_WARP, warp = threadIdx.x / STM_WARP;
    const size_t row = first + threadIdx.x;
    const bool has = row < end && ids[row] == id;
    const unsigned lanes = __ballot_sync(STM_ALL_LANES, has);
    __syncthreads(); /* the last rows have been read */
    if (lane == 0)
        of_warp[warp] = lanes;
    __syncthreads();
    unsigned before = 0, all = 0;
    for (unsigned w = 0; w < STM_BLOCK / STM_WARP; w++) {
        before += w < warp ? (unsigned)__popc(of_warp[w]) : 0;
        all += (unsigned)__popc(of_warp[w]);
    }
    if (has)
        found[before + (unsigned)__popc(lanes & ((1u << lane) - 1))] = row;
    *n = all;
    __syncthreads();
}

/* An id may come many times: the block of its first row adds them all, in order. */
template <class R>
static __global__ void embed_backward_kernel(size_t n_rows, size_t width, const int32_t *ids, const R *dy, R *dtable)
{
    __shared__ size_t found[STM_BLOCK];
    const size_t row = blockIdx.x;
    const int32_t id = ids[row];
    bool is_repeated = false;
    R *to = dtable + (size_t)id * width;
    for (size_t r = threadIdx.x; r < row; r += blockDim.x)
        is_repeated |= ids[r] == id;
    if (__syncthreads_or(is_repeated))
        return;
    for (size_t first = row; first < n_rows; first += STM_BLOCK) {
        unsigned n;
        find_rows(ids, id, first, STM_MIN(n_rows, first + STM_BLOCK), found, &n);
        if (n == 0)
            continue;
        for (size_t i = threadIdx.x; i < width; i += blockDim.x) {
            R sum = to[i];
#pragma unroll 4
            for (unsigned j = 0; j < n; j++)
                sum += dy[found[j] * width + i];
            to[i] = sum;
        }
    }
}

/* Blocks' x counts rows, y KV heads. */
template <class T> static __global__ void append_kernel(stm_append a)
{
    const size_t row = blockIdx.x, head = blockIdx.y;
    const size_t from = (head * a.n_rows + row) * a.head_dim;
    const size_t slot = (size_t)a.slots[row], position = (size_t)a.positions[row];
    const size_t to = ((slot * a.n_kv_heads + head) * a.slot_rows + position) * a.head_dim;
    for (size_t i = threadIdx.x; i < a.head_dim; i += blockDim.x) {
        ((T *)a.k_cache)[to + i] = ((const T *)a.k)[from + i];
        ((T *)a.v_cache)[to + i] = ((const T *)a.v)[from + i];
    }
}

template <class R> stm_status stm_cuda_ops<R>::add(stm_stream *stream, size_t n, const void *x, void *y)
{
    const bool wide = stm_go_in_eights(n, x, y);
    return stm_launch(stream, stm_blocks_for(stream, n / (wide ? 4 : 1)), STM_BLOCK, 0,
                      wide ? add_kernel<R, 4> : add_kernel<R, 1>, n, (const R *)x, (R *)y);
}

template <class R, class A>
stm_status stm_cuda_activation_ops<R, A>::to_activations(stm_stream *stream, size_t n, const void *x, void *y)
{
    const bool wide = stm_go_in_eights(n, x, y);
    return stm_launch(stream, stm_blocks_for(stream, n / (wide ? 8 : 1)), STM_BLOCK, 0,
                      wide ? to_activations_kernel<R, A, 8> : to_activations_kernel<R, A, 1>, n, (const R *)x, (A *)y);
}

template <class R> stm_status stm_cuda_ops<R>::embed_backward(stm_stream *stream, const stm_embed *e)
{
    return stm_launch(stream, (unsigned)e->n_rows, STM_BLOCK, 0, embed_backward_kernel<R>, e->n_rows, e->width, e->ids,
                      (const R *)e->dy, (R *)e->dtable);
}

/* Rows of T, or where they may be moved so, of 16 bytes a time. */
template <class T> static stm_status gather_rows(stm_stream *stream, const stm_rows *g)
{
    const T *x = (const T *)g->x;
    T *y = (T *)g->y;
    if (stm_go_in_eights(g->width, x, y))
        return stm_launch(stream, (unsigned)g->n_rows, STM_BLOCK, 0, gather_kernel<uint4>,
                          g->width * sizeof(T) / sizeof(uint4), g->rows, (const uint4 *)g->x, (uint4 *)g->y);
    return stm_launch(stream, (unsigned)g->n_rows, STM_BLOCK, 0, gather_kernel<T>, g->width, g->rows, x, y);
}

template <class R> stm_status stm_cuda_ops<R>::embed(stm_stream *stream, const stm_embed *e)
{
    const stm_rows rows = {false, e->n_rows, e->width, e->ids, (void *)e->table, e->y};
    return gather_rows<R>(stream, &rows);
}

template <class R, class A> stm_status stm_cuda_activation_ops<R, A>::gather(stm_stream *stream, const stm_rows *g)
{
    return g->activations ? gather_rows<A>(stream, g) : gather_rows<R>(stream, g);
}

template <class R> stm_status stm_cuda_ops<R>::scatter_add(stm_stream *stream, const stm_rows *s)
{
    return stm_launch(stream, (unsigned)s->n_rows, STM_BLOCK, 0, scatter_add_kernel<R>, s->width, s->rows,
                      (const R *)s->y, (R *)s->x);
}

template <class R, class A> stm_status stm_cuda_activation_ops<R, A>::append(stm_stream *stream, const stm_append *a)
{
    const dim3 grid((unsigned)a->n_rows, (unsigned)a->n_kv_heads);
    stm_append wide = *a;
    if (!stm_go_in_eights(a->head_dim, a->k, a->v, a->k_cache, a->v_cache))
        return stm_launch(stream, grid, 64, 0, append_kernel<A>, *a);
    wide.head_dim = a->head_dim * sizeof(A) / sizeof(uint4);
    return stm_launch(stream, grid, STM_WARP, 0, append_kernel<uint4>, wide);
}

#define INSTANCES(R)                                                                                                   \
    template stm_status stm_cuda_ops<R>::add(stm_stream *, size_t, const void *, void *);                              \
    template stm_status stm_cuda_ops<R>::embed(stm_stream *, const stm_embed *);                                       \
    template stm_status stm_cuda_ops<R>::embed_backward(stm_stream *, const stm_embed *);                              \
    template stm_status stm_cuda_ops<R>::scatter_add(stm_stream *, const stm_rows *)
INSTANCES(float);
INSTANCES(double);

#define ACTIVATION_INSTANCES(R, A)                                                                                     \
    template stm_status stm_cuda_activation_ops<R, A>::to_activations(stm_stream *, size_t, const void *, void *);     \
    template stm_status stm_cuda_activation_ops<R, A>::gather(stm_stream *, const stm_rows *);                         \
    template stm_status stm_cuda_activation_ops<R, A>::append(stm_stream *, const stm_append *)
ACTIVATION_INSTANCES(float, float);
ACTIVATION_INSTANCES(float, __nv_bfloat16);
ACTIVATION_INSTANCES(double, double);
