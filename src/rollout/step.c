#include "rollout/step.h"

#include "model/layer.h"
#include "model/stages.h"

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
    void *x_out; /* [n_rows, hidden] */
    stm_step_tables device, host;

    stm_attend_part *parts; /* [most_parts]: of a layer */
    size_t most_parts;
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

stm_step_tables stm_step_tables_in(size_t most_rows, int32_t *memory)
{
    return (stm_step_tables){memory, memory + most_rows, memory + 2 * most_rows, memory + 3 * most_rows};
}

static stm_status take_rows(stm_step *d)
{
    int32_t *device, *host;
    STM_TRY(take_host(d, 4 * d->most_rows, sizeof *host, &host));
    d->host = stm_step_tables_in(d->most_rows, host);
    if (d->device.ids)
        return STM_OK;
    STM_TRY(take(d, 4 * d->most_rows, sizeof *device, &device));
    d->device = stm_step_tables_in(d->most_rows, device);
    return STM_OK;
}

/* The most parts of a round: an ancestor each row might have to itself, and its own. */
static stm_status take_parts(stm_step *d, size_t n_items)
{
    const stm_forest *forest = d->pass->forest;
    size_t deepest = 0;
    for (size_t i = 0; i < n_items; i++)
        deepest = STM_MAX(deepest, forest->segments[forest->ends[d->items[i].sequence]].depth + 1);
    d->most_parts = d->most_rows * (deepest + 1);
    STM_TRY(take_host(d, d->most_parts, sizeof *d->shared, &d->shared));
    return take_host(d, d->most_parts, sizeof *d->parts, &d->parts);
}

stm_status stm_step_create(const stm_decode_work *work, const stm_pass *pass, const stm_slots *slots,
                           const stm_layer_hooks *hooks, const stm_step *beside, stm_step **out)
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
    if (beside)
        d->device = beside->device;
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

/* Parts of the prompts at a layer, from their list, and of the rows' own keys: their number, or `counted` by the
 * device. Returns how many. */
static size_t parts_at_layer(const stm_step *d, size_t layer, bool counted, stm_attend_part *parts)
{
    const stm_backend *b = d->model->backend;
    const size_t head_dim = d->model->config.head_dim, rows = d->sampling->max_new_tokens;
    const size_t slot_n = d->model->config.n_kv_heads * rows * head_dim;
    size_t n = 0;
    for (size_t i = 0; i < d->n_shared; i++) {
        const stm_place *place = &d->pass->places[d->shared[i].segment];
        const size_t k = place->first_row * head_dim, v = k + stm_chunk_kv_n(d->pass, place->chunk) / 2;
        void *kv = stm_chunk_kv(d->pass, place->chunk, layer);
        parts[n++] = (stm_attend_part){.first_row = d->shared[i].first_row,
                                       .n_rows = d->shared[i].n_rows,
                                       .n_keys = d->shared[i].n_keys,
                                       .kv_stride = stm_chunk_n_rows(place->chunk),
                                       .k = stm_activation_at(b, kv, k),
                                       .v = stm_activation_at(b, kv, v)};
    }
    for (size_t r = 0; r < d->n_rows; r++)
        parts[n++] = (stm_attend_part){.first_row = r,
                                       .n_rows = 1,
                                       .n_keys = counted ? 1 : (size_t)d->host.lengths[r] + 1,
                                       .grown = counted ? d->device.lengths + r : NULL,
                                       .kv_stride = rows,
                                       .k = stm_activation_at(b, cache_at(d, layer, 0), d->rows[r].slot * slot_n),
                                       .v = stm_activation_at(b, cache_at(d, layer, 1), d->rows[r].slot * slot_n)};
    return n;
}

void stm_step_describe(const stm_step *step, const stm_slot_batch *batch, const stm_step_tables *to)
{
    for (size_t r = 0; r < batch->n_rows; r++) {
        const stm_occupant *row = &batch->rows[r];
        const stm_rollout_item *item = &step->items[row->item];
        const stm_group *group = &step->batch->groups[item->group];
        const size_t n = stm_slots_n_given(step->items, row);
        to->ids[r] = row->n_ahead > 0 ? STM_NOT_YET
                     : n == 0         ? group->prompt[group->n_prompt - 1]
                                      : item->response->ids[n - 1];
        to->positions[r] = (int32_t)(group->n_prompt - 1 + n);
        to->slots[r] = (int32_t)row->slot;
        to->lengths[r] = (int32_t)n;
    }
}

static stm_status embed(stm_step *d)
{
    const stm_model *model = d->model;
    const stm_embed embed = {.n_rows = d->n_rows,
                             .width = model->config.hidden_size,
                             .ids = d->device.ids,
                             .table = stm_at(model->backend, model->weights, model->embedding),
                             .y = d->kept[0].x};
    return stm_model_is_first(model) ? model->backend->embed(model->stream, &embed) : STM_OK;
}

/* listing NULL: parts are listed layer by layer. */
static stm_status run_layers(stm_step *d, const stm_step_listing *listing)
{
    const stm_model *model = d->model;
    const stm_backend *b = model->backend;
    const size_t first = model->first_layer, end = model->end_layer;
    const size_t half = model->config.n_kv_heads * d->n_rows * model->config.head_dim;
    const size_t n_listed = listing ? listing->n_parts : 0;
    for (size_t l = first; l < end; l++) {
        const size_t n_parts = listing ? n_listed : parts_at_layer(d, l, false, d->parts);
        const stm_append append = {.n_rows = d->n_rows,
                                   .n_kv_heads = model->config.n_kv_heads,
                                   .head_dim = model->config.head_dim,
                                   .slot_rows = d->sampling->max_new_tokens,
                                   .slots = d->device.slots,
                                   .positions = d->device.lengths,
                                   .k = d->kv,
                                   .v = stm_activation_at(b, d->kv, half),
                                   .k_cache = cache_at(d, l, 0),
                                   .v_cache = cache_at(d, l, 1)};
        const stm_layer_rows rows = {.n_rows = d->n_rows,
                                     .positions = d->device.positions,
                                     .k = d->kv,
                                     .v = stm_activation_at(b, d->kv, half),
                                     .kv_stride = d->n_rows,
                                     .n_parts = n_parts,
                                     .parts = listing ? listing->shapes : d->parts,
                                     .device_parts = listing ? listing->device + (l - first) * n_listed : NULL,
                                     .append = &append,
                                     .hooks = listing ? NULL : d->hooks};
        void *out = l + 1 == end ? d->x_out : d->kept[(l + 1 - first) % 2].x;
        STM_TRY(stm_layer_forward(model, l, &rows, &d->kept[(l - first) % 2], &d->scratch, out));
    }
    return STM_OK;
}

stm_status stm_step_enter(stm_step *step, size_t n_rows, const void *arrived)
{
    const stm_model *model = step->model;
    return model->backend->copy(model->stream, step->kept[0].x, arrived,
                                n_rows * model->config.hidden_size * model->backend->real_bytes);
}

stm_status stm_step_run(stm_step *step, const stm_slot_batch *batch)
{
    const stm_model *model = step->model;
    step->n_rows = batch->n_rows;
    step->rows = batch->rows;
    stm_step_describe(step, batch, &step->host);
    STM_TRY(
        model->backend->write(model->stream, step->device.ids, step->host.ids, 4 * step->most_rows * sizeof(int32_t)));
    list_shared_parts(step);
    STM_TRY(embed(step));
    return run_layers(step, NULL);
}

static size_t n_layers(const stm_step *step)
{
    return step->model->end_layer - step->model->first_layer;
}

size_t stm_step_most_parts(const stm_step *step)
{
    return n_layers(step) * step->most_parts;
}

stm_status stm_step_take_listing(const stm_step *step, stm_step_listing *out)
{
    *out = (stm_step_listing){0};
    STM_TRY(take_host(step, step->most_parts, sizeof *out->shapes, &out->shapes));
    return take(step, stm_step_most_parts(step), sizeof *out->device, &out->device);
}

stm_status stm_step_list(stm_step *step, const stm_slot_batch *batch, stm_attend_part *room, stm_step_listing *listing)
{
    const stm_model *model = step->model;
    step->n_rows = batch->n_rows;
    step->rows = batch->rows;
    list_shared_parts(step);
    listing->n_parts = parts_at_layer(step, model->first_layer, true, listing->shapes);
    for (size_t l = 0; l < n_layers(step); l++)
        (void)parts_at_layer(step, model->first_layer + l, true, room + l * listing->n_parts);
    return model->backend->write(model->stream, listing->device, room,
                                 n_layers(step) * listing->n_parts * sizeof *room);
}

const stm_step_tables *stm_step_device_tables(const stm_step *step)
{
    return &step->device;
}

stm_status stm_step_run_listed(stm_step *step, size_t n_rows, size_t most_own_keys, const stm_step_listing *listing)
{
    step->n_rows = n_rows;
    for (size_t r = 0; r < n_rows; r++)
        listing->shapes[listing->n_parts - n_rows + r].most_grown = most_own_keys - 1;
    STM_TRY(embed(step));
    return run_layers(step, listing);
}

stm_status stm_step_copy(const stm_step *step, size_t n_rows, void *leaving)
{
    const stm_model *model = step->model;
    return model->backend->copy(model->stream, leaving, step->x_out,
                                n_rows * model->config.hidden_size * model->backend->real_bytes);
}

const void *stm_step_rows(const stm_step *step)
{
    return step->x_out;
}
