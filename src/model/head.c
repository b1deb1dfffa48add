#include "model/head.h"

typedef struct {
    double *m, *s, *t, *z_target; /* [STM_HEAD_ROWS]: running sums of the softmax */
    void *normed;                 /* activations [STM_HEAD_ROWS, hidden] */
    void *dnormed;                /* [STM_HEAD_ROWS, hidden] */
    void *logits;                 /* [STM_HEAD_ROWS, width] */
    size_t width;                 /* of the vocabulary, or of a block of it */
    void *dlogits;                /* activations [STM_HEAD_ROWS, columns of a block], or NULL: the logits become them */
} head_scratch;

static size_t logits_width(const stm_model *model)
{
    const size_t vocab = model->config.vocab_size;
    return vocab <= STM_HEAD_WHOLE_COLUMNS ? vocab : model->backend->head_columns;
}

static bool has_dlogits(const stm_backend *b)
{
    return b->activation_bytes < b->real_bytes;
}

size_t stm_head_scratch_bytes(const stm_model *model)
{
    const stm_backend *b = model->backend;
    const size_t hidden = model->config.hidden_size, reals = hidden + logits_width(model);
    const size_t activations = hidden + (has_dlogits(b) ? b->head_columns : 0);
    return STM_HEAD_ROWS * (4 * sizeof(double) + reals * b->real_bytes + activations * b->activation_bytes);
}

static head_scratch cut(const stm_model *model, void *memory)
{
    const stm_backend *b = model->backend;
    head_scratch s = {.m = memory, .width = logits_width(model)};
    s.s = s.m + STM_HEAD_ROWS;
    s.t = s.s + STM_HEAD_ROWS;
    s.z_target = s.t + STM_HEAD_ROWS;
    s.normed = s.z_target + STM_HEAD_ROWS;
    s.dnormed = stm_activation_at(b, s.normed, STM_HEAD_ROWS * model->config.hidden_size);
    s.logits = stm_at(b, s.dnormed, STM_HEAD_ROWS * model->config.hidden_size);
    s.dlogits = has_dlogits(b) ? stm_at(b, s.logits, STM_HEAD_ROWS * s.width) : NULL;
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

/* The rows from `first` on, n of them, and no columns yet. */
static stm_head_block block_args(const stm_head_rows *rows, const head_scratch *s, size_t first, size_t n)
{
    return (stm_head_block){.n_rows = n,
                            .stride = s->width,
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

static void set_columns(const stm_model *model, const head_scratch *s, size_t column, stm_head_block *block)
{
    const size_t vocab = model->config.vocab_size;
    void *logits = s->width == vocab ? stm_at(model->backend, s->logits, column) : s->logits;
    block->first_column = column;
    block->n_columns = STM_MIN(vocab - column, model->backend->head_columns);
    block->logits = logits;
    block->dlogits = s->dlogits ? s->dlogits : logits;
    block->dstride = s->dlogits ? model->backend->head_columns : block->stride;
}

/* logits[n, columns of the block] = normed[n, hidden] W[columns, hidden]^T */
static stm_status form_logits(const stm_model *model, const head_scratch *s, const stm_head_block *block)
{
    const size_t hidden = model->config.hidden_size;
    const stm_gemm gemm = {.transpose_b = true,
                           .activations = {.a = true},
                           .m = block->n_rows,
                           .n = block->n_columns,
                           .k = hidden,
                           .alpha = 1,
                           .a = s->normed,
                           .lda = hidden,
                           .b = stm_at(model->backend, model->weights, model->head + block->first_column * hidden),
                           .ldb = hidden,
                           .c = block->logits,
                           .ldc = block->stride};
    return model->backend->gemm(model->stream, &gemm);
}

stm_status stm_head_forward(const stm_model *model, const stm_head_rows *rows, void *scratch)
{
    const head_scratch s = cut(model, scratch);
    for (size_t first = 0; first < rows->n_rows; first += STM_HEAD_ROWS) {
        const size_t n = STM_MIN(rows->n_rows - first, (size_t)STM_HEAD_ROWS);
        stm_head_block block = block_args(rows, &s, first, n);
        STM_TRY(norm(model, rows, first, n, s.normed));
        for (size_t column = 0; column < model->config.vocab_size; column += model->backend->head_columns) {
            set_columns(model, &s, column, &block);
            STM_TRY(form_logits(model, &s, &block));
            STM_TRY(model->backend->head_block(model->stream, &block));
        }
        STM_TRY(model->backend->head_finish(model->stream, &block));
    }
    return STM_OK;
}

/* From the block's dlogits: dW += dlogits^T normed; dnormed += dlogits W. */
static stm_status logits_backward(const stm_model *model, const head_scratch *s, const stm_head_block *block,
                                  void *gradient)
{
    const stm_backend *b = model->backend;
    const size_t hidden = model->config.hidden_size, weight = model->head + block->first_column * hidden;
    const stm_gemm to_weight = {.transpose_a = true,
                                .activations = {.a = true, .b = true},
                                .m = block->n_columns,
                                .n = hidden,
                                .k = block->n_rows,
                                .alpha = 1,
                                .beta = 1,
                                .a = block->dlogits,
                                .lda = block->dstride,
                                .b = s->normed,
                                .ldb = hidden,
                                .c = stm_at(b, gradient, weight),
                                .ldc = hidden};
    STM_TRY(b->gemm(model->stream, &to_weight));
    const stm_gemm to_rows = {.activations = {.a = true},
                              .m = block->n_rows,
                              .n = hidden,
                              .k = block->n_columns,
                              .alpha = 1,
                              .beta = block->first_column == 0 ? 0 : 1,
                              .a = block->dlogits,
                              .lda = block->dstride,
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
    const size_t vocab = model->config.vocab_size, n = rows->n_rows;
    stm_head_block block = block_args(rows, &s, 0, n);
    block.dlogp = dlogp;
    block.dentropy = dentropy;
    for (size_t column = 0; column < vocab; column += model->backend->head_columns) {
        set_columns(model, &s, column, &block);
        if (s.width < vocab)
            STM_TRY(form_logits(model, &s, &block));
        STM_TRY(b->head_block_backward(model->stream, &block));
        STM_TRY(logits_backward(model, &s, &block, gradient));
    }
    STM_TRY(b->zero(model->stream, dx, n * model->config.hidden_size * b->real_bytes));
    stm_rmsnorm args = norm_args(model, rows, 0, n);
    args.dy = s.dnormed;
    args.dx = dx;
    args.dw = stm_at(b, gradient, model->final_norm);
    return b->rmsnorm_backward(model->stream, &args);
}

/* Numbers of one a row, so that what follows begins at a cache line. */
static size_t padded(size_t n_rows)
{
    return (n_rows + 15) / 16 * 16;
}

size_t stm_head_spread_bytes(const stm_model *model, size_t n_rows)
{
    const stm_backend *b = model->backend;
    return (n_rows * b->head_columns + padded(n_rows)) * b->real_bytes +
           n_rows * model->config.hidden_size * b->activation_bytes;
}

stm_status stm_head_spread(const stm_model *model, const stm_head_positions *p, void *scratch)
{
    const stm_backend *b = model->backend;
    const size_t vocab = model->config.vocab_size;
    void *inverse_rms = stm_at(b, scratch, p->n_rows * b->head_columns);
    const head_scratch s = {
        .normed = stm_at(b, inverse_rms, padded(p->n_rows)), .logits = scratch, .width = b->head_columns};
    const stm_head_rows rows = {.n_rows = p->n_rows, .x = p->x, .inverse_rms = inverse_rms};
    stm_head_block block = {.n_rows = p->n_rows, .stride = b->head_columns};
    STM_TRY(norm(model, &rows, 0, p->n_rows, s.normed));
    for (size_t column = 0; column < vocab; column += model->backend->head_columns) {
        set_columns(model, &s, column, &block);
        STM_TRY(form_logits(model, &s, &block));
        const stm_spread args = {.n_positions = p->n_positions,
                                 .n_members = p->n_members,
                                 .n_vocab = vocab,
                                 .first_column = column,
                                 .n_columns = block.n_columns,
                                 .stride = block.stride,
                                 .logits = block.logits,
                                 .inverse_temperature = p->inverse_temperature,
                                 .first_rows = p->first_rows,
                                 .lse = p->lse,
                                 .sums = p->sums};
        STM_TRY(b->spread(model->stream, &args));
    }
    return STM_OK;
}
