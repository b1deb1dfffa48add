/* cuda/warpgroup.cuh: attention's tiles and products for warpgroups. A block is two of them; each has 64 of its rows.
 */
#ifndef STM_CUDA_WARPGROUP_CUH
#define STM_CUDA_WARPGROUP_CUH

#include "cuda/attend_tiles.cuh"
#include "cuda/wgmma.cuh"

enum { GROUP_ROWS = 64, BLOCK_ROWS = 2 * GROUP_ROWS, BLOCK_THREADS = 256, PANEL = 64 }; /* PANEL: columns of one */

/* Threads that a kernel with wgmma may be launched with: too few where the compiler's pass has left its body out. */
#if STM_HAS_WGMMA || !defined(__CUDA_ARCH__)
#define STM_WARPGROUPS_ONLY __launch_bounds__(BLOCK_THREADS)
#else
#define STM_WARPGROUPS_ONLY __launch_bounds__(STM_WARP)
#endif

/* The first of a warp's 16 rows of the block's. */
static __device__ __forceinline__ size_t first_of_warp()
{
    return threadIdx.x / STM_WARP * 16;
}

/* The first of a warpgroup's 64; the same in all of its lanes, as descriptors have to be. */
static __device__ __forceinline__ size_t first_of_group()
{
    return __shfl_sync(STM_ALL_LANES, threadIdx.x / (2 * GROUP_ROWS), 0) * GROUP_ROWS;
}

/* A tile of ROWS rows as wgmma reads it: panels one after the other. */
template <int ROWS> struct panels {
    enum { N_THREADS = BLOCK_THREADS };

    static __device__ __forceinline__ int place(int row, int column)
    {
        return (column / PANEL * ROWS + row) * PANEL + (column % PANEL / OF_COPY ^ row % 8) * OF_COPY;
    }
};

/* What a descriptor grows by where its operand begins so many bytes later. */
static __device__ __forceinline__ uint64_t later(int bytes)
{
    return (uint64_t)(bytes / 16);
}

enum { PANEL_ROW_BYTES = PANEL * sizeof(bf16), EIGHT_ROWS_BYTES = 8 * PANEL_ROW_BYTES };

/* A tile of ROWS rows as an operand, from its first row, or one of a multiple of 8, on. */
template <int ROWS> static __device__ __forceinline__ uint64_t operand_of(const bf16 *tile, size_t first_row = 0)
{
    return stm_wgmma_operand(tile + first_row * PANEL, ROWS * PANEL_ROW_BYTES, EIGHT_ROWS_BYTES);
}

/* Begins s [64, N] = x y^T: 64 rows of a tile of X_ROWS, N rows that are a tile. */
template <int D, int X_ROWS, int N>
static __device__ __forceinline__ void begin_rows(uint64_t x, uint64_t y, float (&s)[N / 8][4])
{
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        const int panel = k / (PANEL / 16), bytes = k % (PANEL / 16) * 32;
        stm_wgmma<N, false, false>(s, x + later(panel * X_ROWS * PANEL_ROW_BYTES + bytes),
                                   y + later(panel * N * PANEL_ROW_BYTES + bytes), k > 0);
    }
}

/* Begins d [64, D] += p [64, N] y: N rows that are a tile. */
template <int D, int N>
static __device__ __forceinline__ void begin_sum(const unsigned (&p)[N / 16][4], uint64_t y, float (&d)[D / 8][4])
{
#pragma unroll
    for (int k = 0; k < N / 16; k++)
        stm_wgmma<D, true>(d, p[k], y + later(2 * k * EIGHT_ROWS_BYTES), true);
}

/* Numbers of a product's result, rounded, as those of the next product's left operand: they lie in the same lanes. */
template <int N>
static __device__ __forceinline__ void round_rows(const float (&x)[N / 8][4], unsigned (&to)[N / 16][4])
{
#pragma unroll
    for (int k = 0; k < N / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            to[k][i] = stm_pack(x[2 * k + i / 2][i % 2 * 2], x[2 * k + i / 2][i % 2 * 2 + 1]);
}

/* Waits for products come after what x was made from, in all threads; room: shared memory, [BLOCK_THREADS]. The
 * compiler puts a wait before whatever does not need it, and so would have numbers wait that are to be made beside
 * products; it does not put one before a store. */
static __device__ __forceinline__ void keep_before_waits(float x, float *room)
{
    *(volatile float *)&room[threadIdx.x] = x;
}

/* The same of many numbers: of all bits, in few instructions. */
template <int N> static __device__ __forceinline__ void keep_before_waits(const float (&x)[N][4], float *room)
{
    unsigned bits = 0;
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            bits ^= __float_as_uint(x[j][i]);
    keep_before_waits(__uint_as_float(bits), room);
}

/* What was begun to be copied is there, for products and for all threads of the block. */
static __device__ __forceinline__ void wait_for_panels()
{
    stm_wait_copies();
    stm_tell_tensor_cores();
    __syncthreads();
}

#endif
