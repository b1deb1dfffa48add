/* Attention of few rows on tensor cores, as in a decode round: tiles of rows alone would leave most of the device idle.
 *
 * Each part is a task for itself, and its keys are cut into splits of SPLIT (Dao et al. 2023, Flash-Decoding; a prompt
 * that many rollouts share is read once for all of their rows: Juravsky et al. 2024, arXiv 2402.05099). A block takes a
 * tile of the part's tall rows and a split, and leaves what it met in the scratch; then a block for each row and head
 * merges all splits of all parts, in order. How keys are split does not depend on how many there are, so that equal
 * rows give equal bits. */
#include "cuda/tiles.cuh"

enum { SPLIT = 256, FEW = 16, N_WARPS = 4 }; /* FEW: tall rows of a warp */
static_assert(N_WARPS * (int)STM_WARP == (int)THREADS, "warps of a block");

/* What the splits of parts have met: part by part, row by row, head by head, split by split. */
struct splits {
    float *m, *sum, *o; /* [n], [n], [n, head_dim] */
};

static __host__ __device__ size_t splits_of(size_t n_keys)
{
    return (n_keys + SPLIT - 1) / SPLIT;
}

static __device__ size_t splits_of_part(const stm_attend &a, const stm_attend_part &part)
{
    return part.n_rows * a.n_heads * splits_of(stm_keys_of(part));
}

static __device__ size_t split_of_vector(const stm_attend &a, const stm_attend_part &part, size_t vector)
{
    return (vector - part.first_row * a.n_heads) * splits_of(stm_keys_of(part));
}

/* Of all parts before part p. Called by the whole block; room: shared memory, [STM_WARP]. */
static __device__ size_t splits_before(const stm_attend &a, const stm_attend_part *parts, size_t p,
                                       unsigned long long *room)
{
    unsigned long long n = 0;
    for (size_t i = threadIdx.x; i < p; i += blockDim.x)
        n += splits_of_part(a, parts[i]);
    return stm_block_sum(n, room);
}

/* A row's weights were taken with its own m: those of a greater one. */
static __device__ float shrink_to(float most, float m)
{
    return m == -INFINITY ? 0.0f : stm_exp2(m - most);
}

/* A warp's rows to [FEW][D] floats, and m and sum of each. */
template <int D> static __device__ __forceinline__ void put_down(const met<D, 1> &rows, float *m, float *sum, float *o)
{
    each_of_tile<D / 8>([&](int j, int i, size_t row, size_t column) { o[row * D + column] = rows.o[0][j][i]; });
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float all = quad_sum(rows.rows[0][r].sum);
        if (threadIdx.x % 4 == 0) {
            m[lane_row(0, r)] = rows.rows[0][r].m;
            sum[lane_row(0, r)] = all;
        }
    }
}

/* Rows that n_warps warps have met apart, warp w at rows w FEW .., become splits number at(row). */
template <int D, class At>
static __device__ void merge_warps(int n_warps, const float *m, const float *sum, const float *o, size_t n_rows,
                                   size_t d, const splits &to, At at)
{
    for (size_t i = threadIdx.x; i < n_rows * D; i += THREADS) {
        const size_t row = i / D, column = i % D;
        float most = -INFINITY, all = 0, value = 0;
        for (int w = 0; w < n_warps; w++)
            most = fmaxf(most, m[w * FEW + row]);
        for (int w = 0; w < n_warps; w++) {
            const float shrink = shrink_to(most, m[w * FEW + row]);
            all += shrink * sum[w * FEW + row];
            value += shrink * o[(w * FEW + row) * D + column];
        }
        if (column < d)
            to.o[at(row) * d + column] = value;
        if (column == 0) {
            to.m[at(row)] = most;
            to.sum[at(row)] = all;
        }
    }
}

/* Blocks' x counts tiles of a part's tall rows and, slower, splits of its keys; y KV heads, z parts. Where a tile has
 * more than FEW rows its warps have 16 of them each; else they have 16 of a tile's keys each. */
template <int D>
static __global__ void __launch_bounds__(THREADS)
    attend_splits_kernel(stm_attend a, const stm_attend_part *parts, unsigned n_tiles, splits to)
{
    bf16 *q_tile = (bf16 *)stm_launch_shared(), *k_tile = q_tile + TILE * (D + PAD),
         *v_tile = k_tile + TILE * (D + PAD);
    /* Where V comes later: the three tiles of 256 numbers are all the shared memory that a block of 8.6 has. */
    unsigned long long *room = (unsigned long long *)v_tile;
    const stm_attend_part part = parts[blockIdx.z];
    const tall q = tall_of(a, blockIdx.y);
    const size_t d = a.head_dim, split = blockIdx.x / n_tiles, skipped = q.head * part.kv_stride * d;
    const size_t first = part.first_row * q.share + (size_t)(blockIdx.x % n_tiles) * TILE;
    const size_t end = STM_MIN((part.first_row + part.n_rows) * q.share, first + TILE), n_keys = stm_keys_of(part);
    const size_t first_key = split * SPLIT, end_key = STM_MIN(n_keys, first_key + SPLIT);
    if (first >= end || first_key >= n_keys)
        return;
    const bf16 *k = (const bf16 *)part.k + skipped, *v = (const bf16 *)part.v + skipped;
    copy_tall<D, TILE>(q, a.q, first, end, q_tile);
    copy_keys<D, TILE>(k, d, first_key, end_key, k_tile);
    const size_t before = splits_before(a, parts, blockIdx.z, room);
    const bool is_few = end - first <= FEW;
    const size_t warp = threadIdx.x / STM_WARP, own_rows = is_few ? 0 : warp * 16, own_keys = is_few ? warp * 16 : 0;
    const size_t n_seen[1][2] = {{STM_MIN(end_key, keys_of_row(q, part, lane_row(first + own_rows, 0))),
                                  STM_MIN(end_key, keys_of_row(q, part, lane_row(first + own_rows, 1)))}};
    const size_t n_whole = STM_MIN(end_key, keys_of_all(part, rows_of(q, first, end)));
    const bf16 *own_q = q_tile + own_rows * (D + PAD), *own_k = k_tile + own_keys * (D + PAD);
    const bf16 *own_v = v_tile + own_keys * (D + PAD);
    const float scale = (float)a.scale / LOG_2;
    met<D, 1> rows;
    for (size_t key = first_key; key < end_key; key += TILE) {
        const bool is_whole = key + TILE <= n_whole;
        float few[1][2][4], many[1][TILE / 8][4];
        wait_for_tiles(); /* K; the last V is used up */
        copy_keys<D, TILE>(v, d, key, end_key, v_tile);
        if (is_few) {
            multiply_rows<D, 1, 2>(own_q, own_k, few);
            rows.template weigh<2>(few, is_whole, n_seen, key + own_keys, scale);
        } else {
            multiply_rows<D, 1, TILE / 8>(own_q, own_k, many);
            rows.template weigh<TILE / 8>(many, is_whole, n_seen, key, scale);
        }
        wait_for_tiles(); /* V; this K is used up */
        if (key + TILE < end_key)
            copy_keys<D, TILE>(k, d, key + TILE, end_key, k_tile);
        if (is_few)
            add_product<D, 1, 2>(few, own_v, rows.o);
        else
            add_product<D, 1, TILE / 8>(many, own_v, rows.o);
    }
    __syncthreads(); /* the tiles give way to what the warps have met */
    float *o = (float *)stm_launch_shared(), *m = o + N_WARPS * FEW * D, *sum = m + N_WARPS * FEW;
    put_down<D>(rows, m + warp * FEW, sum + warp * FEW, o + warp * FEW * D);
    __syncthreads();
    /* Of wide heads it is read again: no registers are left to keep it in. */
    const stm_attend_part &same = D > 128 ? parts[blockIdx.z] : part;
    merge_warps<D>(is_few ? N_WARPS : 1, m, sum, o, end - first, d, to,
                   [&](size_t row) { return before + split_of_vector(a, same, q.vector(first + row)) + split; });
}

/* Sum over the lanes up to this one. */
static __device__ size_t warp_sum_up_to(size_t x)
{
    for (unsigned step = 1; step < STM_WARP; step *= 2) {
        const size_t below = __shfl_up_sync(STM_ALL_LANES, x, step);
        x += threadIdx.x % STM_WARP >= step ? below : 0;
    }
    return x;
}

/* Splits of a row that a warp merges; a lane has numbers j * 32 + lane of the vector, OF_LANE of them. */
template <int OF_LANE> struct lane_sums {
    float m = -INFINITY, sum = 0, o[OF_LANE] = {};

    __device__ __forceinline__ void add(const splits &from, size_t split, size_t d)
    {
        const unsigned lane = threadIdx.x % STM_WARP;
        const float most = fmaxf(m, from.m[split]), shrink = shrink_to(most, m);
        const float grow = shrink_to(most, from.m[split]);
        sum = sum * shrink + from.sum[split] * grow;
#pragma unroll
        for (int j = 0; j < OF_LANE; j++)
            if (j * STM_WARP + lane < d)
                o[j] = o[j] * shrink + from.o[split * d + j * STM_WARP + lane] * grow;
        m = most;
    }
};

/* A block merges the splits of row blockIdx.x, head blockIdx.y: its warps take splits in turn. */
template <int OF_LANE>
static __global__ void __launch_bounds__(THREADS)
    merge_splits_kernel(stm_attend a, const stm_attend_part *parts, splits from)
{
    __shared__ float all_m[N_WARPS], all_sum[N_WARPS], all_o[N_WARPS][OF_LANE * STM_WARP];
    const size_t row = blockIdx.x, vector = row * a.n_heads + blockIdx.y, d = a.head_dim;
    const unsigned lane = threadIdx.x % STM_WARP, warp = threadIdx.x / STM_WARP;
    lane_sums<OF_LANE> met;
    size_t before = 0, turn = 0;
    for (size_t first = 0; first < a.n_parts; first += STM_WARP) {
        size_t own = 0, n_seen = 0, own_at = 0;
        if (first + lane < a.n_parts) {
            const stm_attend_part part = parts[first + lane];
            own = splits_of_part(a, part);
            n_seen = splits_of(stm_keys_seen(part, row));
            own_at = split_of_vector(a, part, vector);
        }
        const size_t up_to = warp_sum_up_to(own);
        own_at += before + up_to - own;
        before += __shfl_sync(STM_ALL_LANES, up_to, STM_WARP - 1);
        for (unsigned seen = __ballot_sync(STM_ALL_LANES, n_seen > 0); seen; seen &= seen - 1) {
            const int part = __ffs((int)seen) - 1;
            const size_t n = __shfl_sync(STM_ALL_LANES, n_seen, part), at = __shfl_sync(STM_ALL_LANES, own_at, part);
#pragma unroll 4
            for (size_t i = (warp + N_WARPS - turn % N_WARPS) % N_WARPS; i < n; i += N_WARPS)
                met.add(from, at + i, d);
            turn += n;
        }
    }
    if (lane == 0) {
        all_m[warp] = met.m;
        all_sum[warp] = met.sum;
    }
    for (int j = 0; j < OF_LANE; j++)
        all_o[warp][j * STM_WARP + lane] = met.o[j];
    __syncthreads();
    float most = -INFINITY, all = 0;
    for (int w = 0; w < N_WARPS; w++)
        most = fmaxf(most, all_m[w]);
    for (int w = 0; w < N_WARPS; w++)
        all += shrink_to(most, all_m[w]) * all_sum[w];
    for (size_t i = threadIdx.x; i < d; i += THREADS) {
        float value = 0;
        for (int w = 0; w < N_WARPS; w++)
            value += shrink_to(most, all_m[w]) * all_o[w][i];
        stm_put(value / all, (bf16 *)a.o + vector * d + i);
    }
    if (threadIdx.x == 0)
        ((float *)a.lse)[vector] = (most + log2f(all)) * LOG_2;
}

template <int D> static stm_status attend_few(stm_stream *stream, const stm_attend *a)
{
    const size_t share = a->n_heads / a->n_kv_heads;
    size_t n_splits = 0, most_keys = 0, most_rows = 0;
    const stm_attend_part *parts;
    void *room;
    for (size_t p = 0; p < a->n_parts; p++) {
        const size_t n_keys = stm_attend_most_keys(&a->parts[p]);
        n_splits += a->parts[p].n_rows * a->n_heads * splits_of(n_keys);
        most_keys = STM_MAX(most_keys, n_keys);
        most_rows = STM_MAX(most_rows, a->parts[p].n_rows);
    }
    STM_TRY(stm_attend_send_parts(stream, a, n_splits * (a->head_dim + 2) * sizeof(float), &parts, &room));
    const splits met = {(float *)room, (float *)room + n_splits, (float *)room + 2 * n_splits};
    const unsigned n_tiles = (unsigned)stm_pieces_of(most_rows * share, TILE);
    const dim3 grid(n_tiles * (unsigned)splits_of(most_keys), (unsigned)a->n_kv_heads, (unsigned)a->n_parts);
    STM_TRY(stm_launch_tiles(stream, grid, THREADS, 3 * TILE * (D + PAD), attend_splits_kernel<D>, *a, parts, n_tiles,
                             met));
    return stm_launch(stream, dim3((unsigned)a->n_rows, (unsigned)a->n_heads), THREADS, 0,
                      merge_splits_kernel<(D > 128 ? 8 : 4)>, *a, parts, met);
}

stm_status stm_attend_few(stm_stream *stream, const stm_attend *a)
{
    return a->head_dim > 128  ? attend_few<256>(stream, a)
           : a->head_dim > 96 ? attend_few<128>(stream, a)
           : a->head_dim > 64 ? attend_few<96>(stream, a)
           : a->head_dim > 32 ? attend_few<64>(stream, a)
                              : attend_few<32>(stream, a);
}
