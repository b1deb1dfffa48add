/* Products by cuBLAS. Its matrices are column-major: C = op(A) op(B) in rows is C^T = op(B)^T op(A)^T in columns, so
 * the operands change places and nothing is moved.
 *
 * No epilogue of cublasLt would save what is left to save. Biases are added where the rotary embedding reads the
 * projections, without a pass of their own: that was 4 bytes a number, for the 2,048 of a row of a Qwen2.5-1.5B layer
 * 134 MB with 16,384 rows. Their gradient's sum reads 2 bytes a number again (67 MB, 20 us of an H100's time, beside
 * 10 ms for such a layer's backward): BGRADA and BGRADB, which could form it in the weights' product, overwrite where
 * gradients are added up, and nothing says in what order they sum. */
#include "cuda/device.cuh"

#include <limits.h>

/* Types of a product's arrays and of its sums. */
typedef struct {
    cudaDataType operands, result;
    cublasComputeType_t sums;
} product_types;

static stm_status multiply(stm_stream *stream, const stm_gemm *g, const product_types *types)
{
    const float alpha32 = (float)g->alpha, beta32 = (float)g->beta;
    const bool wide = types->sums == CUBLAS_COMPUTE_64F;
    const size_t longest = STM_MAX(STM_MAX(STM_MAX(g->m, g->n), STM_MAX(g->k, g->lda)), STM_MAX(g->ldb, g->ldc));
    if (g->m == 0 || g->n == 0)
        return STM_OK;
    if (longest > INT_MAX)
        return stm_fail(STM_ERR_DEVICE, "cuda: a product of %zu x %zu x %zu; expected sizes below 2^31", g->m, g->n,
                        g->k);
    STM_CUBLAS(cublasGemmEx(stream->blas, g->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                            g->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, (int)g->n, (int)g->m, (int)g->k,
                            wide ? (const void *)&g->alpha : &alpha32, g->b, types->operands, (int)g->ldb, g->a,
                            types->operands, (int)g->lda, wide ? (const void *)&g->beta : &beta32, g->c, types->result,
                            (int)g->ldc, types->sums, CUBLAS_GEMM_DEFAULT));
    return STM_OK;
}

stm_status stm_cuda_gemm_f64(stm_stream *stream, const stm_gemm *gemm)
{
    const product_types types = {CUDA_R_64F, CUDA_R_64F, CUBLAS_COMPUTE_64F};
    return multiply(stream, gemm, &types);
}

stm_status stm_cuda_gemm_f32(stm_stream *stream, const stm_gemm *gemm)
{
    const product_types types = {CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F};
    return multiply(stream, gemm, &types);
}

/* Rounding */

/* N: numbers that a thread takes at a time. */
template <int N>
static __global__ void round_kernel(size_t n_rows, size_t n_columns, size_t ld, const float *from, __nv_bfloat16 *to)
{
    float x[N];
    for (STM_EACH_ELEMENT(piece, n_rows * n_columns / N)) {
        const size_t i = piece * N;
        stm_load<N>(from + i / n_columns * ld + i % n_columns, x);
        stm_store<N>(x, to + i);
    }
}

static stm_status round_to(stm_stream *stream, size_t n_rows, size_t n_columns, size_t ld, const void *from,
                           __nv_bfloat16 *to)
{
    const bool wide = stm_go_in_eights(n_columns | ld, from, to);
    return stm_launch(stream, stm_blocks_for(stream, n_rows * n_columns / (wide ? 8 : 1)), STM_BLOCK, 0,
                      wide ? round_kernel<8> : round_kernel<1>, n_rows, n_columns, ld, (const float *)from, to);
}

static stm_cuda_rounded *find_rounded(const stm_stream *stream, const float *at)
{
    for (size_t i = 0; i < stream->n_rounded; i++) {
        stm_cuda_rounded *range = &stream->rounded[i];
        if (at >= range->weights && at < range->weights + range->n)
            return range;
    }
    return NULL;
}

stm_status stm_cuda_round_weights(stm_stream *stream, const void *weights, size_t n)
{
    stm_cuda_rounded *range = find_rounded(stream, (const float *)weights);
    if (range && (range->weights != weights || range->n != n)) {
        STM_TRY(stm_cuda_synchronize(stream));
        STM_CUDA(cudaFree(range->rounded));
        *range = stream->rounded[--stream->n_rounded];
        range = NULL;
    }
    if (n == 0)
        return STM_OK;
    if (!range) {
        __nv_bfloat16 *memory;
        STM_TRY(stm_reserve(&stream->rounded, &stream->rounded_capacity, stream->n_rounded + 1, sizeof *range));
        STM_TRY(stm_cuda_take(n * sizeof *memory, "weights in bfloat16", &memory));
        range = &stream->rounded[stream->n_rounded++];
        *range = {(const float *)weights, n, memory};
    }
    return round_to(stream, 1, n, n, weights, range->rounded);
}

/* A row-major operand of a product: activations, or the rounded copy of weights; NULL: to be rounded, from reals. */
typedef struct {
    const void *reals;
    const __nv_bfloat16 *rounded;
    size_t n_rows, n_columns, ld;
} operand;

static operand operand_of(const stm_stream *stream, const void *x, bool activations, size_t n_rows, size_t n_columns,
                          size_t ld)
{
    const float *at = (const float *)x;
    const stm_cuda_rounded *range = activations ? NULL : find_rounded(stream, at);
    const __nv_bfloat16 *rounded = activations ? (const __nv_bfloat16 *)x
                                   : range     ? range->rounded + (at - range->weights)
                                               : NULL;
    return {x, rounded, n_rows, n_columns, ld};
}

/* What of the scratch it is rounded to. */
static size_t scratch_of(const operand *x)
{
    return x->rounded ? 0 : (x->n_rows * x->n_columns + 7) / 8 * 8;
}

static stm_status round_operand(stm_stream *stream, operand *x, __nv_bfloat16 *room)
{
    if (x->rounded)
        return STM_OK;
    STM_TRY(round_to(stream, x->n_rows, x->n_columns, x->ld, x->reals, room));
    x->rounded = room;
    x->ld = STM_MAX(x->n_columns, (size_t)1);
    return STM_OK;
}

/* Reals with other factors than a model's products have are none that need the speed: they keep their precision. */
stm_status stm_cuda_gemm_bf16(stm_stream *stream, const stm_gemm *gemm)
{
    const bool plain = gemm->alpha == 1 && (gemm->beta == 0 || gemm->beta == 1);
    if (!plain && !gemm->activations.a && !gemm->activations.b && !gemm->activations.c)
        return stm_cuda_gemm_f32(stream, gemm);
    const product_types types = {CUDA_R_16BF, gemm->activations.c ? CUDA_R_16BF : CUDA_R_32F, CUBLAS_COMPUTE_32F};
    operand a = operand_of(stream, gemm->a, gemm->activations.a, gemm->transpose_a ? gemm->k : gemm->m,
                           gemm->transpose_a ? gemm->m : gemm->k, gemm->lda);
    operand b = operand_of(stream, gemm->b, gemm->activations.b, gemm->transpose_b ? gemm->n : gemm->k,
                           gemm->transpose_b ? gemm->k : gemm->n, gemm->ldb);
    stm_gemm g = *gemm;
    __nv_bfloat16 *room;
    STM_TRY(stm_cuda_scratch(stream, (scratch_of(&a) + scratch_of(&b)) * sizeof *room, &room));
    __nv_bfloat16 *const room_of_b = room + scratch_of(&a);
    STM_TRY(round_operand(stream, &a, room));
    STM_TRY(round_operand(stream, &b, room_of_b));
    g.a = a.rounded;
    g.lda = a.ld;
    g.b = b.rounded;
    g.ldb = b.ld;
    return multiply(stream, &g, &types);
}
