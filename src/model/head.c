#include "model/head.h"

/* A block of logits: large enough for a GEMM to run at full speed, small enough for the caches that its softmax reads.
 */
enum { BLOCK_ROWS = 512, BLOCK_COLUMNS = 2048 };

typedef struct {
    double *m, *s, *t, *z_target; /* [BLOCK_ROWS]: running sums of the softmax */
    void *normed, *dnormed;       /* [BLOCK_ROWS, hidden] */
    void *logits;                 /* [BLOCK_ROWS, BLOCK_COLUMNS] */
} head_scratch;

size_t stm_head_scratch_bytes(const stm_model *model)
{
    return BLOCK_ROWS *
           (4 * sizeof(double) + (2 * model->config.hidden_size + BLOCK_COLUMNS) * model->backend->real_bytes);
}

static head_scratch cut(const stm_model *model, void *memory)
{
    const stm_backend *b = model->backend;
    head_scratch s = {.m = memory};
    s.s = s.m + BLOCK_ROWS;
    s.t = s.s + BLOCK_ROWS;
    s.z_target = s.t + BLOCK_ROWS;
    s.normed = s.z_target + BLOCK_ROWS;
    s.dnormed = stm_at(b, s.normed, BLOCK_ROWS * model->config.hidden_size);
    s.logits = stm_at(b, s.dnormed, BLOCK_ROWS * model->config.hidden_size);
    return s;
}

static stm_rmsnorm norm_args(const stm_model *model, const stm_head_rows *rows, size_t first, size_t n)
{
    const stm_backend *b = model->backend;
    return (stm_rmsnorm){.n_rows = n,
                         .width = model->config.hidden_size,
                         .eps = model->config.rms_eps,
                         .x = stm_at(b, rows->x, first * model->config.hidden_size),
                         .w = stm_at(b, model->weights, model->final_norm),
                         .inverse_rms = stm_at(b, rows->inverse_rms, first)};
}

static stm_status norm(const stm_model *model, const stm_head_rows *rows, size_t first, size_t n, void *y)
{
    stm_rmsnorm args = norm_args(model, rows, first, n);
    args.y = y;
    return model->backend->rmsnorm(model->stream, &args);
}

/* logits[n, n_columns] = normed[n, hidden] W[columns, hidden]^T */
static stm_status form_logits(const stm_model *model, const head_scratch *s, size_t n, size_t column, size_t n_columns)
{
    const size_t hidden = model->config.hidden_size;
    const stm_gemm gemm = {.transpose_b = true,
                           .m = n,
                           .n = n_columns,
                           .k = hidden,
                           .alpha = 1,
                           .a = s->normed,
                           .lda = hidden,
                           .b = stm_at(model->backend, model->weights, model->head + column * hidden),
                           .ldb = hidden,
                           .c = s->logits,
                           .ldc = n_columns};
    return model->backend->gemm(model->stream, &gemm);
}

static stm_head_block block_args(const stm_head_rows *rows, const head_scratch *s, size_t first, size_t n)
{
    return (stm_head_block){.n_rows = n,
                            .logits = s->logits,
                            .targets = rows->targets + first,
                            .inverse_temperature = rows->inverse_temperature + first,
                            .m = s->m,
                            .s = s->s,
                            .t = s->t,
                            .z_target = s->z_target,
                            .logp = rows->logp + first,
                            .entropy = rows->entropy + first,
                            .lse = rows->lse + first};
}

stm_status stm_head_forward(const stm_model *model, const stm_head_rows *rows, void *scratch)
{
    const head_scratch s = cut(model, scratch);
    const size_t vocab = model->config.vocab_size;
    for (size_t first = 0; first < rows->n_rows; first += BLOCK_ROWS) {
        const size_t n = STM_MIN(rows->n_rows - first, (size_t)BLOCK_ROWS);
        stm_head_block block = block_args(rows, &s, first, n);
        STM_TRY(norm(model, rows, first, n, s.normed));
        for (size_t column = 0; column < vocab; column += BLOCK_COLUMNS) {
            block.first_column = column;
            block.n_columns = STM_MIN(vocab - column, (size_t)BLOCK_COLUMNS);
            STM_TRY(form_logits(model, &s, n, column, block.n_columns));
            STM_TRY(model->backend->head_block(model->stream, &block));
        }
        STM_TRY(model->backend->head_finish(model->stream, &block));
    }
    return STM_OK;
}

/* From dlogits [n, n_columns], which stand in s->logits: dW += dlogits^T normed; dnormed += dlogits W. */
static stm_status logits_backward(const stm_model *model, const head_scratch *s, size_t n, size_t column,
                                  size_t n_columns, void *gradient)
{
    const stm_backend *b = model->backend;
    const size_t hidden = model->config.hidden_size, weight = model->head + column * hidden;
    const stm_gemm to_weight = {.transpose_a = true,
                                .m = n_columns,
                                .n = hidden,
                                .k = n,
                                .alpha = 1,
                                .beta = 1,
                                .a = s->logits,
                                .lda = n_columns,
                                .b = s->normed,
                                .ldb = hidden,
                                .c = stm_at(b, gradient, weight),
                                .ldc = hidden};
    STM_TRY(b->gemm(model->stream, &to_weight));
    const stm_gemm to_rows = {.m = n,
                              .n = hidden,
                              .k = n_columns,
                              .alpha = 1,
                              .beta = column == 0 ? 0 : 1,
                              .a = s->logits,
                              .lda = n_columns,
                              .b = stm_at(b, model->weights, weight),
                              .ldb = hidden,
                              .c = s->dnormed,
                              .ldc = hidden};
    return b->gemm(model->stream, &to_rows);
}

stm_status stm_head_backward(const stm_model *model, const stm_head_rows *rows, const double *dlogp,
                             const double *dentropy, void *scratch, void *dx, void *gradient)
{
    const stm_backend *b = model->backend;
    const head_scratch s = cut(model, scratch);
    const size_t vocab = model->config.vocab_size, hidden = model->config.hidden_size;
    STM_TRY(b->zero(model->stream, dx, rows->n_rows * hidden * b->real_bytes));
    for (size_t first = 0; first < rows->n_rows; first += BLOCK_ROWS) {
        const size_t n = STM_MIN(rows->n_rows - first, (size_t)BLOCK_ROWS);
        stm_head_block block = block_args(rows, &s, first, n);
        block.dlogp = dlogp + first;
        block.dentropy = dentropy ? dentropy + first : NULL;
        STM_TRY(norm(model, rows, first, n, s.normed));
        for (size_t column = 0; column < vocab; column += BLOCK_COLUMNS) {
            block.first_column = column;
            block.n_columns = STM_MIN(vocab - column, (size_t)BLOCK_COLUMNS);
            STM_TRY(form_logits(model, &s, n, column, block.n_columns));
            STM_TRY(b->head_block_backward(model->stream, &block));
            STM_TRY(logits_backward(model, &s, n, column, block.n_columns, gradient));
        }
        stm_rmsnorm args = norm_args(model, rows, first, n);
        args.dy = s.dnormed;
        args.dx = stm_at(b, dx, first * hidden);
        args.dw = stm_at(b, gradient, model->final_norm);
        STM_TRY(b->rmsnorm_backward(model->stream, &args));
    }
    return STM_OK;
}
