/* cuda/tiles.cuh: what the forms of attention on tensor cores share: tall rows and keys in tiles of shared memory, a
 * warp's products of them, and the softmax of its scores. Called by all threads of a block, or of a warp. */
#ifndef STM_CUDA_TILES_CUH
#define STM_CUDA_TILES_CUH

#include "cuda/attend.cuh"
#include "cuda/mma.cuh"

enum { TILE = 64, ROWS = 32, THREADS = 128, PAD = 8 }; /* ROWS: of a step of key gradients */

#define LOG_2 0.693147180559945f

typedef __nv_bfloat16 bf16;

/* Two neighbours, the first at an even place. */
static __device__ unsigned pair_at(const bf16 *x)
{
    return *(const unsigned *)x;
}

/* The sum, or maximum, of the four lanes that share a row of a product's result. */
static __device__ float quad_sum(float x)
{
    x += __shfl_xor_sync(STM_ALL_LANES, x, 1);
    return x + __shfl_xor_sync(STM_ALL_LANES, x, 2);
}

static __device__ float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(STM_ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(STM_ALL_LANES, x, 2));
}

/* A KV head's tall matrix. */
struct tall {
    const stm_attend *a;
    size_t head, share, n; /* n: tall rows */

    __device__ size_t row(size_t t) const
    {
        return t / share;
    }
    /* Of the vectors [n_rows, n_heads], that of a tall row. */
    __device__ size_t vector(size_t t) const
    {
        return t / share * a->n_heads + head * share + t % share;
    }
};

static __device__ tall tall_of(const stm_attend &a, size_t head)
{
    const size_t share = a.n_heads / a.n_kv_heads;
    return {&a, head, share, a.n_rows * share};
}

/* Eight numbers, two a word. */
typedef stm_neighbours_of<unsigned, 4> eight;

/* Numbers [at, at + 8) of a row of d, zeros beyond it; a row NULL is of zeros. wide: it may be read so. */
static __device__ __forceinline__ eight eight_of(const bf16 *row, int at, int d, bool wide)
{
    const bf16 zero = __float2bfloat16(0.0f);
    eight x = {};
    if (wide && row && at < d)
        x = *(const eight *)(row + at);
    else if (row)
#pragma unroll
        for (int i = 0; i < 4; i++)
            x.x[i] = stm_pack(at + 2 * i < d ? row[at + 2 * i] : zero, at + 2 * i + 1 < d ? row[at + 2 * i + 1] : zero);
    return x;
}

static __device__ bool is_wide(const bf16 *x, size_t d)
{
    return d % 8 == 0 && (uintptr_t)x % 16 == 0;
}

/* to [N][D + PAD]: rows row_at(0) .. row_at(N - 1). turned [D][N + PAD]: the same, transposed. Either may be NULL. A
 * warp takes 16 rows of 32 columns, a lane 2 of 8: whole sectors of memory, and pairs that stand together turned. */
template <int D, int N, class RowAt>
static __device__ __forceinline__ void load_tile(size_t d, bool wide, bf16 *to, bf16 *turned, RowAt row_at)
{
    enum { ACROSS = D / 32, N_SQUARES = N / 16 * ACROSS };
    const int warp = threadIdx.x / STM_WARP, lane = threadIdx.x % STM_WARP;
    for (int square = warp; square < N_SQUARES; square += (int)THREADS / (int)STM_WARP) {
        const int r = square / ACROSS * 16 + lane / 4 * 2, at = square % ACROSS * 32 + lane % 4 * 8;
        const eight first = eight_of(row_at((size_t)r), at, (int)d, wide);
        const eight second = eight_of(row_at((size_t)r + 1), at, (int)d, wide);
        if (to) {
            *(eight *)(to + r * (D + PAD) + at) = first;
            *(eight *)(to + (r + 1) * (D + PAD) + at) = second;
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (turned) {
                unsigned *column = (unsigned *)(turned + (at + 2 * i) * (N + PAD) + r);
                column[0] = (first.x[i] & 0xffff) | second.x[i] << 16;
                column[(N + PAD) / 2] = first.x[i] >> 16 | (second.x[i] & 0xffff0000);
            }
    }
}

/* Tall rows [first, first + N) of x, zeros beyond them. */
template <int D, int N>
static __device__ void load_tall(const tall &q, const bf16 *x, size_t first, bf16 *to, bf16 *turned)
{
    const size_t d = q.a->head_dim;
    load_tile<D, N>(d, is_wide(x, d), to, turned,
                    [&](size_t i) { return first + i < q.n ? x + q.vector(first + i) * d : (const bf16 *)NULL; });
}

/* Keys [first, first + TILE) of n, whose numbers begin at x. */
template <int D>
static __device__ void load_keys(const bf16 *x, size_t d, size_t first, size_t n, bf16 *to, bf16 *turned)
{
    load_tile<D, TILE>(d, is_wide(x, d), to, turned,
                       [&](size_t i) { return first + i < n ? x + (first + i) * d : (const bf16 *)NULL; });
}

/* d [16, 8 N] = x [16, D] y^T: a warp's 16 rows of x and 8 N rows of y, both [.., D + PAD] in shared memory. */
template <int D, int N>
static __device__ __forceinline__ void multiply_rows(const bf16 *x, const bf16 *y, float d[N][4])
{
    const int g = threadIdx.x % STM_WARP / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int j = 0; j < N; j++)
        d[j][0] = d[j][1] = d[j][2] = d[j][3] = 0;
    for (int k = 0; k < D; k += 16) {
        const bf16 *upper = x + g * (D + PAD) + k + 2 * t, *lower = upper + 8 * (D + PAD);
        const unsigned a[4] = {pair_at(upper), pair_at(lower), pair_at(upper + 8), pair_at(lower + 8)};
#pragma unroll
        for (int j = 0; j < N; j++) {
            const bf16 *column = y + (8 * j + g) * (D + PAD) + k + 2 * t;
            const unsigned b[2] = {pair_at(column), pair_at(column + 8)};
            stm_mma(d[j], a, b);
        }
    }
}

/* d [16, D] += p [16, 8 N] y: p a warp's result of multiply_rows, rounded; y transposed, D rows of [8 N], `stride`
 * apart, in shared memory. */
template <int D, int N, int stride = 8 * N + PAD>
static __device__ __forceinline__ void add_product(const float p[N][4], const bf16 *y, float d[D / 8][4])
{
    const int g = threadIdx.x % STM_WARP / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int k = 0; k < N; k += 2) {
        const unsigned a[4] = {stm_pack(p[k][0], p[k][1]), stm_pack(p[k][2], p[k][3]),
                               stm_pack(p[k + 1][0], p[k + 1][1]), stm_pack(p[k + 1][2], p[k + 1][3])};
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            const bf16 *column = y + (8 * j + g) * stride + 8 * k + 2 * t;
            const unsigned b[2] = {pair_at(column), pair_at(column + 8)};
            stm_mma(d[j], a, b);
        }
    }
}

/* Keys that tall row t sees. */
static __device__ size_t keys_of_row(const tall &q, const stm_attend_part &part, size_t t)
{
    return t < q.n ? stm_keys_seen(part, q.row(t)) : 0;
}

/* Two rows of a warp's tile fall to a lane: g and g + 8. Weights are 2^(score - m) with scores in units of log 2 and m
 * a whole number, no less than the largest: a greater m only halves weights, so that they round alike however keys are
 * split into parts and tiles. */
struct running {
    float m, sum; /* sum: of this lane's columns */
};

/* Scores of one row and 8 N keys become its weights; `which` of a tile's four numbers are the row's: 0 or 2. Returns
 * what the former sums shrink by. */
template <int N>
static __device__ __forceinline__ float soften(float s[N][4], const int which, size_t n_seen, size_t first_key,
                                               float scale, running *row)
{
    const int t = threadIdx.x % 4;
    float most = -INFINITY;
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const size_t key = first_key + 8 * j + 2 * t + i;
            s[j][which + i] = key < n_seen ? s[j][which + i] * scale : -INFINITY;
            most = fmaxf(most, s[j][which + i]);
        }
    most = fmaxf(row->m, ceilf(quad_max(most)));
    const float base = most == -INFINITY ? 0.0f : most, shrink = exp2f(row->m - base);
    row->sum *= shrink;
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            s[j][which + i] = exp2f(s[j][which + i] - base);
            row->sum += s[j][which + i];
        }
    row->m = most;
    return shrink;
}

/* What a warp's 16 tall rows have met so far: sums of weighted values, not yet divided by the sums of weights. */
template <int D> struct met {
    float o[D / 8][4] = {};
    running rows[2] = {{-INFINITY, 0}, {-INFINITY, 0}};

    /* 8 N keys, the first of number first_key: k [8 N][D + PAD], v transposed as in add_product; n_seen: keys that the
     * lane's two rows see. */
    template <int N, int stride>
    __device__ __forceinline__ void meet(const bf16 *q, const bf16 *k, const bf16 *v, const size_t n_seen[2],
                                         size_t first_key, float scale)
    {
        float s[N][4];
        multiply_rows<D, N>(q, k, s);
        const float up = soften<N>(s, 0, n_seen[0], first_key, scale, &rows[0]);
        const float low = soften<N>(s, 2, n_seen[1], first_key, scale, &rows[1]);
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            o[j][0] *= up;
            o[j][1] *= up;
            o[j][2] *= low;
            o[j][3] *= low;
        }
        add_product<D, N, stride>(s, v, o);
    }
};

/* The numbers x[j][i] of a warp's tile [16, 8 N] that a lane holds: visit(j, i, row, column) for each. */
template <int N, class Visit> static __device__ __forceinline__ void each_of_tile(Visit visit)
{
    const int g = threadIdx.x % STM_WARP / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            visit(j, i, (size_t)(g + i / 2 * 8), (size_t)(8 * j + 2 * t + i % 2));
}

/* Of THREADS a block, with shared memory for so many numbers. */
template <class... Parameters, class... Arguments>
static stm_status stm_launch_tiles(stm_stream *stream, dim3 grid, size_t n_shared, void (*kernel)(Parameters...),
                                   Arguments... arguments)
{
    const size_t bytes = n_shared * sizeof(bf16);
    STM_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    return stm_launch(stream, grid, THREADS, bytes, kernel, arguments...);
}

#endif
