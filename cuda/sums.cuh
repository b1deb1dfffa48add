/* cuda/sums.cuh: sums over rows, in an order that the shapes alone give: rows are cut into pieces, which are summed on
 * their own and then added up, first to last. */
#ifndef STM_CUDA_SUMS_CUH
#define STM_CUDA_SUMS_CUH

#include "cuda/device.cuh"

/* Pieces fill the device, and adding them up takes no time beside that. */
enum { STM_MOST_PIECES = 512, STM_WARPS_OF_A_SUM = STM_BLOCK / STM_WARP };

/* Rows of a piece, `least` where there are few. */
inline size_t stm_rows_of_piece(size_t n_rows, size_t least)
{
    return STM_MAX(least, stm_pieces_of(n_rows, STM_MOST_PIECES));
}

/* A warp's lanes take N columns each, its block's warps rows in turn: value.get<N>(r, i, x) is x of row r, columns i ..
 * i + N - 1. Blocks' x counts columns, y pieces. */
template <int N, class R, class Value>
__global__ void stm_sum_pieces(size_t n_rows, size_t rows_of_piece, size_t width, Value value, R *pieces)
{
    __shared__ R sums[STM_WARPS_OF_A_SUM][N][STM_WARP];
    const unsigned lane = threadIdx.x % STM_WARP, warp = threadIdx.x / STM_WARP;
    const size_t i = ((size_t)blockIdx.x * STM_WARP + lane) * N;
    const size_t first = blockIdx.y * rows_of_piece, end = STM_MIN(n_rows, first + rows_of_piece);
    R sum[N] = {};
    if (i < width) {
#pragma unroll 4
        for (size_t r = first + warp; r < end; r += STM_WARPS_OF_A_SUM) {
            R x[N];
            value.template get<N>(r, i, x);
            for (int j = 0; j < N; j++)
                sum[j] += x[j];
        }
    }
    for (int j = 0; j < N; j++)
        sums[warp][j][lane] = sum[j];
    __syncthreads();
    for (int j = (int)warp; j < N && i < width; j += STM_WARPS_OF_A_SUM) {
        R all = 0;
        for (int w = 0; w < STM_WARPS_OF_A_SUM; w++)
            all += sums[w][j][lane];
        pieces[blockIdx.y * width + i + j] = all;
    }
}

/* to[i] += the sum of pieces [n_pieces, width]; a lane takes a column, the block's warps pieces in turn. */
template <class R> __global__ void stm_add_pieces(size_t n_pieces, size_t width, const R *pieces, R *to)
{
    __shared__ double sums[STM_WARPS_OF_A_SUM][STM_WARP];
    const unsigned lane = threadIdx.x % STM_WARP, warp = threadIdx.x / STM_WARP;
    const size_t i = (size_t)blockIdx.x * STM_WARP + lane;
    double sum = 0;
    if (i < width) {
#pragma unroll 8
        for (size_t p = warp; p < n_pieces; p += STM_WARPS_OF_A_SUM)
            sum += (double)pieces[p * width + i];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || i >= width)
        return;
    for (int w = 1; w < STM_WARPS_OF_A_SUM; w++)
        sum += sums[w][lane];
    to[i] += (R)sum;
}

template <class R> stm_status stm_add_up(stm_stream *stream, size_t n_pieces, size_t width, const R *pieces, R *to)
{
    return stm_launch(stream, dim3((unsigned)stm_pieces_of(width, STM_WARP)), STM_BLOCK, 0, stm_add_pieces<R>, n_pieces,
                      width, pieces, to);
}

/* to[i] += sum over r of value(r, i), i < width, which is a multiple of N. */
enum { STM_LEAST_ROWS_OF_A_SUM = 32 };

/* Bytes of `pieces` below, device memory. */
template <class R> size_t stm_sum_rows_bytes(size_t n_rows, size_t width)
{
    return stm_pieces_of(n_rows, stm_rows_of_piece(n_rows, STM_LEAST_ROWS_OF_A_SUM)) * width * sizeof(R);
}

template <int N, class R, class Value>
stm_status stm_sum_rows(stm_stream *stream, size_t n_rows, size_t width, Value value, R *pieces, R *to)
{
    const size_t rows_of_piece = stm_rows_of_piece(n_rows, STM_LEAST_ROWS_OF_A_SUM);
    const dim3 grid((unsigned)stm_pieces_of(width, STM_WARP * N), (unsigned)stm_pieces_of(n_rows, rows_of_piece));
    STM_TRY(stm_launch(stream, grid, STM_BLOCK, 0, stm_sum_pieces<N, R, Value>, n_rows, rows_of_piece, width, value,
                       pieces));
    return stm_add_up(stream, (size_t)grid.y, width, (const R *)pieces, to);
}

#endif
