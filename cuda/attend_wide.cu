/* Gradients of keys and values for heads of 129 to 256 numbers, by mma.sync.
 *
 * A warp's registers hold dK and dV of 16 keys for half of such a head's numbers, so that two warps share 16 keys. Each
 * forms S and dP of the keys with half of a step's tall rows, and then the gradients of all rows for its half of the
 * numbers: P and dS are formed once, and go from warp to warp through shared memory as the products take them. A block
 * has 32 keys and takes 71 KiB: a multiprocessor of 8.6 has room for one, those of 8.0 and 9.0 for two, of which one
 * multiplies while the other waits for its copies. */
#include "cuda/attend_tiles.cuh"

/* ROW: from one row of a tile to the next. */
enum { WIDE = 256, HALF = WIDE / 2, ROW = WIDE + (int)PAD, WIDE_KEYS = 32, WIDE_STEP = 32, N_PAIRS = WIDE_KEYS / 16 };
static_assert(2 * (int)N_PAIRS * (int)STM_WARP == (int)THREADS && 2 * 16 == WIDE_STEP, "two warps for 16 keys");

/* Weights of 16 keys and 16 tall rows as the left operand of a product: a lane's words. */
struct fragment {
    uint4 of_lane[STM_WARP];
};

/* s [16, 16], rounded. */
static __device__ __forceinline__ void put_fragment(const float s[2][4], fragment *to)
{
    to->of_lane[threadIdx.x % STM_WARP] = {stm_pack(s[0][0], s[0][1]), stm_pack(s[0][2], s[0][3]),
                                           stm_pack(s[1][0], s[1][1]), stm_pack(s[1][2], s[1][3])};
}

/* d [16, HALF] += weights [16, WIDE_STEP] y: y [WIDE_STEP, HALF], in rows of ROW. */
static __device__ __forceinline__ void add_half(const fragment weights[2], const bf16 *y, float d[HALF / 8][4])
{
    const int lane = threadIdx.x % STM_WARP;
    const bf16 *row = y + lane % 16 * ROW + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const uint4 words = weights[k].of_lane[lane];
        const unsigned a[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int j = 0; j < HALF / 8; j += 2) {
            unsigned b[4];
            stm_load_turned(b, row + 16 * k * ROW + 8 * j);
            stm_mma(d[j], a, b);
            stm_mma(d[j + 1], a, b + 2);
        }
    }
}

/* Of parts of one wave, which share no accumulator: blocks' x counts tiles of keys, y KV heads, z parts. */
static __global__ void __launch_bounds__(THREADS)
    wide_key_gradient_kernel(stm_attend a, const stm_attend_part *parts, const float *delta)
{
    __shared__ slope slopes[WIDE_STEP];
    __shared__ fragment p_of[N_PAIRS][2], ds_of[N_PAIRS][2]; /* of a step, by halves of its rows */
    bf16 *k_tile = (bf16 *)stm_launch_shared(), *v_tile = k_tile + WIDE_KEYS * ROW;
    bf16 *q_tile = v_tile + WIDE_KEYS * ROW, *do_tile = q_tile + WIDE_STEP * ROW;
    const stm_attend_part part = parts[blockIdx.z];
    const tall q = tall_of(a, blockIdx.y);
    const size_t first_key = (size_t)blockIdx.x * WIDE_KEYS, d = a.head_dim, skipped = q.head * part.kv_stride * d;
    const unsigned warp = threadIdx.x / STM_WARP, pair = warp / 2, half = warp % 2, own = 16 * pair;
    if (first_key >= part.n_keys)
        return;
    /* Rows before `unseen` of the part see none of these keys. */
    const size_t unseen = part.causal && first_key > part.diagonal ? first_key - part.diagonal : 0;
    const size_t begin = (part.first_row + unseen) * q.share, end = (part.first_row + part.n_rows) * q.share;
    const float scale = (float)a.scale, steepness = scale / LOG_2;
    float dk[HALF / 8][4] = {}, dv[HALF / 8][4] = {};
    copy_keys<WIDE, WIDE_KEYS>((const bf16 *)part.k + skipped, d, first_key, part.n_keys, k_tile);
    copy_keys<WIDE, WIDE_KEYS>((const bf16 *)part.v + skipped, d, first_key, part.n_keys, v_tile);
    for (size_t first = begin; first < end; first += WIDE_STEP) {
        float s[1][2][4], dp[1][2][4];
        const bool is_whole = !part.causal || first_key + WIDE_KEYS <= stm_keys_seen(part, q.row(first));
        copy_tall<WIDE, WIDE_STEP>(q, a.q, first, end, q_tile);
        copy_tall<WIDE, WIDE_STEP>(q, a.d_o, first, end, do_tile);
        if (threadIdx.x < WIDE_STEP)
            slopes[threadIdx.x] = slope_of(q, delta, first + threadIdx.x, end);
        wait_for_tiles();
        multiply_rows<WIDE, 1, 2>(k_tile + own * ROW, q_tile + 16 * half * ROW, s);
        multiply_rows<WIDE, 1, 2>(v_tile + own * ROW, do_tile + 16 * half * ROW, dp);
        each_of_tile<2>([&](int j, int i, size_t key_of_tile, size_t column) {
            const size_t row_of_tile = 16 * half + column;
            const slope &row = slopes[row_of_tile];
            const bool seen = is_whole || first_key + own + key_of_tile < keys_of_row(q, part, first + row_of_tile);
            const float p = seen ? row.weight(s[0][j][i], steepness) : 0.0f;
            s[0][j][i] = p;
            dp[0][j][i] = seen ? row.gradient(p, dp[0][j][i], scale) : 0.0f;
        });
        put_fragment(s[0], &p_of[pair][half]);
        put_fragment(dp[0], &ds_of[pair][half]);
        __syncthreads();
        add_half(p_of[pair], do_tile + HALF * half, dv);
        add_half(ds_of[pair], q_tile + HALF * half, dk);
        __syncthreads(); /* the tiles and weights are used up */
    }
    add_keys<HALF>(part, q.head, d, first_key + own, HALF * half, dk, part.dk);
    add_keys<HALF>(part, q.head, d, first_key + own, HALF * half, dv, part.dv);
}

stm_status stm_attend_wide_keys(stm_stream *stream, const stm_attend *a, const stm_attend_part *parts, size_t n_parts,
                                size_t most_keys, const float *delta)
{
    const dim3 grid((unsigned)stm_pieces_of(most_keys, WIDE_KEYS), (unsigned)a->n_kv_heads, (unsigned)n_parts);
    return stm_launch_tiles(stream, grid, THREADS, (2 * WIDE_KEYS + 2 * WIDE_STEP) * ROW, wide_key_gradient_kernel, *a,
                            parts, delta);
}
