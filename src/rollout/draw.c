#include "rollout/draw.h"

#include <math.h>

enum { LOGITS_AT_ONCE = 1 << 22 }; /* elements of a block of whole logits */

struct stm_draw {
    const stm_model *model, *other_model; /* other: NULL: there is one */
    const stm_sampling *sampling;
    stm_rollout_item *items;
    size_t most_rows;

    size_t n_rows; /* of the batch */
    const stm_occupant *rows;
    void *normed, *inverse_rms, *logits; /* device; activations [n_rows, hidden], [n_rows], a block of whole rows */
    void *other_normed;                  /* [n_rows, hidden] activations, device */
    int32_t *sampled;                    /* device */
    double *uniform, *logp, *entropy, *kept_mass; /* device */
    uint8_t *banned, *banned_early;               /* [n_ids], device; early: end tokens too */
    size_t n_ids;
    int32_t *host_ids;    /* [most_rows] */
    double *host_numbers; /* [most_rows] */
};

static stm_status take(stm_arena *arena, size_t n, size_t element_bytes, void *out)
{
    return stm_arena_take(arena, n * element_bytes, out);
}

static size_t logits_rows(const stm_model *model, size_t most_rows)
{
    return STM_MIN(most_rows, STM_MAX((size_t)1, LOGITS_AT_ONCE / model->config.vocab_size));
}

size_t stm_draw_bytes(const stm_model *model, size_t most_rows)
{
    const size_t logits = logits_rows(model, most_rows) * model->config.vocab_size;
    return logits * model->backend->real_bytes +
           most_rows * model->config.hidden_size * model->backend->activation_bytes;
}

size_t stm_draw_other_bytes(const stm_model *model, size_t most_rows)
{
    return most_rows * model->config.hidden_size * model->backend->activation_bytes;
}

static stm_status take_rows(stm_arena *device, stm_arena *host, stm_draw *d)
{
    const size_t n = d->most_rows, real = d->model->backend->real_bytes;
    STM_TRY(take(host, n, sizeof(int32_t), &d->host_ids));
    STM_TRY(take(host, n, sizeof(double), &d->host_numbers));
    STM_TRY(take(device, n * d->model->config.hidden_size, d->model->backend->activation_bytes, &d->normed));
    STM_TRY(take(device, n, real, &d->inverse_rms));
    STM_TRY(take(device, logits_rows(d->model, d->most_rows) * d->model->config.vocab_size, real, &d->logits));
    STM_TRY(take(device, n, sizeof(int32_t), &d->sampled));
    STM_TRY(take(device, n, sizeof(double), &d->uniform));
    STM_TRY(take(device, n, sizeof(double), &d->logp));
    STM_TRY(take(device, n, sizeof(double), &d->entropy));
    return take(device, n, sizeof(double), &d->kept_mass);
}

/* Ids that must never be sampled, and those that must not be before min_new_tokens. */
static stm_status take_bans(stm_arena *device, stm_arena *host, stm_draw *d)
{
    const stm_tokenizer *tokenizer = d->sampling->tokenizer;
    uint8_t *banned;
    d->n_ids = d->model->config.vocab_size;
    if (tokenizer)
        d->n_ids = STM_MIN(d->n_ids, stm_tokenizer_n_ids(tokenizer));
    STM_TRY(take(device, d->n_ids, 1, &d->banned));
    STM_TRY(take(device, d->n_ids, 1, &d->banned_early));
    STM_TRY(take(host, d->n_ids, 1, &banned));
    for (size_t i = 0; i < d->n_ids; i++)
        banned[i] = tokenizer && !stm_tokenizer_is_known(tokenizer, (int64_t)i);
    STM_TRY(d->model->backend->write(d->model->stream, d->banned, banned, d->n_ids));
    for (size_t i = 0; i < d->sampling->n_end; i++)
        if ((size_t)d->sampling->end[i] < d->n_ids)
            banned[d->sampling->end[i]] = 1;
    return d->model->backend->write(d->model->stream, d->banned_early, banned, d->n_ids);
}

stm_status stm_draw_create(const stm_decode_work *work, size_t most_rows, stm_draw **out)
{
    stm_draw *d;
    const stm_model *model = work->pass->model;
    STM_TRY(stm_arena_take(work->pass->host, sizeof *d, &d));
    *d = (stm_draw){.model = model, .sampling = work->sampling, .items = work->items, .most_rows = most_rows};
    *out = d;
    STM_TRY(take_rows(work->pass->device, work->pass->host, d));
    if (work->other) {
        d->other_model = work->other->model;
        STM_TRY(take(work->other->device, most_rows * model->config.hidden_size, model->backend->activation_bytes,
                     &d->other_normed));
    }
    return take_bans(work->pass->device, work->pass->host, d);
}

/* A round */

/* The numbers that draw the rows' next tokens. */
static stm_status draw_numbers(stm_draw *d)
{
    for (size_t r = 0; r < d->n_rows; r++) {
        const stm_rollout_item *item = &d->items[d->rows[r].item];
        const stm_random_key key = {.seed = d->sampling->seed,
                                    .use = d->sampling->use,
                                    .step = d->sampling->step,
                                    .slot = (uint32_t)(d->sampling->first_slot + item->origin.group),
                                    .rollout = (uint32_t)item->origin.rollout,
                                    .token = (uint32_t)(item->origin.n_before + item->response->n)};
        d->host_numbers[r] = stm_random_uniform(&key);
    }
    return d->model->backend->write(d->model->stream, d->uniform, d->host_numbers, d->n_rows * sizeof(double));
}

static stm_status run_norm(const stm_draw *d, const stm_model *model, const void *x, void *normed)
{
    const stm_rmsnorm norm = {.n_rows = d->n_rows,
                              .width = model->config.hidden_size,
                              .eps = model->config.rms_eps,
                              .x = x,
                              .w = stm_at(model->backend, model->weights, model->final_norm),
                              .y = normed,
                              .inverse_rms = d->inverse_rms};
    return model->backend->rmsnorm(model->stream, &norm);
}

/* logits = share * those of rows [first, first + n), or += */
static stm_status run_head(const stm_draw *d, const stm_model *model, const void *normed, size_t first, size_t n,
                           double share, bool add)
{
    const stm_backend *b = model->backend;
    const size_t hidden = model->config.hidden_size, vocab = model->config.vocab_size;
    const stm_gemm gemm = {.transpose_b = true,
                           .activations = {.a = true},
                           .m = n,
                           .n = vocab,
                           .k = hidden,
                           .alpha = share,
                           .beta = add ? 1 : 0,
                           .a = stm_activation_at(b, normed, first * hidden),
                           .lda = hidden,
                           .b = stm_at(b, model->weights, model->head),
                           .ldb = hidden,
                           .c = d->logits,
                           .ldc = vocab};
    return b->gemm(model->stream, &gemm);
}

/* Whole logits of rows [first, first + n), and a token for each. */
static stm_status sample_rows(stm_draw *d, size_t first, size_t n, bool early)
{
    const stm_model *model = d->model;
    const stm_backend *b = model->backend;
    const stm_sampling *s = d->sampling;
    const size_t vocab = model->config.vocab_size;
    const double share = d->other_model ? s->mixture->share : 0.0;
    STM_TRY(run_head(d, model, d->normed, first, n, 1.0 - share, false));
    if (d->other_model)
        STM_TRY(run_head(d, d->other_model, d->other_normed, first, n, share, true));
    const stm_sample sample = {.n_rows = n,
                               .n_columns = vocab,
                               .n_ids = d->n_ids,
                               .logits = d->logits,
                               .temperature = s->temperature,
                               .top_p = s->top_p,
                               .min_p = s->min_p,
                               .top_k = s->top_k,
                               .banned = early ? d->banned_early : d->banned,
                               .uniform = d->uniform + first,
                               .id = d->sampled + first,
                               .logp = d->logp + first,
                               .entropy = d->entropy + first,
                               .kept_mass = d->kept_mass + first};
    return b->sample(model->stream, &sample);
}

static bool is_early(const stm_draw *d, size_t row)
{
    const stm_rollout_item *item = &d->items[d->rows[row].item];
    return item->origin.n_sampled + item->response->n < d->sampling->min_new_tokens;
}

static stm_status sample_all(stm_draw *d)
{
    const size_t most = logits_rows(d->model, d->most_rows);
    for (size_t first = 0; first < d->n_rows;) {
        size_t n = 1;
        while (first + n < d->n_rows && n < most && is_early(d, first + n) == is_early(d, first))
            n++;
        STM_TRY(sample_rows(d, first, n, is_early(d, first)));
        first += n;
    }
    return STM_OK;
}

/* Their log-probs and kept mass to the responses; host_ids become theirs. */
static stm_status record(stm_draw *d, size_t *not_finite)
{
    const stm_backend *b = d->model->backend;
    const size_t bytes = d->n_rows * sizeof(double);
    STM_TRY(b->read(d->model->stream, d->host_ids, d->sampled, d->n_rows * sizeof(int32_t)));
    STM_TRY(b->read(d->model->stream, d->host_numbers, d->kept_mass, bytes));
    for (size_t r = 0; r < d->n_rows; r++) {
        stm_response *response = d->items[d->rows[r].item].response;
        response->kept_mass[response->n] = d->host_numbers[r];
    }
    STM_TRY(b->read(d->model->stream, d->host_numbers, d->logp, bytes));
    for (size_t r = 0; r < d->n_rows; r++) {
        stm_response *response = d->items[d->rows[r].item].response;
        response->old_logprobs[response->n] = d->host_numbers[r];
        if (!isfinite(d->host_numbers[r])) {
            d->host_ids[r] = STM_NO_ID;
            *not_finite = d->rows[r].item;
        }
    }
    return STM_OK;
}

stm_status stm_draw_run(stm_draw *draw, const stm_slot_batch *batch, const void *x, const void *other,
                        const int32_t **ids, size_t *not_finite)
{
    draw->n_rows = batch->n_rows;
    draw->rows = batch->rows;
    *ids = draw->host_ids;
    *not_finite = STM_NONE;
    STM_TRY(draw_numbers(draw));
    STM_TRY(run_norm(draw, draw->model, x, draw->normed));
    if (draw->other_model)
        STM_TRY(run_norm(draw, draw->other_model, other, draw->other_normed));
    STM_TRY(sample_all(draw));
    return record(draw, not_finite);
}
