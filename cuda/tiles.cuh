/* cuda/tiles.cuh: what the forms of attention on tensor cores share: tall rows and keys in tiles of shared memory, a
 * warp's products of them, and the softmax of its scores. Called by all threads of a block, or of a warp.
 *
 * Of a KV head all rows and all of its query heads form one tall matrix: tall row t is row t / share of the call, query
 * head head * share + t % share. Tiles are rows of D numbers, D the head_dim filled up with zeros, [D + PAD] apart, so
 * that the eight rows of a matrix that a warp loads at once lie in different banks. */
#ifndef STM_CUDA_TILES_CUH
#define STM_CUDA_TILES_CUH

#include "cuda/attend.cuh"
#include "cuda/mma.cuh"

enum { TILE = 64, THREADS = 128, PAD = 8, OF_COPY = 8 }; /* OF_COPY: numbers that a thread copies at once */

#define LOG_2 0.693147180559945f

typedef __nv_bfloat16 bf16;

/* The sum, or maximum, of the four lanes that share a row of a product's result. */
static __device__ __forceinline__ float quad_sum(float x)
{
    x += __shfl_xor_sync(STM_ALL_LANES, x, 1);
    return x + __shfl_xor_sync(STM_ALL_LANES, x, 2);
}

static __device__ __forceinline__ float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(STM_ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(STM_ALL_LANES, x, 2));
}

/* A KV head's tall matrix. */
struct tall {
    const stm_attend *a;
    unsigned head, share, n; /* n: tall rows */

    __device__ size_t row(size_t t) const
    {
        return (unsigned)t / share;
    }
    /* Of the vectors [n_rows, n_heads], that of a tall row. */
    __device__ size_t vector(size_t t) const
    {
        return (unsigned)t / share * a->n_heads + head * share + (unsigned)t % share;
    }
};

static __device__ tall tall_of(const stm_attend &a, unsigned head)
{
    const unsigned share = (unsigned)(a.n_heads / a.n_kv_heads);
    return {&a, head, share, (unsigned)a.n_rows * share};
}

/* A tile as ldmatrix reads it: where number `column` of a row lies. Copied by so many threads, the whole block. */
template <int D> struct padded {
    enum { N_THREADS = THREADS };

    static __device__ __forceinline__ int place(int row, int column)
    {
        return row * (D + PAD) + column;
    }
};

/* Begins to copy N rows of d numbers to a tile; at(i): where row i lies, or NULL: zeros. any: what may be read. */
template <int D, int N, class Layout, class At>
static __device__ __forceinline__ void copy_rows(const bf16 *any, size_t d, At at, bf16 *to)
{
#pragma unroll
    for (int i = threadIdx.x; i < N * D / OF_COPY; i += Layout::N_THREADS) {
        const int row = i / (D / OF_COPY), column = i % (D / OF_COPY) * OF_COPY;
        const bf16 *from = at(row);
        const bool is_there = from && column < (int)d;
        stm_copy_16(to + Layout::place(row, column), is_there ? from + column : any, is_there);
    }
}

/* Tall rows [first, first + N) of x, zeros from `end` on. */
template <int D, int N, class Layout = padded<D>>
static __device__ __forceinline__ void copy_tall(const tall &q, const void *x, size_t first, size_t end, bf16 *to)
{
    const bf16 *numbers = (const bf16 *)x;
    const size_t d = q.a->head_dim;
    copy_rows<D, N, Layout>(
        numbers, d, [&](int i) { return first + i < end ? numbers + q.vector(first + i) * d : NULL; }, to);
}

/* Keys [first, first + N) of n, whose numbers begin at x. */
template <int D, int N, class Layout = padded<D>>
static __device__ __forceinline__ void copy_keys(const bf16 *x, size_t d, size_t first, size_t n, bf16 *to)
{
    copy_rows<D, N, Layout>(
        x, d, [&](int i) { return first + i < n ? x + (first + i) * d : NULL; }, to);
}

/* What was begun is there, for all threads of the block. */
static __device__ __forceinline__ void wait_for_tiles()
{
    stm_wait_copies();
    __syncthreads();
}

/* s [16 M, 8 N] = x [16 M, D] y^T: a warp's rows of x, and 8 N rows of y, N even. Unrolled farther for D = 256, 10.0
 * runs out of registers. */
template <int D, int M, int N>
static __device__ __forceinline__ void multiply_rows(const bf16 *x, const bf16 *y, float s[M][N][4])
{
    const int lane = threadIdx.x % STM_WARP;
    const bf16 *x_row = x + lane % 16 * (D + PAD) + lane / 16 * 8;
    const bf16 *y_row = y + (lane / 16 * 8 + lane % 8) * (D + PAD) + lane / 8 % 2 * 8;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int j = 0; j < N; j++)
            s[m][j][0] = s[m][j][1] = s[m][j][2] = s[m][j][3] = 0;
#pragma unroll(D > 128 ? 4 : 8)
    for (int k = 0; k < D; k += 16) {
        unsigned a[M][4];
#pragma unroll
        for (int m = 0; m < M; m++)
            stm_load_matrices(a[m], x_row + 16 * m * (D + PAD) + k);
#pragma unroll
        for (int j = 0; j < N; j += 2) {
            unsigned b[4];
            stm_load_matrices(b, y_row + 8 * j * (D + PAD) + k);
#pragma unroll
            for (int m = 0; m < M; m++) {
                stm_mma(s[m][j], a[m], b);
                stm_mma(s[m][j + 1], a[m], b + 2);
            }
        }
    }
}

/* d [16 M, D] += p [16 M, 8 N] y: p as multiply_rows leaves it, rounded; y: 8 N rows, N even. */
template <int D, int M, int N>
static __device__ __forceinline__ void add_product(const float p[M][N][4], const bf16 *y, float d[M][D / 8][4])
{
    const int lane = threadIdx.x % STM_WARP;
    const bf16 *row = y + lane % 16 * (D + PAD) + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < N; k += 2) {
        unsigned a[M][4];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                a[m][i] = stm_pack(p[m][k + i / 2][i % 2 * 2], p[m][k + i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (int j = 0; j < D / 8; j += 2) {
            unsigned b[4];
            stm_load_turned(b, row + 8 * k * (D + PAD) + 8 * j);
#pragma unroll
            for (int m = 0; m < M; m++) {
                stm_mma(d[m][j], a[m], b);
                stm_mma(d[m][j + 1], a[m], b + 2);
            }
        }
    }
}

/* Keys that tall row t sees. */
static __device__ __forceinline__ size_t keys_of_row(const tall &q, const stm_attend_part &part, size_t t)
{
    return t < q.n ? stm_keys_seen(part, q.row(t)) : 0;
}

/* The rows of the call that tall rows [first, end) are of: the first and the last. */
struct row_span {
    size_t low, high;
};

static __device__ __forceinline__ row_span rows_of(const tall &q, size_t first, size_t end)
{
    return {q.row(first), q.row(STM_MIN((size_t)q.n, end) - 1)};
}

/* Keys of a part that any of the rows sees. */
static __device__ __forceinline__ size_t keys_of_any(const stm_attend_part &part, row_span rows)
{
    if (rows.high < part.first_row || rows.low >= part.first_row + part.n_rows)
        return 0;
    return stm_keys_seen(part, STM_MIN(rows.high, part.first_row + part.n_rows - 1));
}

/* Keys that all of the rows see: their scores need no mask. */
static __device__ __forceinline__ size_t keys_of_all(const stm_attend_part &part, row_span rows)
{
    return rows.low >= part.first_row && rows.high < part.first_row + part.n_rows ? stm_keys_seen(part, rows.low) : 0;
}

/* The tall rows of a warp's 16 that fall to a lane. */
static __device__ __forceinline__ size_t lane_row(size_t first, int which)
{
    return first + threadIdx.x % STM_WARP / 4 + 8 * which;
}

/* Weights are 2^(score - m) with scores in units of log 2 and m a whole number, no less than the largest: a greater m
 * only halves weights, so that they round alike however keys are split into parts and tiles. */
struct running {
    float m, sum; /* sum: of this lane's columns */
};

/* Of a row's numbers in a tile, those of columns n and later become x; `which` of four are the row's: 0 or 2. n:
 * n_seen - first, or 0. */
template <int N>
static __device__ __forceinline__ void mask_row(float s[N][4], const int which, size_t n_seen, size_t first, float x)
{
    const int n = n_seen > first ? (int)STM_MIN(n_seen - first, (size_t)(8 * N)) : 0;
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (8 * j + 2 * ((int)threadIdx.x % 4) + i >= n)
                s[j][which + i] = x;
}

/* Scores of one row and 8 N keys become its weights. Returns what the former sums shrink by. */
template <int N>
static __device__ __forceinline__ float soften(float s[N][4], const int which, float scale, running *row)
{
    float most = -INFINITY;
#pragma unroll
    for (int j = 0; j < N; j++)
        most = fmaxf(most, fmaxf(s[j][which], s[j][which + 1]));
    most = fmaxf(row->m, ceilf(quad_max(most) * scale));
    const float base = most == -INFINITY ? 0.0f : most, shrink = stm_exp2(row->m - base);
    row->sum *= shrink;
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            s[j][which + i] = stm_exp2(s[j][which + i] * scale - base);
            row->sum += s[j][which + i];
        }
    row->m = most;
    return shrink;
}

/* Sums of a lane's two rows, over the keys met before, after soften. */
template <int N> static __device__ __forceinline__ void shrink_rows(float o[N][4], float up, float low)
{
#pragma unroll
    for (int j = 0; j < N; j++) {
        o[j][0] *= up;
        o[j][1] *= up;
        o[j][2] *= low;
        o[j][3] *= low;
    }
}

/* What a warp's 16 M tall rows have met so far: sums of weighted values, not yet divided by the sums of weights. */
template <int D, int M> struct met {
    float o[M][D / 8][4] = {};
    running rows[M][2];

    __device__ met()
    {
#pragma unroll
        for (int m = 0; m < M; m++)
            rows[m][0] = rows[m][1] = {-INFINITY, 0};
    }

    /* Scores of 8 N keys, the first of number first_key, become weights; n_seen: keys that the lane's rows see. */
    template <int N>
    __device__ __forceinline__ void weigh(float s[M][N][4], bool is_whole, const size_t n_seen[M][2], size_t first_key,
                                          float scale)
    {
#pragma unroll
        for (int m = 0; m < M; m++) {
            if (!is_whole) {
                mask_row<N>(s[m], 0, n_seen[m][0], first_key, -INFINITY);
                mask_row<N>(s[m], 2, n_seen[m][1], first_key, -INFINITY);
            }
            const float up = soften<N>(s[m], 0, scale, &rows[m][0]), low = soften<N>(s[m], 2, scale, &rows[m][1]);
            shrink_rows<D / 8>(o[m], up, low);
        }
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

/* Of so many threads a block, with shared memory for so many numbers. */
template <class... Parameters, class... Arguments>
static stm_status stm_launch_tiles(stm_stream *stream, dim3 grid, unsigned n_threads, size_t n_shared,
                                   void (*kernel)(Parameters...), Arguments... arguments)
{
    const size_t bytes = n_shared * sizeof(bf16);
    STM_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    return stm_launch(stream, grid, n_threads, bytes, kernel, arguments...);
}

#endif
