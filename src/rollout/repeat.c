#include "rollout/repeat.h"

enum { KEYS = 256 }; /* by which the bound on a row's own grows */

struct stm_repeat {
    const stm_model *model;
    const stm_sampling *sampling;
    const stm_rollout_item *items;
    size_t number, n_models;
    stm_step *steps[2]; /* [n_models] */
    stm_step_listing listings[2];
    stm_draw *draw;
    /* Of the last round that was met. */
    size_t n_rows, most_own_keys;
    size_t *rows;   /* [most_rows]: items */
    bool *early;    /* [most_rows]: may not end yet */
    size_t n_alike; /* rounds of its form before it, without a break */
};

bool stm_repeat_is_possible(const stm_decode_work *work)
{
    return work->pass->model->backend->begin_recording && work->sampling->rounds_ahead > 0;
}

stm_status stm_repeat_create(const stm_decode_work *work, size_t number, size_t most_rows, stm_step *step,
                             stm_step *other, stm_draw *draw, stm_repeat **out)
{
    stm_repeat *r;
    stm_arena *host = work->pass->host;
    STM_TRY(stm_arena_take(host, sizeof *r, &r));
    *r = (stm_repeat){.model = work->pass->model,
                      .sampling = work->sampling,
                      .items = work->items,
                      .number = number,
                      .n_models = stm_decode_n_models(work),
                      .steps = {step, other},
                      .draw = draw};
    STM_TRY(stm_arena_take(host, most_rows * sizeof *r->rows, &r->rows));
    STM_TRY(stm_arena_take(host, most_rows * sizeof *r->early, &r->early));
    for (size_t i = 0; i < r->n_models; i++)
        STM_TRY(stm_step_take_listing(r->steps[i], &r->listings[i]));
    *out = r;
    return STM_OK;
}

/* A bound on the keys of a row's own that holds for a while. */
static size_t most_own_keys(const stm_repeat *r, const stm_slot_batch *batch)
{
    size_t most = 0;
    for (size_t i = 0; i < batch->n_rows; i++)
        most = STM_MAX(most, stm_slots_n_given(r->items, &batch->rows[i]) + 1);
    return STM_MIN(r->sampling->max_new_tokens, (most + KEYS - 1) / KEYS * KEYS);
}

bool stm_repeat_meet(stm_repeat *r, const stm_slot_batch *batch)
{
    const size_t most = most_own_keys(r, batch);
    bool goes_on = r->n_rows == batch->n_rows, is_alike = goes_on && most == r->most_own_keys;
    r->n_rows = batch->n_rows;
    r->most_own_keys = most;
    for (size_t i = 0; i < batch->n_rows; i++) {
        const bool early = r->draw && stm_draw_is_early(r->draw, &batch->rows[i]);
        goes_on = goes_on && r->rows[i] == batch->rows[i].item;
        is_alike = is_alike && r->early[i] == early;
        r->rows[i] = batch->rows[i].item;
        r->early[i] = early;
    }
    r->n_alike = goes_on && is_alike ? r->n_alike + 1 : 0;
    return goes_on;
}

size_t stm_repeat_room_bytes(const stm_repeat *r)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n_models; i++)
        n += stm_step_most_parts(r->steps[i]);
    return n * sizeof(stm_attend_part);
}

void *stm_repeat_cut(char *base, size_t *at, size_t bytes)
{
    void *piece = base ? base + *at : NULL;
    *at += (bytes + 63) / 64 * 64;
    return piece;
}

stm_status stm_repeat_list(stm_repeat *r, const stm_slot_batch *batch, void *room)
{
    stm_attend_part *parts = room;
    for (size_t i = 0; i < r->n_models; i++) {
        STM_TRY(stm_step_list(r->steps[i], batch, parts, &r->listings[i]));
        parts += stm_step_most_parts(r->steps[i]);
    }
    return STM_OK;
}

/* All that the device does in a round, the same for rounds of one form. */
static stm_status compute(stm_repeat *r, const stm_slot_batch *batch, const stm_advance *advance)
{
    if (advance)
        STM_TRY(r->model->backend->advance(r->model->stream, advance));
    for (size_t i = 0; i < r->n_models; i++)
        STM_TRY(stm_step_run_listed(r->steps[i], batch->n_rows, r->most_own_keys, &r->listings[i]));
    if (!r->draw)
        return STM_OK;
    return stm_draw_on_device(r->draw, batch, stm_step_rows(r->steps[0]),
                              r->n_models > 1 ? stm_step_rows(r->steps[1]) : NULL);
}

static stm_status record(stm_repeat *r, const stm_slot_batch *batch, const stm_advance *advance)
{
    const stm_backend *b = r->model->backend;
    STM_TRY(b->begin_recording(r->model->stream));
    const stm_status status = compute(r, batch, advance);
    const stm_status ended = b->end_recording(r->model->stream, r->number);
    return status == STM_OK ? ended : status;
}

stm_status stm_repeat_run(stm_repeat *r, const stm_slot_batch *batch, const stm_advance *advance)
{
    const stm_backend *b = r->model->backend;
    if (r->n_alike == 0 || r->number >= STM_RECORDINGS)
        return compute(r, batch, advance);
    if (r->n_alike == 1 || !b->can_replay(r->model->stream, r->number)) /* another batch may have needed more scratch */
        STM_TRY(record(r, batch, advance));
    return b->replay(r->model->stream, r->number);
}
