#include "rollout/decode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/layer.h"
#include "rollout/stop.h"

enum { LOGITS_AT_ONCE = 1 << 22 }; /* elements of a block of whole logits */

/* A slot: room for the K and V of one response's tokens, and the rollout that has it. */
typedef struct {
    size_t item, slot;
} occupant;

typedef struct {
    const stm_pass *pass;
    const stm_model *model;
    const stm_batch *batch;
    const stm_sampling *sampling;
    stm_rollout_item *items;
    size_t n_items, n_started;
    size_t n_slots;
    size_t *free_slots, n_free;
    stm_stop_state **stops; /* [n_slots] */

    size_t n_rows; /* active rollouts, sorted by item */
    occupant *rows;

    void *cache; /* [n_layers, 2, n_slots, n_kv_heads, max_new_tokens, head_dim] */
    void *kv;    /* [2, n_kv_heads, n_rows, head_dim]: of the rows of a round, before they are appended */
    stm_layer_kept kept[2];
    stm_layer_scratch scratch;
    void *x_out, *normed, *inverse_rms, *logits;
    int32_t *ids, *positions, *slots, *lengths, *sampled; /* device */
    double *uniform, *logp, *entropy, *kept_mass;         /* device */
    uint8_t *banned, *banned_early;                       /* [n_ids], device; early: end tokens too */
    size_t n_ids;

    int32_t *host_ids, *host_positions, *host_slots, *host_lengths; /* [n_slots] */
    double *host_numbers;                                           /* [n_slots] */
    stm_attend_part *parts;
    size_t n_parts, most_parts;
    struct shared_part {
        size_t segment, first_row, n_rows, n_keys;
    } * shared;
    size_t n_shared;
} decoder;

/* Memory */

static size_t cache_layer_reals(const stm_model *model, size_t n_slots, size_t max_new_tokens)
{
    return n_slots * model->config.n_kv_heads * max_new_tokens * model->config.head_dim;
}

size_t stm_decode_slot_bytes(const stm_model *model, size_t n_slots, size_t max_new_tokens)
{
    return 2 * model->config.n_layers * cache_layer_reals(model, n_slots, max_new_tokens) * model->backend->real_bytes;
}

static void *cache_at(const decoder *d, size_t layer, size_t which)
{
    return stm_at(d->model->backend, d->cache,
                  (2 * layer + which) * cache_layer_reals(d->model, d->n_slots, d->sampling->max_new_tokens));
}

static stm_status take(const decoder *d, size_t n, size_t element_bytes, void *out)
{
    return stm_arena_take(d->pass->device, n * element_bytes, out);
}

static stm_status take_host(const decoder *d, size_t n, size_t element_bytes, void *out)
{
    return stm_arena_take(d->pass->host, n * element_bytes, out);
}

static stm_status take_layers(decoder *d)
{
    const stm_model *model = d->model;
    const size_t real = model->backend->real_bytes, n = d->n_slots;
    void *memory;
    for (int i = 0; i < 2; i++) {
        STM_TRY(take(d, stm_layer_kept_reals(model, n, n), real, &memory));
        stm_layer_kept_init(model, n, n, memory, &d->kept[i]);
    }
    STM_TRY(take(d, stm_layer_scratch_reals(model, n, false), real, &memory));
    stm_layer_scratch_init(model, n, false, memory, &d->scratch);
    STM_TRY(take(d, 1, stm_decode_slot_bytes(model, n, d->sampling->max_new_tokens), &d->cache));
    STM_TRY(take(d, 2 * n * model->config.n_kv_heads * model->config.head_dim, real, &d->kv));
    STM_TRY(take(d, n * model->config.hidden_size, real, &d->x_out));
    STM_TRY(take(d, n * model->config.hidden_size, real, &d->normed));
    STM_TRY(take(d, n, real, &d->inverse_rms));
    return STM_OK;
}

static size_t logits_rows(const decoder *d)
{
    return STM_MIN(d->n_slots, STM_MAX((size_t)1, LOGITS_AT_ONCE / d->model->config.vocab_size));
}

static stm_status take_rows(decoder *d)
{
    const size_t n = d->n_slots;
    STM_TRY(take(d, logits_rows(d) * d->model->config.vocab_size, d->model->backend->real_bytes, &d->logits));
    STM_TRY(take(d, n, sizeof(int32_t), &d->ids));
    STM_TRY(take(d, n, sizeof(int32_t), &d->positions));
    STM_TRY(take(d, n, sizeof(int32_t), &d->slots));
    STM_TRY(take(d, n, sizeof(int32_t), &d->lengths));
    STM_TRY(take(d, n, sizeof(int32_t), &d->sampled));
    STM_TRY(take(d, n, sizeof(double), &d->uniform));
    STM_TRY(take(d, n, sizeof(double), &d->logp));
    STM_TRY(take(d, n, sizeof(double), &d->entropy));
    STM_TRY(take(d, n, sizeof(double), &d->kept_mass));
    STM_TRY(take_host(d, n, sizeof(int32_t), &d->host_ids));
    STM_TRY(take_host(d, n, sizeof(int32_t), &d->host_positions));
    STM_TRY(take_host(d, n, sizeof(int32_t), &d->host_slots));
    STM_TRY(take_host(d, n, sizeof(int32_t), &d->host_lengths));
    STM_TRY(take_host(d, n, sizeof(double), &d->host_numbers));
    STM_TRY(take_host(d, n, sizeof *d->rows, &d->rows));
    STM_TRY(take_host(d, n, sizeof *d->free_slots, &d->free_slots));
    STM_TRY(take_host(d, n, sizeof *d->stops, &d->stops));
    for (size_t i = 0; i < n; i++)
        d->free_slots[d->n_free++] = n - 1 - i; /* the first is taken first */
    return STM_OK;
}

/* Ids that must never be sampled, and those that must not be before min_new_tokens. */
static stm_status take_bans(decoder *d)
{
    const stm_tokenizer *tokenizer = d->sampling->tokenizer;
    uint8_t *banned;
    d->n_ids = d->model->config.vocab_size;
    if (tokenizer)
        d->n_ids = STM_MIN(d->n_ids, stm_tokenizer_n_ids(tokenizer));
    STM_TRY(take(d, d->n_ids, 1, &d->banned));
    STM_TRY(take(d, d->n_ids, 1, &d->banned_early));
    STM_TRY(take_host(d, d->n_ids, 1, &banned));
    for (size_t i = 0; i < d->n_ids; i++)
        banned[i] = tokenizer && !stm_tokenizer_is_known(tokenizer, (int64_t)i);
    STM_TRY(d->model->backend->write(d->model->stream, d->banned, banned, d->n_ids));
    for (size_t i = 0; i < d->sampling->n_end; i++)
        if ((size_t)d->sampling->end[i] < d->n_ids)
            banned[d->sampling->end[i]] = 1;
    return d->model->backend->write(d->model->stream, d->banned_early, banned, d->n_ids);
}

/* The most parts of a round: an ancestor each row might have to itself, and its own. */
static stm_status take_parts(decoder *d)
{
    const stm_forest *forest = d->pass->forest;
    size_t deepest = 0;
    for (size_t i = 0; i < d->n_items; i++)
        deepest = STM_MAX(deepest, forest->segments[forest->ends[d->items[i].sequence]].depth + 1);
    d->most_parts = d->n_slots * (deepest + 1);
    STM_TRY(take_host(d, d->most_parts, sizeof *d->shared, &d->shared));
    return take_host(d, d->most_parts, sizeof *d->parts, &d->parts);
}

/* A round */

static void fill_slots(decoder *d)
{
    while (d->n_free > 0 && d->n_started < d->n_items) {
        const size_t slot = d->free_slots[--d->n_free];
        stm_stop_reset(d->stops[slot]);
        d->rows[d->n_rows++] = (occupant){d->n_started++, slot}; /* items start in order: rows stay sorted */
    }
}

/* How many rows of a segment the sequence's last prompt token sees: all, but where another prompt goes on in it. */
static size_t visible_rows(const stm_forest *forest, size_t sequence, size_t segment)
{
    const stm_segment *s = &forest->segments[segment];
    return STM_MIN(s->n_rows, forest->sequences[sequence].n - 1 - stm_segment_first_position(s));
}

/* Row `row` attends to a segment of its prompt: the part of the row above grows, or a new one begins. */
static void meet(decoder *d, size_t segment, size_t n_keys, size_t row)
{
    const size_t part = d->pass->part_of[segment];
    if (n_keys == 0)
        return;
    if (part != STM_NONE && d->shared[part].n_keys == n_keys &&
        d->shared[part].first_row + d->shared[part].n_rows == row) {
        d->shared[part].n_rows++;
        return;
    }
    d->pass->part_of[segment] = d->n_shared;
    d->shared[d->n_shared++] = (struct shared_part){segment, row, 1, n_keys};
}

static void meet_path(decoder *d, size_t sequence, size_t segment, size_t row)
{
    if (d->pass->forest->segments[segment].parent != STM_NONE)
        meet_path(d, sequence, d->pass->forest->segments[segment].parent, row);
    meet(d, segment, visible_rows(d->pass->forest, sequence, segment), row);
}

static void list_shared_parts(decoder *d)
{
    const stm_forest *forest = d->pass->forest;
    d->n_shared = 0;
    for (size_t r = 0; r < d->n_rows; r++) {
        const size_t sequence = d->items[d->rows[r].item].sequence;
        meet_path(d, sequence, forest->ends[sequence], r);
    }
    for (size_t i = 0; i < d->n_shared; i++)
        d->pass->part_of[d->shared[i].segment] = STM_NONE;
}

static void parts_at_layer(decoder *d, size_t layer)
{
    const stm_backend *b = d->model->backend;
    const size_t head_dim = d->model->config.head_dim, rows = d->sampling->max_new_tokens;
    const size_t slot_reals = d->model->config.n_kv_heads * rows * head_dim;
    d->n_parts = 0;
    for (size_t i = 0; i < d->n_shared; i++) {
        const stm_place *place = &d->pass->places[d->shared[i].segment];
        const size_t k = place->first_row * head_dim, v = k + stm_chunk_kv_reals(d->pass, place->chunk) / 2;
        void *kv = stm_chunk_kv(d->pass, place->chunk, layer);
        d->parts[d->n_parts++] = (stm_attend_part){.first_row = d->shared[i].first_row,
                                                   .n_rows = d->shared[i].n_rows,
                                                   .n_keys = d->shared[i].n_keys,
                                                   .kv_stride = stm_chunk_n_rows(place->chunk),
                                                   .k = stm_at(b, kv, k),
                                                   .v = stm_at(b, kv, v)};
    }
    for (size_t r = 0; r < d->n_rows; r++)
        d->parts[d->n_parts++] = (stm_attend_part){.first_row = r,
                                                   .n_rows = 1,
                                                   .n_keys = (size_t)d->host_lengths[r] + 1,
                                                   .kv_stride = rows,
                                                   .k = stm_at(b, cache_at(d, layer, 0), d->rows[r].slot * slot_reals),
                                                   .v = stm_at(b, cache_at(d, layer, 1), d->rows[r].slot * slot_reals)};
}

/* The rows' last tokens, their positions and their places in the cache, and the numbers that will draw the next. */
static stm_status describe_round(decoder *d)
{
    const stm_backend *b = d->model->backend;
    for (size_t r = 0; r < d->n_rows; r++) {
        const stm_rollout_item *item = &d->items[d->rows[r].item];
        const stm_group *group = &d->batch->groups[item->group];
        const size_t n = item->response->n;
        d->host_ids[r] = n == 0 ? group->prompt[group->n_prompt - 1] : item->response->ids[n - 1];
        d->host_positions[r] = (int32_t)(group->n_prompt - 1 + n);
        d->host_slots[r] = (int32_t)d->rows[r].slot;
        d->host_lengths[r] = (int32_t)n;
        const stm_random_key key = {.seed = d->sampling->seed,
                                    .use = d->sampling->use,
                                    .step = d->sampling->step,
                                    .slot = (uint32_t)item->group,
                                    .rollout = (uint32_t)item->rollout,
                                    .token = (uint32_t)n};
        d->host_numbers[r] = stm_random_uniform(&key);
    }
    const size_t bytes = d->n_rows * sizeof(int32_t);
    STM_TRY(b->write(d->model->stream, d->ids, d->host_ids, bytes));
    STM_TRY(b->write(d->model->stream, d->positions, d->host_positions, bytes));
    STM_TRY(b->write(d->model->stream, d->slots, d->host_slots, bytes));
    STM_TRY(b->write(d->model->stream, d->lengths, d->host_lengths, bytes));
    return b->write(d->model->stream, d->uniform, d->host_numbers, d->n_rows * sizeof(double));
}

static stm_status run_layers(decoder *d)
{
    const stm_model *model = d->model;
    const stm_backend *b = model->backend;
    const size_t half = model->config.n_kv_heads * d->n_rows * model->config.head_dim;
    const stm_embed embed = {.n_rows = d->n_rows,
                             .width = model->config.hidden_size,
                             .ids = d->ids,
                             .table = stm_at(b, model->weights, model->embedding),
                             .y = d->kept[0].x};
    STM_TRY(b->embed(model->stream, &embed));
    for (size_t l = 0; l < model->config.n_layers; l++) {
        parts_at_layer(d, l);
        const stm_append append = {.n_rows = d->n_rows,
                                   .n_kv_heads = model->config.n_kv_heads,
                                   .head_dim = model->config.head_dim,
                                   .slot_rows = d->sampling->max_new_tokens,
                                   .slots = d->slots,
                                   .positions = d->lengths,
                                   .k = d->kv,
                                   .v = stm_at(b, d->kv, half),
                                   .k_cache = cache_at(d, l, 0),
                                   .v_cache = cache_at(d, l, 1)};
        const stm_layer_rows rows = {.n_rows = d->n_rows,
                                     .positions = d->positions,
                                     .k = d->kv,
                                     .v = stm_at(b, d->kv, half),
                                     .kv_stride = d->n_rows,
                                     .n_parts = d->n_parts,
                                     .parts = d->parts,
                                     .append = &append};
        void *out = l + 1 == model->config.n_layers ? d->x_out : d->kept[(l + 1) % 2].x;
        STM_TRY(stm_layer_forward(model, l, &rows, &d->kept[l % 2], &d->scratch, out));
    }
    const stm_rmsnorm norm = {.n_rows = d->n_rows,
                              .width = model->config.hidden_size,
                              .eps = model->config.rms_eps,
                              .x = d->x_out,
                              .w = stm_at(b, model->weights, model->final_norm),
                              .y = d->normed,
                              .inverse_rms = d->inverse_rms};
    return b->rmsnorm(model->stream, &norm);
}

/* Whole logits of rows [first, first + n), and a token for each. */
static stm_status sample_rows(decoder *d, size_t first, size_t n, bool early)
{
    const stm_model *model = d->model;
    const stm_backend *b = model->backend;
    const stm_sampling *s = d->sampling;
    const size_t hidden = model->config.hidden_size, vocab = model->config.vocab_size;
    const stm_gemm gemm = {.transpose_b = true,
                           .m = n,
                           .n = vocab,
                           .k = hidden,
                           .alpha = 1,
                           .a = stm_at(b, d->normed, first * hidden),
                           .lda = hidden,
                           .b = stm_at(b, model->weights, model->head),
                           .ldb = hidden,
                           .c = d->logits,
                           .ldc = vocab};
    STM_TRY(b->gemm(model->stream, &gemm));
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

static bool is_early(const decoder *d, size_t row)
{
    return (size_t)d->host_lengths[row] < d->sampling->min_new_tokens;
}

static stm_status sample_round(decoder *d)
{
    const size_t most = logits_rows(d);
    for (size_t first = 0; first < d->n_rows;) {
        size_t n = 1;
        while (first + n < d->n_rows && n < most && is_early(d, first + n) == is_early(d, first))
            n++;
        STM_TRY(sample_rows(d, first, n, is_early(d, first)));
        first += n;
    }
    return STM_OK;
}

/* Sampled tokens to their responses. */
static stm_status record_round(decoder *d)
{
    const stm_backend *b = d->model->backend;
    const size_t bytes = d->n_rows * sizeof(double);
    STM_TRY(b->read(d->model->stream, d->host_ids, d->sampled, d->n_rows * sizeof(int32_t)));
    STM_TRY(b->read(d->model->stream, d->host_numbers, d->kept_mass, bytes));
    for (size_t r = 0; r < d->n_rows; r++) {
        stm_response *response = d->items[d->rows[r].item].response;
        response->ids[response->n] = d->host_ids[r];
        response->kept_mass[response->n] = d->host_numbers[r];
    }
    STM_TRY(b->read(d->model->stream, d->host_numbers, d->logp, bytes));
    for (size_t r = 0; r < d->n_rows; r++) {
        const stm_rollout_item *item = &d->items[d->rows[r].item];
        if (!isfinite(d->host_numbers[r]))
            return stm_fail(STM_ERR_NUMERIC, "prompt %zu, rollout %zu, token %zu: the log-prob is not a finite number",
                            item->group, item->rollout, item->response->n);
        item->response->old_logprobs[item->response->n++] = d->host_numbers[r];
    }
    return STM_OK;
}

/* Takes out what has ended. */
static stm_status leave_slots(decoder *d)
{
    size_t n = 0;
    for (size_t r = 0; r < d->n_rows; r++) {
        stm_response *response = d->items[d->rows[r].item].response;
        bool stops;
        STM_TRY(stm_stop_add(d->stops[d->rows[r].slot], response->ids[response->n - 1], &stops));
        if (stops || response->n == d->sampling->max_new_tokens) {
            response->finish = stops ? STM_FINISH_STOP : STM_FINISH_LENGTH;
            d->free_slots[d->n_free++] = d->rows[r].slot;
        } else {
            d->rows[n++] = d->rows[r];
        }
    }
    d->n_rows = n;
    return STM_OK;
}

static stm_status run_round(decoder *d)
{
    STM_TRY(describe_round(d));
    list_shared_parts(d);
    STM_TRY(run_layers(d));
    STM_TRY(sample_round(d));
    STM_TRY(record_round(d));
    return leave_slots(d);
}

static stm_status decode(decoder *d, double *rounds)
{
    STM_TRY(take_layers(d));
    STM_TRY(take_rows(d));
    STM_TRY(take_bans(d));
    STM_TRY(take_parts(d));
    for (size_t i = 0; i < d->n_slots; i++)
        d->stops[i] = NULL;
    stm_status status = STM_OK;
    for (size_t i = 0; i < d->n_slots && status == STM_OK; i++)
        status = stm_stop_create(d->sampling, &d->stops[i]);
    while (status == STM_OK) {
        fill_slots(d);
        if (d->n_rows == 0)
            break;
        status = run_round(d);
        ++*rounds;
    }
    for (size_t i = 0; i < d->n_slots; i++)
        stm_stop_destroy(d->stops[i]);
    return status;
}

stm_status stm_decode(const stm_pass *pass, const stm_batch *batch, const stm_sampling *sampling,
                      stm_rollout_item *items, size_t n, size_t n_slots, double *rounds)
{
    if (n == 0)
        return STM_OK;
    const stm_mark device = stm_arena_mark(pass->device), host = stm_arena_mark(pass->host);
    decoder d = {.pass = pass,
                 .model = pass->model,
                 .batch = batch,
                 .sampling = sampling,
                 .items = items,
                 .n_items = n,
                 .n_slots = STM_MIN(n_slots, n)};
    const stm_status status = decode(&d, rounds);
    stm_arena_reset(pass->device, device);
    stm_arena_reset(pass->host, host);
    return status;
}
