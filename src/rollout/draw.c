#include "rollout/draw.h"

#include <math.h>

/* Of a block of whole logits: elements, few enough for a CPU's caches to pass them on; and, on a device, rows, for each
 * block reads the head's weights again: once for a round of up to so many rows, twice for twice as many. */
enum { LOGITS_AT_ONCE = 1 << 22, DEVICE_ROWS_AT_ONCE = 128 };

struct stm_draw {
    const stm_model *model, *other_model; /* other: NULL: there is one */
    const stm_sampling *sampling;
    stm_rollout_item *items;
    size_t most_rows;

    size_t n_rows; /* of the batch */
    const stm_occupant *rows;
    void *normed, *inverse_rms, *logits; /* device; activations [n_rows, hidden], [n_rows], a block of whole rows */
    void *other_normed;                  /* [n_rows, hidden] activations, device */
    double *uniform, *entropy;           /* device */
    void *results, *host_results;        /* results_in; on the device, and a copy */
    uint8_t *banned, *banned_early;      /* [n_ids], device; early: end tokens too */
    size_t n_ids;
    int32_t *host_ids;    /* [most_rows] */
    double *host_numbers; /* [most_rows] */
};

/* What is read of a round's rows, [most_rows] each, one array behind the other. */
typedef struct {
    double *logp, *kept_mass;
    int32_t *sampled;
} results;

static results results_in(const stm_draw *d, void *memory)
{
    double *logp = memory;
    return (results){logp, logp + d->most_rows, (int32_t *)(logp + 2 * d->most_rows)};
}

static size_t results_bytes(const stm_draw *d)
{
    return d->most_rows * (2 * sizeof(double) + sizeof(int32_t));
}

static stm_status take(stm_arena *arena, size_t n, size_t element_bytes, void *out)
{
    return stm_arena_take(arena, n * element_bytes, out);
}

static size_t logits_rows(const stm_model *model, size_t most_rows)
{
    const size_t few = STM_MAX((size_t)1, LOGITS_AT_ONCE / model->config.vocab_size);
    return STM_MIN(most_rows, model->backend->apart ? STM_MAX(few, (size_t)DEVICE_ROWS_AT_ONCE) : few);
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
    STM_TRY(take(host, 1, results_bytes(d), &d->host_results));
    STM_TRY(take(device, n * d->model->config.hidden_size, d->model->backend->activation_bytes, &d->normed));
    STM_TRY(take(device, n, real, &d->inverse_rms));
    STM_TRY(take(device, logits_rows(d->model, d->most_rows) * d->model->config.vocab_size, real, &d->logits));
    STM_TRY(take(device, n, sizeof(double), &d->uniform));
    STM_TRY(take(device, n, sizeof(double), &d->entropy));
    return take(device, 1, results_bytes(d), &d->results);
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

double stm_draw_number(const stm_draw *draw, const stm_occupant *row, size_t n)
{
    const stm_rollout_item *item = &draw->items[row->item];
    const stm_random_key key = {.seed = draw->sampling->seed,
                                .use = draw->sampling->use,
                                .step = draw->sampling->step,
                                .slot = (uint32_t)(draw->sampling->first_slot + item->origin.group),
                                .rollout = (uint32_t)item->origin.rollout,
                                .token = (uint32_t)(item->origin.n_before + n)};
    return stm_random_uniform(&key);
}

/* The numbers that draw the rows' next tokens. */
static stm_status draw_numbers(stm_draw *d, const stm_slot_batch *batch)
{
    for (size_t r = 0; r < batch->n_rows; r++)
        d->host_numbers[r] = stm_draw_number(d, &batch->rows[r], stm_slots_n_given(d->items, &batch->rows[r]));
    return d->model->backend->write(d->model->stream, d->uniform, d->host_numbers, batch->n_rows * sizeof(double));
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
    const results to = results_in(d, d->results);
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
                               .id = to.sampled + first,
                               .logp = to.logp + first,
                               .entropy = d->entropy + first,
                               .kept_mass = to.kept_mass + first};
    return b->sample(model->stream, &sample);
}

bool stm_draw_is_early(const stm_draw *draw, const stm_occupant *row)
{
    const stm_rollout_item *item = &draw->items[row->item];
    return item->origin.n_sampled + stm_slots_n_given(draw->items, row) < draw->sampling->min_new_tokens;
}

static stm_status sample_all(stm_draw *d)
{
    const size_t most = logits_rows(d->model, d->most_rows);
    for (size_t first = 0; first < d->n_rows;) {
        const bool early = stm_draw_is_early(d, &d->rows[first]);
        size_t n = 1;
        while (first + n < d->n_rows && n < most && stm_draw_is_early(d, &d->rows[first + n]) == early)
            n++;
        STM_TRY(sample_rows(d, first, n, early));
        first += n;
    }
    return STM_OK;
}

stm_draw_arrays stm_draw_device_arrays(const stm_draw *draw)
{
    return (stm_draw_arrays){.uniform = draw->uniform,
                             .sampled = results_in(draw, draw->results).sampled,
                             .results = draw->results,
                             .bytes = results_bytes(draw)};
}

stm_status stm_draw_on_device(stm_draw *draw, const stm_slot_batch *batch, const void *x, const void *other)
{
    draw->n_rows = batch->n_rows;
    draw->rows = batch->rows;
    STM_TRY(run_norm(draw, draw->model, x, draw->normed));
    if (draw->other_model)
        STM_TRY(run_norm(draw, draw->other_model, other, draw->other_normed));
    return sample_all(draw);
}

int32_t stm_draw_take(const stm_draw *draw, void *copy, size_t place, size_t item, size_t *not_finite)
{
    const results from = results_in(draw, copy);
    stm_response *response = draw->items[item].response;
    response->kept_mass[response->n] = from.kept_mass[place];
    response->old_logprobs[response->n] = from.logp[place];
    if (isfinite(from.logp[place]))
        return from.sampled[place];
    *not_finite = item;
    return STM_NO_ID;
}

stm_status stm_draw_run(stm_draw *draw, const stm_slot_batch *batch, const void *x, const void *other,
                        const int32_t **ids, size_t *not_finite)
{
    const stm_model *model = draw->model;
    *ids = draw->host_ids;
    *not_finite = STM_NONE;
    STM_TRY(draw_numbers(draw, batch));
    STM_TRY(stm_draw_on_device(draw, batch, x, other));
    STM_TRY(model->backend->read(model->stream, draw->host_results, draw->results, results_bytes(draw)));
    for (size_t r = 0; r < batch->n_rows; r++)
        draw->host_ids[r] = stm_draw_take(draw, draw->host_results, r, batch->rows[r].item, not_finite);
    return STM_OK;
}
