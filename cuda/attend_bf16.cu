/* Attention on tensor cores by products of warps (mma.sync): operands in bfloat16, sums in float. Which form a call
 * takes is decided here: this one, attend_wide.cu, attend_hopper.cu, attend_few.cu, or the plain one.
 *
 * A block takes tall rows (or keys) and meets keys (or tall rows) a tile at a time, through shared memory, into which
 * the next tile comes while the last is multiplied; each warp has 16 M of the block's rows. Softmax as in
 * FlashAttention 2 (Dao 2023, arXiv 2307.08691): the running maximum and sum of a row stay in registers, P never leaves
 * them. Gradients of queries and of keys are computed apart, so that each sum has one order, without atomics. */
#include "cuda/attend_tiles.cuh"
#include "cuda/key_work.cuh"

/* STEP: keys, or rows, of a step of gradients. Of heads beyond NARROW numbers a block has no room for two steps, nor a
 * warp registers for two gradients. */
enum { NARROW = 128, MOST_DIM = 256, STEP = 32 };

/* Blocks' x counts tiles of 64 M tall rows, y KV heads. */
template <int D, int M, int KEYS>
static __global__ void __launch_bounds__(THREADS) attend_tiles_kernel(stm_attend a, const stm_attend_part *parts)
{
    bf16 *q_tile = (bf16 *)stm_launch_shared(), *k_tile = q_tile + M * TILE * (D + PAD),
         *v_tile = k_tile + KEYS * (D + PAD);
    const tall q = tall_of(a, blockIdx.y);
    const size_t first = (size_t)(gridDim.x - 1 - blockIdx.x) * M * TILE, end = first + M * TILE; /* longest first */
    const size_t own = threadIdx.x / STM_WARP * 16 * M;
    const float scale = (float)a.scale / LOG_2;
    met<D, M> rows;
    key_tiles<KEYS> at(q, parts, first, end);
    copy_tall<D, M * TILE>(q, a.q, first, q.n, q_tile);
    if (at.has())
        copy_tile<D>(at, parts[at.part].k, k_tile);
    while (at.has()) {
        float s[M][KEYS / 8][4];
        const stm_attend_part &part = parts[at.part];
        const size_t key = at.key;
        wait_for_tiles(); /* K; the last V is used up */
        copy_tile<D>(at, part.v, v_tile);
        multiply_rows<D, M, KEYS / 8>(q_tile + own * (D + PAD), k_tile, s);
        size_t n_seen[M][2];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                n_seen[m][i] = keys_of_row(q, part, lane_row(first + own + 16 * m, i));
        rows.template weigh<KEYS / 8>(s, key + KEYS <= keys_of_all(part, at.rows), n_seen, key, scale);
        wait_for_tiles(); /* V; this K is used up */
        at.next();
        if (at.has())
            copy_tile<D>(at, parts[at.part].k, k_tile);
        add_product<D, M, KEYS / 8>(s, v_tile, rows.o);
    }
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            write_row<D>(q, lane_row(first + own + 16 * m, i), rows.o[m], 2 * i, rows.rows[m][i]);
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

/* Steps that a block has room for: this one and the next, or one. */
template <int D> static constexpr int N_STEPS = D > NARROW ? 1 : 2;

/* Blocks' x counts tiles of tall rows, y KV heads. */
template <int D>
static __global__ void __launch_bounds__(THREADS)
    query_gradient_kernel(stm_attend a, const stm_attend_part *parts, const float *delta)
{
    enum { N = STEP / 8, SIZE = STEP * (D + PAD) };
    bf16 *q_tile = (bf16 *)stm_launch_shared(), *do_tile = q_tile + TILE * (D + PAD);
    bf16 *k_tiles = do_tile + TILE * (D + PAD), *v_tiles = k_tiles + N_STEPS<D> * SIZE;
    const tall q = tall_of(a, blockIdx.y);
    const size_t first = (size_t)(gridDim.x - 1 - blockIdx.x) * TILE, end = first + TILE;
    const size_t own = threadIdx.x / STM_WARP * 16, mine[2] = {lane_row(first + own, 0), lane_row(first + own, 1)};
    const slope slopes[2] = {slope_of(q, delta, mine[0], q.n), slope_of(q, delta, mine[1], q.n)};
    const float scale = (float)a.scale, steepness = scale / LOG_2;
    float dq[1][D / 8][4] = {};
    key_tiles<STEP> at(q, parts, first, end);
    copy_tall<D, TILE>(q, a.q, first, q.n, q_tile);
    copy_tall<D, TILE>(q, a.d_o, first, q.n, do_tile);
    const auto copy_step = [&](int turn) {
        if (!at.has())
            return;
        copy_tile<D>(at, parts[at.part].k, k_tiles + turn * SIZE);
        copy_tile<D>(at, parts[at.part].v, v_tiles + turn * SIZE);
    };
    copy_step(0);
    for (int turn = 0; at.has(); turn = (turn + 1) % N_STEPS<D>) {
        float s[1][N][4], dp[1][N][4];
        const stm_attend_part &part = parts[at.part];
        const size_t key = at.key, n_seen[2] = {keys_of_row(q, part, mine[0]), keys_of_row(q, part, mine[1])};
        const bool is_whole = key + STEP <= keys_of_all(part, at.rows);
        wait_for_tiles();
        at.next();
        if (N_STEPS<D> == 2)
            copy_step(turn ^ 1);
        multiply_rows<D, 1, N>(q_tile + own * (D + PAD), k_tiles + turn * SIZE, s);
        multiply_rows<D, 1, N>(do_tile + own * (D + PAD), v_tiles + turn * SIZE, dp);
        each_of_tile<N>([&](int j, int i, size_t, size_t column) {
            const slope &row = slopes[i / 2];
            const bool seen = is_whole || key + column < n_seen[i / 2];
            s[0][j][i] = seen ? row.gradient(row.weight(s[0][j][i], steepness), dp[0][j][i], scale) : 0.0f;
        });
        add_product<D, 1, N>(s, k_tiles + turn * SIZE, dq);
        if (N_STEPS<D> == 1) {
            __syncthreads(); /* these tiles are used up */
            copy_step(0);
        }
    }
    write_queries<D>(q, mine, dq[0]);
}

/* Of parts of one wave, which share no accumulator: blocks' x counts tiles of keys, y KV heads, z parts. */
template <int D>
static __global__ void __launch_bounds__(THREADS)
    key_gradient_kernel(stm_attend a, const stm_attend_part *parts, const float *delta)
{
    enum { N = STEP / 8, SIZE = STEP * (D + PAD) };
    __shared__ slope slopes[2][STEP]; /* of the rows of this step, and the next */
    bf16 *k_tile = (bf16 *)stm_launch_shared(), *v_tile = k_tile + TILE * (D + PAD);
    bf16 *q_tiles = v_tile + TILE * (D + PAD), *do_tiles = q_tiles + 2 * SIZE;
    const stm_attend_part part = parts[blockIdx.z];
    const tall q = tall_of(a, blockIdx.y);
    const size_t first_key = (size_t)blockIdx.x * TILE, d = a.head_dim, skipped = q.head * part.kv_stride * d;
    const size_t own = threadIdx.x / STM_WARP * 16;
    if (first_key >= part.n_keys)
        return;
    /* Rows before `unseen` of the part see none of these keys. */
    const size_t unseen = part.causal && first_key > part.diagonal ? first_key - part.diagonal : 0;
    const size_t begin = (part.first_row + unseen) * q.share, end = (part.first_row + part.n_rows) * q.share;
    const float scale = (float)a.scale, steepness = scale / LOG_2;
    float dk[1][D / 8][4] = {}, dv[1][D / 8][4] = {};
    const auto copy_step = [&](size_t first, int turn) {
        copy_tall<D, STEP>(q, a.q, first, end, q_tiles + turn * SIZE);
        copy_tall<D, STEP>(q, a.d_o, first, end, do_tiles + turn * SIZE);
        if (threadIdx.x < STEP)
            slopes[turn][threadIdx.x] = slope_of(q, delta, first + threadIdx.x, end);
    };
    copy_keys<D, TILE>((const bf16 *)part.k + skipped, d, first_key, part.n_keys, k_tile);
    copy_keys<D, TILE>((const bf16 *)part.v + skipped, d, first_key, part.n_keys, v_tile);
    copy_step(begin, 0);
    int turn = 0;
    for (size_t first = begin; first < end; first += STEP, turn ^= 1) {
        float s[1][N][4], dp[1][N][4];
        const bool is_whole = !part.causal || first_key + TILE <= stm_keys_seen(part, q.row(first));
        wait_for_tiles();
        if (first + STEP < end)
            copy_step(first + STEP, turn ^ 1);
        multiply_rows<D, 1, N>(k_tile + own * (D + PAD), q_tiles + turn * SIZE, s);
        multiply_rows<D, 1, N>(v_tile + own * (D + PAD), do_tiles + turn * SIZE, dp);
        each_of_tile<N>([&](int j, int i, size_t key_of_tile, size_t row_of_tile) {
            const slope &row = slopes[turn][row_of_tile];
            const bool seen = is_whole || first_key + own + key_of_tile < keys_of_row(q, part, first + row_of_tile);
            const float p = seen ? row.weight(s[0][j][i], steepness) : 0.0f;
            s[0][j][i] = p;
            dp[0][j][i] = seen ? row.gradient(p, dp[0][j][i], scale) : 0.0f;
        });
        add_product<D, 1, N>(s, do_tiles + turn * SIZE, dv);
        add_product<D, 1, N>(dp, q_tiles + turn * SIZE, dk);
    }
    add_keys<D>(part, q.head, d, first_key + own, 0, dk[0], part.dk);
    add_keys<D>(part, q.head, d, first_key + own, 0, dv[0], part.dv);
}

/* Launches */

template <int D, int M, int KEYS> static stm_status attend_tiles(stm_stream *stream, const stm_attend *a)
{
    const stm_attend_part *parts;
    void *none;
    STM_TRY(stm_attend_send_parts(stream, a, 0, &parts, &none));
    return stm_launch_tiles(stream, grid_of_rows(a, M * TILE), THREADS, (M * TILE + 2 * KEYS) * (D + PAD),
                            attend_tiles_kernel<D, M, KEYS>, *a, parts);
}

/* Keys of the longest of parts [first, end). */
static size_t most_keys_of(const stm_attend *a, size_t first, size_t end)
{
    size_t most = 0;
    for (size_t p = first; p < end; p++)
        most = STM_MAX(most, a->parts[p].n_keys);
    return most;
}

template <int D> struct gradients {
    enum { N_SHARED = (2 * TILE + 2 * N_STEPS<D> * STEP) * (D + PAD) };

    static stm_status of_queries(stm_stream *stream, const stm_attend *a, const stm_attend_part *parts,
                                 const float *delta)
    {
        return stm_launch_tiles(stream, grid_of_rows(a, TILE), THREADS, N_SHARED, query_gradient_kernel<D>, *a, parts,
                                delta);
    }
    static stm_status prepare(stm_stream *, const stm_attend *, stm_key_plan *, size_t *bytes)
    {
        *bytes = 0;
        return STM_OK;
    }
    static stm_status of_keys(stm_stream *stream, const stm_attend *a, const stm_attend_part *parts, size_t first,
                              size_t end, const float *delta, const stm_key_plan *, void *)
    {
        const size_t most_keys = most_keys_of(a, first, end);
        const dim3 grid((unsigned)stm_pieces_of(most_keys, TILE), (unsigned)a->n_kv_heads, (unsigned)(end - first));
        return stm_launch_tiles(stream, grid, THREADS, N_SHARED, key_gradient_kernel<D>, *a, parts + first, delta);
    }
};

struct wide_gradients : gradients<MOST_DIM> {
    static stm_status of_keys(stm_stream *stream, const stm_attend *a, const stm_attend_part *parts, size_t first,
                              size_t end, const float *delta, const stm_key_plan *, void *)
    {
        return stm_attend_wide_keys(stream, a, parts + first, end - first, most_keys_of(a, first, end), delta);
    }
};

template <class Gradients> static stm_status attend_backward(stm_stream *stream, const stm_attend *a)
{
    const size_t n = a->n_rows * a->n_heads, delta_bytes = (n * sizeof(float) + 63) / 64 * 64;
    const stm_attend_part *parts;
    void *room;
    stm_key_plan plan = {};
    size_t bytes_of_keys;
    STM_TRY(Gradients::prepare(stream, a, &plan, &bytes_of_keys));
    STM_TRY(stm_attend_send_parts(stream, a, delta_bytes + bytes_of_keys, &parts, &room));
    float *delta = (float *)room;
    void *room_of_keys = (char *)room + delta_bytes;
    STM_TRY(stm_cuda_write(stream, room_of_keys, plan.work, plan.n * sizeof *plan.work));
    STM_TRY(
        stm_launch(stream, (unsigned)stm_pieces_of(n, STM_BLOCK / STM_WARP), STM_BLOCK, 0, delta_kernel, *a, delta));
    STM_TRY(Gradients::of_queries(stream, a, parts, delta));
    for (size_t first = 0, end; first < a->n_parts; first = end) {
        end = stm_attend_end_of_wave(a, sizeof(float), first);
        STM_TRY(Gradients::of_keys(stream, a, parts, first, end, delta, &plan, room_of_keys));
    }
    return STM_OK;
}

/* Copies take 16 bytes at once. */
static bool suits_tiles(const stm_attend *a)
{
    return a->head_dim <= MOST_DIM && a->head_dim % OF_COPY == 0;
}

/* In tiles for 64 and for 128 numbers; below half of those, tiles of mma.sync waste less. */
static bool suits_warpgroups(const stm_attend *a)
{
    return a->head_dim > 32 && a->head_dim <= NARROW;
}

stm_status stm_cuda_attend_bf16(stm_stream *stream, const stm_attend *a)
{
    const dim3 grid = grid_of_rows(a, TILE);
    if (!suits_tiles(a))
        return stm_cuda_activation_ops<float, bf16>::attend(stream, a);
    if ((size_t)grid.x * grid.y < (size_t)stream->n_multiprocessors)
        return stm_attend_few(stream, a);
    if (stream->has_wgmma && suits_warpgroups(a))
        return a->head_dim > 64 ? stm_attend_hopper<128>::attend(stream, a) : stm_attend_hopper<64>::attend(stream, a);
    return a->head_dim > NARROW ? attend_tiles<MOST_DIM, 1, STEP>(stream, a)
           : a->head_dim > 96   ? attend_tiles<128, 2, TILE>(stream, a)
           : a->head_dim > 64   ? attend_tiles<96, 2, TILE>(stream, a)
           : a->head_dim > 32   ? attend_tiles<64, 2, TILE>(stream, a)
                                : attend_tiles<32, 2, TILE>(stream, a);
}

stm_status stm_cuda_attend_backward_bf16(stm_stream *stream, const stm_attend *a)
{
    if (!suits_tiles(a))
        return stm_cuda_activation_ops<float, bf16>::attend_backward(stream, a);
    if (stream->has_wgmma && suits_warpgroups(a))
        return a->head_dim > 64 ? attend_backward<stm_attend_hopper<128>>(stream, a)
                                : attend_backward<stm_attend_hopper<64>>(stream, a);
    return a->head_dim > NARROW ? attend_backward<wide_gradients>(stream, a)
           : a->head_dim > 96   ? attend_backward<gradients<128>>(stream, a)
           : a->head_dim > 64   ? attend_backward<gradients<96>>(stream, a)
           : a->head_dim > 32   ? attend_backward<gradients<64>>(stream, a)
                                : attend_backward<gradients<32>>(stream, a);
}
