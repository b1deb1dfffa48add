#include "model/layer.h"

#include <math.h>

#include "base/pulse.h"

/* Sizes that recur below. */
typedef struct {
    size_t hidden, inner, q_width, kv_width; /* kv_width: K and V side by side */
} widths;

static widths widths_of(const stm_model *model)
{
    const stm_model_config *c = &model->config;
    return (widths){c->hidden_size, c->intermediate_size, c->n_heads * c->head_dim, 2 * c->n_kv_heads * c->head_dim};
}

/* What is left of a piece of memory: takes bytes of it for arrays that begin at its cache lines; with a NULL base it
 * only counts. */
typedef struct {
    const stm_backend *backend;
    char *base;
    size_t used;
} cutting;

static void *take(cutting *c, size_t bytes)
{
    void *at = c->base ? c->base + c->used : NULL;
    c->used += (bytes + 63) / 64 * 64;
    return at;
}

static void *take_reals(cutting *c, size_t n)
{
    return take(c, n * c->backend->real_bytes);
}

static void *take_activations(cutting *c, size_t n)
{
    return take(c, n * c->backend->activation_bytes);
}

static size_t cut_kept(const stm_model *model, size_t n_rows, size_t n, void *memory, stm_layer_kept *kept)
{
    const widths w = widths_of(model);
    const bool raw = model->config.qk_norm;
    cutting c = {model->backend, memory, 0};
    kept->x = take_reals(&c, n_rows * w.hidden);
    kept->inverse_rms1 = take_reals(&c, n_rows);
    kept->q_raw = raw ? take_activations(&c, n * w.q_width) : NULL;
    kept->kv_raw = raw ? take_activations(&c, n_rows * w.kv_width) : NULL;
    kept->q = take_activations(&c, n * w.q_width);
    kept->o = take_activations(&c, n * w.q_width);
    kept->lse = take_reals(&c, n * model->config.n_heads);
    kept->x_mid = take_reals(&c, n * w.hidden);
    kept->inverse_rms2 = take_reals(&c, n);
    kept->gu = take_activations(&c, n * 2 * w.inner);
    return c.used;
}

size_t stm_layer_kept_bytes(const stm_model *model, size_t n_rows, size_t n_active)
{
    stm_layer_kept kept;
    return cut_kept(model, n_rows, n_active, NULL, &kept);
}

void stm_layer_kept_init(const stm_model *model, size_t n_rows, size_t n_active, void *memory, stm_layer_kept *kept)
{
    cut_kept(model, n_rows, n_active, memory, kept);
}

/* When dgu has been read, `picked` takes its place. */
static void take_dgu(cutting *c, size_t n_rows, const widths *w, stm_layer_scratch *scratch)
{
    const size_t row_bytes = STM_MAX(2 * w->inner * c->backend->activation_bytes, w->hidden * c->backend->real_bytes);
    scratch->dgu = scratch->picked = take(c, n_rows * row_bytes);
}

static size_t cut_scratch(const stm_model *model, size_t n_rows, bool backward, void *memory,
                          stm_layer_scratch *scratch)
{
    const widths w = widths_of(model);
    cutting c = {model->backend, memory, 0};
    *scratch = (stm_layer_scratch){.n_rows = n_rows};
    scratch->a = take_activations(&c, n_rows * w.hidden);
    scratch->b = backward ? take_reals(&c, n_rows * w.hidden) : take_activations(&c, n_rows * w.hidden);
    scratch->q = take_activations(&c, n_rows * w.q_width);
    scratch->kv = take_activations(&c, n_rows * w.kv_width);
    scratch->h = take_activations(&c, n_rows * w.inner);
    if (!backward)
        return c.used;
    scratch->dq = take_activations(&c, n_rows * w.q_width);
    scratch->d_o = take_activations(&c, n_rows * w.q_width);
    scratch->dh = take_activations(&c, n_rows * w.inner);
    take_dgu(&c, n_rows, &w, scratch);
    return c.used;
}

size_t stm_layer_scratch_bytes(const stm_model *model, size_t n_rows, bool backward)
{
    stm_layer_scratch scratch;
    return cut_scratch(model, n_rows, backward, NULL, &scratch);
}

void stm_layer_scratch_init(const stm_model *model, size_t n_rows, bool backward, void *memory,
                            stm_layer_scratch *scratch)
{
    cut_scratch(model, n_rows, backward, memory, scratch);
}

/* y[rows, out] = x[rows, in] W[out, in]^T, of activations; residual: y += it, in reals. */
static stm_status project(const stm_model *model, size_t rows, size_t in, size_t out, const void *x, size_t weight,
                          bool residual, void *y)
{
    const stm_gemm gemm = {.transpose_b = true,
                           .activations = {.a = true, .c = !residual},
                           .m = rows,
                           .n = out,
                           .k = in,
                           .alpha = 1,
                           .beta = residual ? 1 : 0,
                           .a = x,
                           .lda = in,
                           .b = stm_at(model->backend, model->weights, weight),
                           .ldb = in,
                           .c = y,
                           .ldc = out};
    return model->backend->gemm(model->stream, &gemm);
}

/* dx[rows, in] = dy[rows, out] W[out, in] + beta dx, dy of activations. residual: dy is the residual stream's, and dx
 * of activations; else dx is the gradient of a norm's result, in reals. */
static stm_status project_back(const stm_model *model, size_t rows, size_t in, size_t out, bool residual,
                               const void *dy, size_t weight, double beta, void *dx)
{
    const stm_gemm gemm = {.activations = {.a = true, .c = residual},
                           .m = rows,
                           .n = in,
                           .k = out,
                           .alpha = 1,
                           .beta = beta,
                           .a = dy,
                           .lda = out,
                           .b = stm_at(model->backend, model->weights, weight),
                           .ldb = in,
                           .c = dx,
                           .ldc = in};
    return model->backend->gemm(model->stream, &gemm);
}

/* dW[out, in] += dy[rows, out]^T x[rows, in], of activations. */
static stm_status weight_gradient(const stm_model *model, size_t rows, size_t in, size_t out, const void *dy,
                                  const void *x, void *gradient, size_t weight)
{
    const stm_gemm gemm = {.transpose_a = true,
                           .activations = {.a = true, .b = true},
                           .m = out,
                           .n = in,
                           .k = rows,
                           .alpha = 1,
                           .beta = 1,
                           .a = dy,
                           .lda = out,
                           .b = x,
                           .ldb = in,
                           .c = stm_at(model->backend, gradient, weight),
                           .ldc = in};
    return model->backend->gemm(model->stream, &gemm);
}

/* The gradient dx [rows, hidden] of the residual stream as products take it: two of each half of a layer do, and the
 * half before has left it in `a`; it is itself where activations are reals. */
static stm_status as_activations(const stm_model *model, size_t rows, const void *dx, stm_layer_scratch *scratch,
                                 const void **out)
{
    const stm_backend *b = model->backend;
    *out = b->activation_bytes == b->real_bytes ? dx : scratch->a;
    if (*out == dx || scratch->rounded == dx)
        return STM_OK;
    scratch->rounded = dx;
    return b->to_activations(model->stream, rows * model->config.hidden_size, dx, scratch->a);
}

static stm_status bias_gradient(const stm_model *model, size_t rows, size_t width, const void *dy, void *gradient,
                                size_t bias)
{
    const stm_bias args = {
        .n_rows = rows, .width = width, .stride = width, .dy = dy, .db = stm_at(model->backend, gradient, bias)};
    return model->backend->bias_backward(model->stream, &args);
}

static stm_rmsnorm norm_args(const stm_model *model, size_t rows, const void *x, size_t weight, void *inverse_rms)
{
    return (stm_rmsnorm){.n_rows = rows,
                         .width = model->config.hidden_size,
                         .eps = model->config.rms_eps,
                         .x = x,
                         .w = stm_at(model->backend, model->weights, weight),
                         .inverse_rms = inverse_rms};
}

static stm_status norm(const stm_model *model, size_t rows, const void *x, size_t weight, void *inverse_rms, void *y)
{
    stm_rmsnorm args = norm_args(model, rows, x, weight, inverse_rms);
    args.y = y;
    return model->backend->rmsnorm(model->stream, &args);
}

/* dx += , dw += ; dx becomes what `a` has rounded. */
static stm_status norm_backward(const stm_model *model, size_t rows, const void *x, size_t weight, void *inverse_rms,
                                stm_layer_scratch *scratch, void *dx, void *gradient)
{
    stm_rmsnorm args = norm_args(model, rows, x, weight, inverse_rms);
    args.dy = scratch->b;
    args.dx = dx;
    args.dx_rounded = model->backend->activation_bytes == model->backend->real_bytes ? NULL : scratch->a;
    scratch->rounded = dx;
    args.dw = stm_at(model->backend, gradient, weight);
    return model->backend->rmsnorm_backward(model->stream, &args);
}

static stm_rotary rotary_args(const stm_model *model, const stm_layer_offsets *at, const stm_layer_rows *rows, size_t n)
{
    const stm_model_config *c = &model->config;
    const stm_backend *b = model->backend;
    const widths w = widths_of(model);
    const size_t k_bias = at->qkv_bias + w.q_width;
    return (stm_rotary){
        .n_q_rows = n,
        .n_kv_rows = rows->n_rows,
        .n_heads = c->n_heads,
        .n_kv_heads = c->n_kv_heads,
        .head_dim = c->head_dim,
        .in_stride_q = w.q_width,
        .in_stride_kv = w.kv_width,
        .kv_stride = rows->kv_stride,
        .q_positions = rows->active ? rows->active_positions : rows->positions,
        .kv_positions = rows->positions,
        .cosine = model->cosine,
        .sine = model->sine,
        .q_bias = c->qkv_bias ? stm_at(b, model->weights, at->qkv_bias) : NULL,
        .k_bias = c->qkv_bias ? stm_at(b, model->weights, k_bias) : NULL,
        .v_bias = c->qkv_bias ? stm_at(b, model->weights, k_bias + w.kv_width / 2) : NULL,
        .norm_eps = c->rms_eps,
        .q_norm = c->qk_norm ? stm_at(b, model->weights, at->q_norm) : NULL,
        .k_norm = c->qk_norm ? stm_at(b, model->weights, at->k_norm) : NULL,
    };
}

static stm_attend attend_args(const stm_model *model, const stm_layer_rows *rows, size_t n, const stm_layer_kept *kept)
{
    const stm_model_config *c = &model->config;
    return (stm_attend){.n_rows = n,
                        .n_heads = c->n_heads,
                        .n_kv_heads = c->n_kv_heads,
                        .head_dim = c->head_dim,
                        .scale = 1 / sqrt((double)c->head_dim),
                        .q = kept->q,
                        .n_parts = rows->n_parts,
                        .parts = rows->parts,
                        .device_parts = rows->device_parts,
                        .o = kept->o,
                        .lse = kept->lse};
}

static stm_status meet(const stm_layer_rows *rows, size_t layer, bool backward)
{
    return rows->hooks ? rows->hooks->meet(rows->hooks->context, layer, backward) : STM_OK;
}

static void drive(const stm_layer_rows *rows)
{
    stm_pulse_progress();
    if (rows->hooks)
        rows->hooks->drive(rows->hooks->context);
}

stm_status stm_layer_forward(const stm_model *model, size_t layer, const stm_layer_rows *rows, stm_layer_kept *kept,
                             stm_layer_scratch *scratch, void *out)
{
    const stm_backend *b = model->backend;
    const stm_layer_offsets *at = &model->layers[layer];
    const widths w = widths_of(model);
    const size_t n_rows = rows->n_rows, n = rows->active ? rows->n_active : n_rows;
    const size_t kv_weight = at->qkv + w.q_width * w.hidden;
    void *q_in = kept->q_raw ? kept->q_raw : scratch->q, *kv_in = kept->kv_raw ? kept->kv_raw : scratch->kv;

    void *normed = scratch->a, *normed_active = rows->active ? scratch->b : normed; /* [n_rows, hidden], [n, hidden] */
    STM_TRY(norm(model, n_rows, kept->x, at->input_norm, kept->inverse_rms1, normed));
    if (rows->active) {
        const stm_rows pick = {
            .activations = true, .n_rows = n, .width = w.hidden, .rows = rows->active, .x = normed, .y = normed_active};
        STM_TRY(b->gather(model->stream, &pick));
    }
    STM_TRY(project(model, n, w.hidden, w.q_width, normed_active, at->qkv, false, q_in));
    STM_TRY(project(model, n_rows, w.hidden, w.kv_width, normed, kv_weight, false, kv_in));
    stm_rotary rotary = rotary_args(model, at, rows, n);
    rotary.q_in = q_in;
    rotary.k_in = kv_in;
    rotary.v_in = stm_activation_at(b, kv_in, w.kv_width / 2);
    rotary.q = kept->q;
    rotary.k = rows->k;
    rotary.v = rows->v;
    STM_TRY(b->rotary(model->stream, &rotary));
    STM_TRY(meet(rows, layer, false));
    if (n == 0)
        return STM_OK;
    if (rows->append)
        STM_TRY(b->append(model->stream, rows->append));

    const stm_attend attend = attend_args(model, rows, n, kept);
    STM_TRY(b->attend(model->stream, &attend));
    drive(rows);
    if (rows->active) {
        const stm_rows pick = {.n_rows = n, .width = w.hidden, .rows = rows->active, .x = kept->x, .y = kept->x_mid};
        STM_TRY(b->gather(model->stream, &pick));
    } else {
        STM_TRY(b->copy(model->stream, kept->x_mid, kept->x, n * w.hidden * b->real_bytes));
    }
    STM_TRY(project(model, n, w.q_width, w.hidden, kept->o, at->o, true, kept->x_mid));
    drive(rows);

    STM_TRY(norm(model, n, kept->x_mid, at->post_norm, kept->inverse_rms2, scratch->a));
    STM_TRY(project(model, n, w.hidden, 2 * w.inner, scratch->a, at->gate_up, false, kept->gu));
    drive(rows);
    const stm_swiglu swiglu = {.n_rows = n, .width = w.inner, .gu = kept->gu, .h = scratch->h};
    STM_TRY(b->swiglu(model->stream, &swiglu));
    STM_TRY(b->copy(model->stream, out, kept->x_mid, n * w.hidden * b->real_bytes));
    return project(model, n, w.inner, w.hidden, scratch->h, at->down, true, out);
}

/* The half above attention: dx [n, hidden], the gradient of the layer's output, becomes that of x_mid, in place. */
static stm_status feed_forward_backward(const stm_model *model, const stm_layer_offsets *at, const stm_layer_rows *rows,
                                        size_t n, const stm_layer_kept *kept, stm_layer_scratch *scratch, void *dx,
                                        void *gradient)
{
    const widths w = widths_of(model);
    const void *dy;
    STM_TRY(as_activations(model, n, dx, scratch, &dy));
    STM_TRY(project_back(model, n, w.inner, w.hidden, true, dy, at->down, 0, scratch->dh));
    drive(rows);
    const stm_swiglu swiglu = {
        .n_rows = n, .width = w.inner, .gu = kept->gu, .h = scratch->h, .dh = scratch->dh, .dgu = scratch->dgu};
    STM_TRY(model->backend->swiglu_backward(model->stream, &swiglu));
    STM_TRY(weight_gradient(model, n, w.inner, w.hidden, dy, scratch->h, gradient, at->down));
    drive(rows);
    STM_TRY(norm(model, n, kept->x_mid, at->post_norm, kept->inverse_rms2,
                 scratch->a)); /* formed again: cheaper than kept */
    STM_TRY(weight_gradient(model, n, w.hidden, 2 * w.inner, scratch->dgu, scratch->a, gradient, at->gate_up));
    drive(rows);
    STM_TRY(project_back(model, n, w.hidden, 2 * w.inner, false, scratch->dgu, at->gate_up, 0, scratch->b));
    return norm_backward(model, n, kept->x_mid, at->post_norm, kept->inverse_rms2, scratch, dx, gradient);
}

stm_status stm_layer_backward(const stm_model *model, size_t layer, const stm_layer_rows *rows,
                              const stm_layer_kept *kept, stm_layer_scratch *scratch, void *dx, void *dx_in,
                              void *gradient)
{
    const stm_backend *b = model->backend;
    const stm_layer_offsets *at = &model->layers[layer];
    const widths w = widths_of(model);
    const size_t n_rows = rows->n_rows, n = rows->active ? rows->n_active : n_rows;
    const size_t kv_weight = at->qkv + w.q_width * w.hidden;

    if (n > 0) {
        STM_TRY(feed_forward_backward(model, at, rows, n, kept, scratch, dx, gradient));
        const void *dy;
        STM_TRY(as_activations(model, n, dx, scratch, &dy));
        STM_TRY(project_back(model, n, w.q_width, w.hidden, true, dy, at->o, 0, scratch->d_o));
        STM_TRY(weight_gradient(model, n, w.q_width, w.hidden, dy, kept->o, gradient, at->o));
        drive(rows);
        stm_attend attend = attend_args(model, rows, n, kept);
        attend.d_o = scratch->d_o;
        attend.dq = scratch->dq;
        STM_TRY(b->attend_backward(model->stream, &attend));
    }
    STM_TRY(meet(rows, layer, true));

    stm_rotary rotary = rotary_args(model, at, rows, n);
    rotary.q_in = kept->q_raw;
    rotary.k_in = kept->kv_raw;
    rotary.v_in = kept->kv_raw ? stm_activation_at(b, kept->kv_raw, w.kv_width / 2) : NULL;
    rotary.dq = scratch->dq;
    rotary.dk = rows->dk;
    rotary.dv = rows->dv;
    rotary.dq_in = scratch->q;
    rotary.dk_in = scratch->kv;
    rotary.dv_in = stm_activation_at(b, scratch->kv, w.kv_width / 2);
    rotary.dq_norm = rotary.q_norm ? stm_at(b, gradient, at->q_norm) : NULL;
    rotary.dk_norm = rotary.k_norm ? stm_at(b, gradient, at->k_norm) : NULL;
    STM_TRY(b->rotary_backward(model->stream, &rotary));

    void *normed = scratch->a, *dnormed = scratch->b; /* [n_rows, hidden] */
    STM_TRY(norm(model, n_rows, kept->x, at->input_norm, kept->inverse_rms1, normed));
    if (model->config.qkv_bias) {
        STM_TRY(bias_gradient(model, n, w.q_width, scratch->q, gradient, at->qkv_bias));
        STM_TRY(bias_gradient(model, n_rows, w.kv_width, scratch->kv, gradient, at->qkv_bias + w.q_width));
    }
    STM_TRY(weight_gradient(model, n_rows, w.hidden, w.kv_width, scratch->kv, normed, gradient, kv_weight));
    STM_TRY(project_back(model, n_rows, w.hidden, w.kv_width, false, scratch->kv, kv_weight, 0, dnormed));
    drive(rows);
    if (!rows->active) {
        STM_TRY(weight_gradient(model, n, w.hidden, w.q_width, scratch->q, normed, gradient, at->qkv));
        STM_TRY(project_back(model, n, w.hidden, w.q_width, false, scratch->q, at->qkv, 1, dnormed));
        if (dx_in != dx)
            STM_TRY(b->copy(model->stream, dx_in, dx, n * w.hidden * b->real_bytes));
    } else {
        STM_TRY(b->zero(model->stream, dx_in, n_rows * w.hidden * b->real_bytes));
        if (n > 0) {
            const stm_rows pick = {.activations = true,
                                   .n_rows = n,
                                   .width = w.hidden,
                                   .rows = rows->active,
                                   .x = normed,
                                   .y = scratch->dgu}; /* which has been read */
            STM_TRY(b->gather(model->stream, &pick));
            STM_TRY(weight_gradient(model, n, w.hidden, w.q_width, scratch->q, scratch->dgu, gradient, at->qkv));
            STM_TRY(project_back(model, n, w.hidden, w.q_width, false, scratch->q, at->qkv, 0, scratch->picked));
            const stm_rows spread = {
                .n_rows = n, .width = w.hidden, .rows = rows->active, .x = dnormed, .y = scratch->picked};
            STM_TRY(b->scatter_add(model->stream, &spread));
            const stm_rows residual = {.n_rows = n, .width = w.hidden, .rows = rows->active, .x = dx_in, .y = dx};
            STM_TRY(b->scatter_add(model->stream, &residual));
        }
    }
    return norm_backward(model, n_rows, kept->x, at->input_norm, kept->inverse_rms1, scratch, dx_in, gradient);
}
