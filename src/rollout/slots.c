#include "rollout/slots.h"

static stm_status take(const stm_decode_work *work, size_t n, size_t element_bytes, void *out)
{
    return stm_arena_take(work->pass->host, n * element_bytes, out);
}

static stm_status init_batch(const stm_decode_work *work, size_t first, size_t end, stm_slot_batch *batch)
{
    *batch = (stm_slot_batch){0};
    STM_TRY(take(work, end - first, sizeof *batch->rows, &batch->rows));
    STM_TRY(take(work, end - first, sizeof *batch->free_slots, &batch->free_slots));
    while (end > first)
        batch->free_slots[batch->n_free++] = --end; /* the first is taken first */
    return STM_OK;
}

stm_status stm_slots_init(const stm_decode_work *work, size_t n_batches, stm_slots *out)
{
    const size_t first_item = stm_decode_share(work, work->grid->team_rank);
    const size_t n_own = stm_decode_share(work, work->grid->team_rank + 1) - first_item;
    const size_t n = STM_MIN(work->n_slots, n_own);
    *out = (stm_slots){.sampling = work->sampling, .items = work->items, .n_batches = STM_MIN(n_batches, n)};
    STM_TRY(take(work, work->n_items, sizeof *out->queue, &out->queue));
    for (; out->n_queued < n_own; out->n_queued++)
        out->queue[out->n_queued] = first_item + out->n_queued;
    STM_TRY(take(work, out->n_batches, sizeof *out->batches, &out->batches));
    for (size_t b = 0; b < out->n_batches; b++) {
        const size_t first = n * b / out->n_batches, end = n * (b + 1) / out->n_batches;
        STM_TRY(init_batch(work, first, end, &out->batches[b]));
        out->most_rows = STM_MAX(out->most_rows, end - first);
    }
    STM_TRY(take(work, n, sizeof *out->stops, &out->stops));
    for (; out->n_slots < n; out->n_slots++)
        STM_TRY(stm_stop_create(work->sampling, &out->stops[out->n_slots]));
    return STM_OK;
}

void stm_slots_clear(stm_slots *slots)
{
    for (size_t i = 0; i < slots->n_slots; i++)
        stm_stop_destroy(slots->stops[i]);
}

void stm_slots_fill(stm_slots *slots, size_t batch)
{
    stm_slot_batch *b = &slots->batches[batch];
    while (b->n_free > 0 && slots->n_queued > slots->n_held) {
        const size_t slot = b->free_slots[--b->n_free], item = slots->queue[slots->first_queued++];
        slots->n_queued--;
        slots->items[item].is_here = true;
        stm_stop_reset(slots->stops[slot]);
        b->rows[b->n_rows++] = (stm_occupant){.item = item, .slot = slot};
    }
}

/* Whether the response ends with this token, which is added to it. */
static stm_status add_token(const stm_slots *slots, stm_occupant row, int32_t id, bool *ends)
{
    const stm_rollout_item *item = &slots->items[row.item];
    stm_response *response = item->response;
    bool stops = false;
    *ends = true;
    response->finish = STM_FINISH_LENGTH;
    if (id == STM_NO_ID)
        return STM_OK;
    response->ids[response->n++] = id;
    STM_TRY(stm_stop_add(slots->stops[row.slot], id, &stops));
    if (stops)
        response->finish = STM_FINISH_STOP;
    *ends = stops || item->origin.n_sampled + response->n == slots->sampling->max_new_tokens;
    return STM_OK;
}

stm_status stm_slots_add(stm_slots *slots, size_t batch, const int32_t *ids)
{
    stm_slot_batch *b = &slots->batches[batch];
    size_t n = 0;
    for (size_t r = 0; r < b->n_rows; r++) {
        bool ends = false;
        if (ids[r] != STM_NOT_YET)
            STM_TRY(add_token(slots, b->rows[r], ids[r], &ends));
        slots->n_tokens += ids[r] != STM_NOT_YET;
        slots->n_ended += ends;
        if (ends)
            b->free_slots[b->n_free++] = b->rows[r].slot;
        else
            b->rows[n++] = b->rows[r];
    }
    b->n_rows = n;
    return STM_OK;
}
