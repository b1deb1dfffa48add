/* cuda/attend_tiles.cuh: what attention by mma.sync and by wgmma share: a block's walk over tiles of keys, what its
 * lanes write, what scores become in the backward pass. */
#ifndef STM_CUDA_ATTEND_TILES_CUH
#define STM_CUDA_ATTEND_TILES_CUH

#include "cuda/tiles.cuh"

/* Tiles of keys that a block's tall rows [first, end) meet, part after part. */
template <int KEYS> struct key_tiles {
    const tall *q;
    const stm_attend_part *parts;
    row_span rows;
    size_t part, key, n_keys; /* n_keys: of the part, that any of the rows sees */

    __device__ key_tiles(const tall &q_, const stm_attend_part *parts_, size_t first, size_t end)
        : q(&q_), parts(parts_), rows(rows_of(q_, first, end)), part(0), key(0), n_keys(0)
    {
        find();
    }

    __device__ bool has() const
    {
        return part < q->a->n_parts;
    }

    __device__ void next()
    {
        key += KEYS;
        if (key < n_keys)
            return;
        part++;
        find();
    }

  private:
    __device__ void find()
    {
        for (key = 0; has(); part++)
            if ((n_keys = keys_of_any(parts[part], rows)) > 0)
                return;
    }
};

/* The tile's keys, or values: array is k or v of the part. */
template <int D, class Layout = padded<D>, int KEYS>
static __device__ __forceinline__ void copy_tile(const key_tiles<KEYS> &at, const void *array, bf16 *to)
{
    const size_t d = at.q->a->head_dim;
    const bf16 *keys = (const bf16 *)array + at.q->head * at.parts[at.part].kv_stride * d;
    copy_keys<D, KEYS, Layout>(keys, d, at.key, at.n_keys, to);
}

template <int D>
static __device__ __forceinline__ void write_row(const tall &q, size_t t, const float o[D / 8][4], int which,
                                                 const running &row)
{
    const int d = (int)q.a->head_dim;
    const float sum = quad_sum(row.sum);
    if (t >= q.n)
        return;
    bf16 *to = (bf16 *)q.a->o + q.vector(t) * d;
#pragma unroll
    for (int j = 0; j < D / 8; j++) {
        const int at = 8 * j + 2 * (threadIdx.x % 4);
        if (at < d)
            *(unsigned *)(to + at) = stm_pack(o[j][which] / sum, o[j][which + 1] / sum);
    }
    if (threadIdx.x % 4 == 0)
        ((float *)q.a->lse)[q.vector(t)] = (row.m + log2f(sum)) * LOG_2;
}

/* What a row's scores become: P = 2^(s steepness - lse) and dS = (P dP - P delta) scale; steepness: scale in units of
 * log 2. */
struct alignas(8) slope {
    float lse, delta; /* in units of log 2, infinite: a row that is not there, P is 0; times scale */

    __device__ __forceinline__ float weight(float s, float steepness) const
    {
        return stm_exp2(s * steepness - lse);
    }
    __device__ __forceinline__ float gradient(float p, float dp, float scale) const
    {
        return p * (dp * scale - delta);
    }
};

static __device__ slope slope_of(const tall &q, const float *delta, size_t t, size_t end)
{
    if (t >= end)
        return {INFINITY, 0};
    return {((const float *)q.a->lse)[q.vector(t)] / LOG_2, delta[q.vector(t)] * (float)q.a->scale};
}

/* A lane's two rows of dq. */
template <int D>
static __device__ __forceinline__ void write_queries(const tall &q, const size_t mine[2], const float dq[D / 8][4])
{
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            const size_t column = 8 * j + 2 * (threadIdx.x % 4);
            if (mine[r] < q.n && column < q.a->head_dim)
                *(unsigned *)((bf16 *)q.a->dq + q.vector(mine[r]) * q.a->head_dim + column) =
                    stm_pack(dq[j][2 * r], dq[j][2 * r + 1]);
        }
}

/* Adds D numbers, from `first_column` on, of a warp's 16 keys of a gradient. */
template <int D>
static __device__ __forceinline__ void add_keys(const stm_attend_part &part, size_t head, size_t d, size_t first,
                                                size_t first_column, const float x[D / 8][4], void *to)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const size_t key = lane_row(first, r);
        float *row = (float *)to + (head * part.dkv_stride + key) * d;
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            const size_t column = first_column + 8 * j + 2 * (threadIdx.x % 4);
            if (key >= part.n_keys || column >= d)
                continue;
            row[column] += x[j][2 * r];
            row[column + 1] += x[j][2 * r + 1];
        }
    }
}

/* Blocks' x counts tiles of so many tall rows, y KV heads. */
static inline dim3 grid_of_rows(const stm_attend *a, size_t rows_of_block)
{
    const size_t n = a->n_rows * (a->n_heads / a->n_kv_heads);
    return dim3((unsigned)stm_pieces_of(n, rows_of_block), (unsigned)a->n_kv_heads);
}

#endif
