/* Attention on tensor cores: operands in bfloat16, as they lie in memory, sums in float.
 *
 * Of a KV head all rows and all of its query heads form one tall matrix: tall row t is row t / share of the call, query
 * head head * share + t % share. A block takes TILE tall rows (or keys) and meets keys (or tall rows) a tile at a time,
 * through shared memory; a warp has 16 of the block's. Softmax as in FlashAttention 2 (Dao 2023, arXiv 2307.08691): the
 * running maximum and sum of a row stay in registers, P never leaves them. Each sum has one order. D: head_dim, filled
 * up with zeros. */
#include "cuda/tiles.cuh"

enum { MOST_TENSOR_DIM = 128 };

/* Two neighbours of a row of d, the first at an even place. */
static __device__ void put_pair(float low, float high, bf16 *row, size_t at, size_t d)
{
    if (at + 1 < d && d % 2 == 0) {
        *(unsigned *)(row + at) = stm_pack(low, high);
        return;
    }
    if (at < d)
        stm_put(low, row + at);
    if (at + 1 < d)
        stm_put(high, row + at + 1);
}

template <int D>
static __device__ void write_row(const tall &q, size_t t, const float o[D / 8][4], int which, const running &row)
{
    const size_t d = q.a->head_dim;
    const float sum = quad_sum(row.sum);
    if (t >= q.n)
        return;
    bf16 *to = (bf16 *)q.a->o + q.vector(t) * d;
    for (int j = 0; j < D / 8; j++)
        put_pair(o[j][which] / sum, o[j][which + 1] / sum, to, 8 * j + 2 * (threadIdx.x % 4), d);
    if (threadIdx.x % 4 == 0)
        ((float *)q.a->lse)[q.vector(t)] = (row.m + log2f(sum)) * LOG_2;
}

/* Keys of a part that any of tall rows [first, first + n) sees. */
static __device__ size_t keys_of_tile(const tall &q, const stm_attend_part &part, size_t first, size_t n)
{
    const size_t low = q.row(first), high = q.row(STM_MIN(q.n, first + n) - 1);
    if (high < part.first_row || low >= part.first_row + part.n_rows)
        return 0;
    return stm_keys_seen(part, STM_MIN(high, part.first_row + part.n_rows - 1));
}

/* Blocks' x counts tiles of tall rows, y KV heads. */
template <int D>
static __global__ void __launch_bounds__(THREADS) attend_tiles_kernel(stm_attend a, const stm_attend_part *parts)
{
    bf16 *q_tile = (bf16 *)stm_launch_shared(), *k_tile = q_tile + TILE * (D + PAD),
         *v_turned = k_tile + TILE * (D + PAD);
    const tall q = tall_of(a, blockIdx.y);
    const size_t first = (size_t)blockIdx.x * TILE, d = a.head_dim;
    const int own = (int)(threadIdx.x / STM_WARP) * 16;
    const size_t mine[2] = {first + own + threadIdx.x % STM_WARP / 4, first + own + threadIdx.x % STM_WARP / 4 + 8};
    const float scale = (float)a.scale / LOG_2;
    met<D> rows;
    load_tall<D, TILE>(q, (const bf16 *)a.q, first, q_tile, NULL);
    for (size_t p = 0; p < a.n_parts; p++) {
        const stm_attend_part part = parts[p];
        const size_t n_keys = keys_of_tile(q, part, first, TILE), skipped = q.head * part.kv_stride * d;
        const size_t n_seen[2] = {keys_of_row(q, part, mine[0]), keys_of_row(q, part, mine[1])};
        for (size_t key = 0; key < n_keys; key += TILE) {
            __syncthreads(); /* the tiles may still be read */
            load_keys<D>((const bf16 *)part.k + skipped, d, key, n_keys, k_tile, NULL);
            load_keys<D>((const bf16 *)part.v + skipped, d, key, n_keys, NULL, v_turned);
            __syncthreads();
            rows.template meet<TILE / 8, TILE + PAD>(q_tile + own * (D + PAD), k_tile, v_turned, n_seen, key, scale);
        }
    }
    write_row<D>(q, mine[0], rows.o, 0, rows.rows[0]);
    write_row<D>(q, mine[1], rows.o, 2, rows.rows[1]);
}

/* Backward */

/* delta [n_rows, n_heads]: d_o o of each. A warp takes one. */
static __global__ void delta_kernel(stm_attend a, float *delta)
{
    const size_t vector = (blockIdx.x * (size_t)blockDim.x + threadIdx.x) / STM_WARP, d = a.head_dim;
    if (vector >= a.n_rows * a.n_heads)
        return;
    const bf16 *o = (const bf16 *)a.o + vector * d, *d_o = (const bf16 *)a.d_o + vector * d;
    float sum = 0;
    for (size_t i = threadIdx.x % STM_WARP; i < d; i += STM_WARP)
        sum += stm_real(o[i]) * stm_real(d_o[i]);
    sum = stm_warp_sum(sum);
    if (threadIdx.x % STM_WARP == 0)
        delta[vector] = sum;
}

/* Of one row, two scores a tile: s becomes P, dp becomes dS = P (dP - delta) scale. */
static __device__ void differentiate(float s, float dp, bool seen, float scale, float lse, float delta, float *p,
                                     float *ds)
{
    *p = seen ? expf(s * scale - lse) : 0.0f;
    *ds = seen ? *p * (dp - delta) * scale : 0.0f;
}

template <int D>
static __global__ void __launch_bounds__(THREADS)
    query_gradient_tiles_kernel(stm_attend a, const stm_attend_part *parts, const float *delta)
{
    bf16 *q_tile = (bf16 *)stm_launch_shared(), *do_tile = q_tile + TILE * (D + PAD),
         *k_tile = do_tile + TILE * (D + PAD);
    bf16 *v_tile = k_tile + TILE * (D + PAD), *k_turned = v_tile + TILE * (D + PAD);
    const tall q = tall_of(a, blockIdx.y);
    const size_t first = (size_t)blockIdx.x * TILE, d = a.head_dim;
    const int own = (int)(threadIdx.x / STM_WARP) * 16;
    const size_t mine[2] = {first + own + threadIdx.x % STM_WARP / 4, first + own + threadIdx.x % STM_WARP / 4 + 8};
    float dq[D / 8][4] = {}, s[TILE / 8][4], dp[TILE / 8][4], lse[2], own_delta[2];
    for (int r = 0; r < 2; r++) {
        lse[r] = mine[r] < q.n ? ((const float *)a.lse)[q.vector(mine[r])] : 0.0f;
        own_delta[r] = mine[r] < q.n ? delta[q.vector(mine[r])] : 0.0f;
    }
    load_tall<D, TILE>(q, (const bf16 *)a.q, first, q_tile, NULL);
    load_tall<D, TILE>(q, (const bf16 *)a.d_o, first, do_tile, NULL);
    for (size_t p = 0; p < a.n_parts; p++) {
        const stm_attend_part part = parts[p];
        const size_t n_keys = keys_of_tile(q, part, first, TILE), skipped = q.head * part.kv_stride * d;
        const size_t n_seen[2] = {keys_of_row(q, part, mine[0]), keys_of_row(q, part, mine[1])};
        for (size_t key = 0; key < n_keys; key += TILE) {
            __syncthreads();
            load_keys<D>((const bf16 *)part.k + skipped, d, key, part.n_keys, k_tile, k_turned);
            load_keys<D>((const bf16 *)part.v + skipped, d, key, part.n_keys, v_tile, NULL);
            __syncthreads();
            multiply_rows<D, TILE / 8>(q_tile + own * (D + PAD), k_tile, s);
            multiply_rows<D, TILE / 8>(do_tile + own * (D + PAD), v_tile, dp);
            each_of_tile<TILE / 8>([&](int j, int i, size_t, size_t column) {
                float probability;
                differentiate(s[j][i], dp[j][i], key + column < n_seen[i / 2], (float)a.scale, lse[i / 2],
                              own_delta[i / 2], &probability, &s[j][i]);
            });
            add_product<D, TILE / 8>(s, k_turned, dq);
        }
    }
    for (int r = 0; r < 2; r++)
        for (int j = 0; j < D / 8 && mine[r] < q.n; j++)
            put_pair(dq[j][2 * r], dq[j][2 * r + 1], (bf16 *)a.dq + q.vector(mine[r]) * d,
                     8 * j + 2 * (threadIdx.x % 4), d);
}

/* Adds a warp's 16 keys of a gradient. */
template <int D>
static __device__ void add_keys(const stm_attend_part &part, size_t head, size_t d, size_t first,
                                const float x[D / 8][4], float *to)
{
    each_of_tile<D / 8>([&](int j, int i, size_t row, size_t column) {
        const size_t key = first + row;
        if (key < part.n_keys && column < d)
            to[(head * part.dkv_stride + key) * d + column] += x[j][i];
    });
}

/* Of parts of one wave, which share no accumulator: blocks' x counts tiles of keys, y KV heads, z parts. */
template <int D>
static __global__ void __launch_bounds__(THREADS)
    key_gradient_tiles_kernel(stm_attend a, const stm_attend_part *parts, const float *delta)
{
    bf16 *k_tile = (bf16 *)stm_launch_shared(), *v_tile = k_tile + TILE * (D + PAD),
         *q_tile = v_tile + TILE * (D + PAD);
    bf16 *do_tile = q_tile + ROWS * (D + PAD), *q_turned = do_tile + ROWS * (D + PAD);
    bf16 *do_turned = q_turned + D * (ROWS + PAD);
    const stm_attend_part part = parts[blockIdx.z];
    const tall q = tall_of(a, blockIdx.y);
    const size_t first_key = (size_t)blockIdx.x * TILE, d = a.head_dim, skipped = q.head * part.kv_stride * d;
    const int own = (int)(threadIdx.x / STM_WARP) * 16;
    if (first_key >= part.n_keys)
        return;
    /* Rows before `unseen` of the part see none of these keys. */
    const size_t unseen = part.causal && first_key > part.diagonal ? first_key - part.diagonal : 0;
    const size_t begin = (part.first_row + unseen) * q.share, end = (part.first_row + part.n_rows) * q.share;
    float dk[D / 8][4] = {}, dv[D / 8][4] = {}, s[ROWS / 8][4], dp[ROWS / 8][4];
    load_keys<D>((const bf16 *)part.k + skipped, d, first_key, part.n_keys, k_tile, NULL);
    load_keys<D>((const bf16 *)part.v + skipped, d, first_key, part.n_keys, v_tile, NULL);
    for (size_t first = begin; first < end; first += ROWS) {
        __syncthreads();
        load_tall<D, ROWS>(q, (const bf16 *)a.q, first, q_tile, q_turned);
        load_tall<D, ROWS>(q, (const bf16 *)a.d_o, first, do_tile, do_turned);
        __syncthreads();
        multiply_rows<D, ROWS / 8>(k_tile + own * (D + PAD), q_tile, s);
        multiply_rows<D, ROWS / 8>(v_tile + own * (D + PAD), do_tile, dp);
        each_of_tile<ROWS / 8>([&](int j, int i, size_t key_of_tile, size_t row_of_tile) {
            const size_t row = first + row_of_tile, key = first_key + own + key_of_tile;
            const bool seen = row < end && key < keys_of_row(q, part, row);
            const float lse = seen ? ((const float *)a.lse)[q.vector(row)] : 0.0f;
            differentiate(s[j][i], dp[j][i], seen, (float)a.scale, lse, seen ? delta[q.vector(row)] : 0.0f, &s[j][i],
                          &dp[j][i]);
        });
        add_product<D, ROWS / 8>(s, do_turned, dv);
        add_product<D, ROWS / 8>(dp, q_turned, dk);
    }
    add_keys<D>(part, q.head, d, first_key + own, dk, (float *)part.dk);
    add_keys<D>(part, q.head, d, first_key + own, dv, (float *)part.dv);
}

/* Launches */

static dim3 grid_of_rows(const stm_attend *a)
{
    const size_t n = a->n_rows * (a->n_heads / a->n_kv_heads);
    return dim3((unsigned)stm_pieces_of(n, TILE), (unsigned)a->n_kv_heads);
}

template <int D> static stm_status attend_tiles(stm_stream *stream, const stm_attend *a)
{
    const stm_attend_part *parts;
    void *none;
    STM_TRY(stm_attend_send_parts(stream, a, 0, &parts, &none));
    return stm_launch_tiles(stream, grid_of_rows(a), 2 * TILE * (D + PAD) + D * (TILE + PAD), attend_tiles_kernel<D>,
                            *a, parts);
}

template <int D> static stm_status attend_tiles_backward(stm_stream *stream, const stm_attend *a)
{
    const size_t n = a->n_rows * a->n_heads;
    const stm_attend_part *parts;
    void *room;
    STM_TRY(stm_attend_send_parts(stream, a, n * sizeof(float), &parts, &room));
    float *delta = (float *)room;
    STM_TRY(
        stm_launch(stream, (unsigned)stm_pieces_of(n, STM_BLOCK / STM_WARP), STM_BLOCK, 0, delta_kernel, *a, delta));
    STM_TRY(stm_launch_tiles(stream, grid_of_rows(a), 4 * TILE * (D + PAD) + D * (TILE + PAD),
                             query_gradient_tiles_kernel<D>, *a, parts, (const float *)delta));
    for (size_t first = 0, end; first < a->n_parts; first = end) {
        size_t most_keys = 0;
        end = stm_attend_end_of_wave(a, sizeof(float), first);
        for (size_t p = first; p < end; p++)
            most_keys = STM_MAX(most_keys, a->parts[p].n_keys);
        const dim3 grid((unsigned)stm_pieces_of(most_keys, TILE), (unsigned)a->n_kv_heads, (unsigned)(end - first));
        STM_TRY(stm_launch_tiles(stream, grid, 2 * (TILE + ROWS) * (D + PAD) + 2 * D * (ROWS + PAD),
                                 key_gradient_tiles_kernel<D>, *a, parts + first, (const float *)delta));
    }
    return STM_OK;
}

stm_status stm_cuda_attend_bf16(stm_stream *stream, const stm_attend *a)
{
    const dim3 grid = grid_of_rows(a);
    if (a->head_dim <= MOST_TENSOR_DIM && (size_t)grid.x * grid.y < (size_t)stream->n_multiprocessors)
        return stm_attend_few(stream, a);
    return a->head_dim > MOST_TENSOR_DIM ? stm_cuda_activation_ops<float, bf16>::attend(stream, a)
           : a->head_dim > 96            ? attend_tiles<128>(stream, a)
           : a->head_dim > 64            ? attend_tiles<96>(stream, a)
           : a->head_dim > 32            ? attend_tiles<64>(stream, a)
                                         : attend_tiles<32>(stream, a);
}

stm_status stm_cuda_attend_backward_bf16(stm_stream *stream, const stm_attend *a)
{
    return a->head_dim > MOST_TENSOR_DIM ? stm_cuda_activation_ops<float, bf16>::attend_backward(stream, a)
           : a->head_dim > 96            ? attend_tiles_backward<128>(stream, a)
           : a->head_dim > 64            ? attend_tiles_backward<96>(stream, a)
           : a->head_dim > 32            ? attend_tiles_backward<64>(stream, a)
                                         : attend_tiles_backward<32>(stream, a);
}
