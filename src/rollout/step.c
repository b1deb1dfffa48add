#include "rollout/step.h"

#include "model/layer.h"

struct stm_step {
    const stm_pass *pass;
    const stm_model *model;
    const stm_batch *batch;
    const stm_sampling *sampling;
    stm_rollout_item *items;
    const stm_layer_hooks *hooks;
    size_t n_slots, most_rows;

    size_t n_rows; /* of the batch that runs */
    const stm_occupant *rows;

    void *cache; /* activations [n layers here, 2, n_slots, n_kv_heads, max_new_tokens, head_dim] */
    void *kv;    /* activations [2, n_kv_heads, n_rows, head_dim]: of the rows of a round, before they are appended */
    stm_layer_kept kept[2];
    stm_layer_scratch scratch;
    void *x_out;                                /* [n_rows, hidden] */
    int32_t *ids, *positions, *slots, *lengths; /* device */

    int32_t *host_ids, *host_positions, *host_slots, *host_lengths; /* [most_rows] */
    stm_attend_part *parts;
    size_t n_parts;
    struct shared_part {
        size_t segment, first_row, n_rows, n_keys;
    } * shared;
    size_t n_shared;
};

/* Memory */

static size_t cache_layer_n(const stm_model *model, size_t n_slots, size_t max_new_tokens)
{
    return n_slots * model->config.n_kv_heads * max_new_tokens * model->config.head_dim;
}

size_t stm_decode_slot_bytes(const stm_model *model, size_t n_slots, size_t max_new_tokens)
{
    const size_t n_layers = model->end_layer - model->first_layer;
    return 2 * n_layers * cache_layer_n(model, n_slots, max_new_tokens) * model->backend->activation_bytes;
}

size_t stm_step_bytes(const stm_model *model, size_t n_slots, size_t most_rows, size_t max_new_tokens)
{
    const stm_model_config *c = &model->config;
    const size_t layers =
        2 * stm_layer_kept_bytes(model, most_rows, most_rows) + stm_layer_scratch_bytes(model, most_rows, false);
    const size_t kv = most_rows * 2 * c->n_kv_heads * c->head_dim * model->backend->activation_bytes;
    return stm_decode_slot_bytes(model, n_slots, max_new_tokens) + layers + kv +
           most_rows * c->hidden_size * model->backend->real_bytes;
}

static void *cache_at(const stm_step *d, size_t layer, size_t which)
{
    return stm_activation_at(d->model->backend, d->cache,
                             (2 * (layer - d->model->first_layer) + which) *
                                 cache_layer_n(d->model, d->n_slots, d->sampling->max_new_tokens));
}

static stm_status take(const stm_step *d, size_t n, size_t element_bytes, void *out)
{
    return stm_arena_take(d->pass->device, n * element_bytes, out);
}

static stm_status take_host(const stm_step *d, size_t n, size_t element_bytes, void *out)
{
    return stm_arena_take(d->pass->host, n * element_bytes, out);
}

static stm_status take_layers(stm_step *d)
{
    const stm_model *model = d->model;
    const stm_backend *b = model->backend;
    const size_t n = d->most_rows;
    void *memory;
    for (int i = 0; i < 2; i++) {
        STM_TRY(take(d, 1, stm_layer_kept_bytes(model, n, n), &memory));
        stm_layer_kept_init(model, n, n, memory, &d->kept[i]);
    }
    STM_TRY(take(d, 1, stm_layer_scratch_bytes(model, n, false), &memory));
    stm_layer_scratch_init(model, n, false, memory, &d->scratch);
    STM_TRY(take(d, 1, stm_decode_slot_bytes(model, d->n_slots, d->sampling->max_new_tokens), &d->cache));
    STM_TRY(take(d, 2 * n * model->config.n_kv_heads * model->config.head_dim, b->activation_bytes, &d->kv));
    return take(d, n * model->config.hidden_size, b->real_bytes, &d->x_out);
}

static stm_status take_rows(stm_step *d)
{
    const size_t n = d->most_rows;
    STM_TRY(take(d, n, sizeof(int32_t), &d->ids));
    STM_TRY(take(d, n, sizeof(int32_t), &d->positions));
    STM_TRY(take(d, n, sizeof(int32_t), &d->slots));
    STM_TRY(take(d, n, sizeof(int32_t), &d->lengths));
    STM_TRY(take_host(d, n, sizeof(int32_t), &d->host_ids));
    STM_TRY(take_host(d, n, sizeof(int32_t), &d->host_positions));
    STM_TRY(take_host(d, n, sizeof(int32_t), &d->host_slots));
    return take_host(d, n, sizeof(int32_t), &d->host_lengths);
}

/* The most parts of a round: an ancestor each row might have to itself, and its own. */
static stm_status take_parts(stm_step *d, size_t n_items)
{
    const stm_forest *forest = d->pass->forest;
    size_t deepest = 0;
    for (size_t i = 0; i < n_items; i++)
        deepest = STM_MAX(deepest, forest->segments[forest->ends[d->items[i].sequence]].depth + 1);
    const size_t most = d->most_rows * (deepest + 1);
    STM_TRY(take_host(d, most, sizeof *d->shared, &d->shared));
    return take_host(d, most, sizeof *d->parts, &d->parts);
}

stm_status stm_step_create(const stm_decode_work *work, const stm_pass *pass, const stm_slots *slots,
                           const stm_layer_hooks *hooks, stm_step **out)
{
    stm_step *d;
    STM_TRY(stm_arena_take(pass->host, sizeof *d, &d));
    *d = (stm_step){.pass = pass,
                    .model = pass->model,
                    .batch = work->batch,
                    .sampling = work->sampling,
                    .items = work->items,
                    .hooks = hooks,
                    .n_slots = slots->n_slots,
                    .most_rows = slots->most_rows};
    STM_TRY(take_layers(d));
    STM_TRY(take_rows(d));
    *out = d;
    return take_parts(d, work->n_items);
}

/* A round */

/* How many rows of a segment the sequence's last prompt token sees: all, but where another prompt goes on in it. */
static size_t visible_rows(const stm_forest *forest, size_t sequence, size_t segment)
{
    const stm_segment *s = &forest->segments[segment];
    return STM_MIN(s->n_rows, forest->sequences[sequence].n - 1 - stm_segment_first_position(s));
}

/* Row `row` attends to a segment of its prompt: the part of the row above grows, or a new one begins. */
static void meet(stm_step *d, size_t segment, size_t n_keys, size_t row)
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

static void meet_path(stm_step *d, size_t sequence, size_t segment, size_t row)
{
    if (d->pass->forest->segments[segment].parent != STM_NONE)
        meet_path(d, sequence, d->pass->forest->segments[segment].parent, row);
    meet(d, segment, visible_rows(d->pass->forest, sequence, segment), row);
}

static void list_shared_parts(stm_step *d)
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

static void parts_at_layer(stm_step *d, size_t layer)
{
    const stm_backend *b = d->model->backend;
    const size_t head_dim = d->model->config.head_dim, rows = d->sampling->max_new_tokens;
    const size_t slot_n = d->model->config.n_kv_heads * rows * head_dim;
    d->n_parts = 0;
    for (size_t i = 0; i < d->n_shared; i++) {
        const stm_place *place = &d->pass->places[d->shared[i].segment];
        const size_t k = place->first_row * head_dim, v = k + stm_chunk_kv_n(d->pass, place->chunk) / 2;
        void *kv = stm_chunk_kv(d->pass, place->chunk, layer);
        d->parts[d->n_parts++] = (stm_attend_part){.first_row = d->shared[i].first_row,
                                                   .n_rows = d->shared[i].n_rows,
                                                   .n_keys = d->shared[i].n_keys,
                                                   .kv_stride = stm_chunk_n_rows(place->chunk),
                                                   .k = stm_activation_at(b, kv, k),
                                                   .v = stm_activation_at(b, kv, v)};
    }
    for (size_t r = 0; r < d->n_rows; r++)
        d->parts[d->n_parts++] =
            (stm_attend_part){.first_row = r,
                              .n_rows = 1,
                              .n_keys = (size_t)d->host_lengths[r] + 1,
                              .kv_stride = rows,
                              .k = stm_activation_at(b, cache_at(d, layer, 0), d->rows[r].slot * slot_n),
                              .v = stm_activation_at(b, cache_at(d, layer, 1), d->rows[r].slot * slot_n)};
}

/* The rows' last tokens, their positions and their places in the cache. */
static stm_status describe_rows(stm_step *d)
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
    }
    const size_t bytes = d->n_rows * sizeof(int32_t);
    STM_TRY(b->write(d->model->stream, d->ids, d->host_ids, bytes));
    STM_TRY(b->write(d->model->stream, d->positions, d->host_positions, bytes));
    STM_TRY(b->write(d->model->stream, d->slots, d->host_slots, bytes));
    return b->write(d->model->stream, d->lengths, d->host_lengths, bytes);
}

/* What the first layer reads. */
static stm_status enter(stm_step *d, const void *arrived)
{
    const stm_model *model = d->model;
    const stm_backend *b = model->backend;
    const size_t hidden = model->config.hidden_size;
    if (arrived) {
        STM_TRY(b->write(model->stream, d->kept[0].x, arrived, d->n_rows * hidden * b->real_bytes));
        return b->synchronize(model->stream);
    }
    const stm_embed embed = {.n_rows = d->n_rows,
                             .width = hidden,
                             .ids = d->ids,
                             .table = stm_at(b, model->weights, model->embedding),
                             .y = d->kept[0].x};
    return b->embed(model->stream, &embed);
}

static stm_status run_layers(stm_step *d)
{
    const stm_model *model = d->model;
    const stm_backend *b = model->backend;
    const size_t first = model->first_layer, end = model->end_layer;
    const size_t half = model->config.n_kv_heads * d->n_rows * model->config.head_dim;
    for (size_t l = first; l < end; l++) {
        parts_at_layer(d, l);
        const stm_append append = {.n_rows = d->n_rows,
                                   .n_kv_heads = model->config.n_kv_heads,
                                   .head_dim = model->config.head_dim,
                                   .slot_rows = d->sampling->max_new_tokens,
                                   .slots = d->slots,
                                   .positions = d->lengths,
                                   .k = d->kv,
                                   .v = stm_activation_at(b, d->kv, half),
                                   .k_cache = cache_at(d, l, 0),
                                   .v_cache = cache_at(d, l, 1)};
        const stm_layer_rows rows = {.n_rows = d->n_rows,
                                     .positions = d->positions,
                                     .k = d->kv,
                                     .v = stm_activation_at(b, d->kv, half),
                                     .kv_stride = d->n_rows,
                                     .n_parts = d->n_parts,
                                     .parts = d->parts,
                                     .append = &append,
                                     .hooks = d->hooks};
        void *out = l + 1 == end ? d->x_out : d->kept[(l + 1 - first) % 2].x;
        STM_TRY(stm_layer_forward(model, l, &rows, &d->kept[(l - first) % 2], &d->scratch, out));
    }
    return STM_OK;
}

stm_status stm_step_run(stm_step *step, const stm_slot_batch *batch, const void *arrived)
{
    step->n_rows = batch->n_rows;
    step->rows = batch->rows;
    STM_TRY(describe_rows(step));
    list_shared_parts(step);
    STM_TRY(enter(step, arrived));
    return run_layers(step);
}

stm_status stm_step_read(const stm_step *step, void *leaving)
{
    const stm_model *model = step->model;
    return model->backend->read(model->stream, leaving, step->x_out,
                                step->n_rows * model->config.hidden_size * model->backend->real_bytes);
}

const void *stm_step_rows(const stm_step *step)
{
    return step->x_out;
}
