#include "rollout/awaited.h"

#include "base/pulse.h"

/* A batch, and its room in the host's memory, which the device reads and writes by itself. A batch is run again when
 * its ids have been heard, so what was queued of it before is done. */
typedef struct {
    stm_repeat *repeat;
    int32_t *tables;
    double *numbers;
    void *parts, *results;
} batch_room;

struct stm_awaited {
    const stm_model *model;
    const stm_rollout_item *items;
    const stm_slots *slots;
    stm_step *step;
    stm_draw *draw; /* NULL: not the last stage */
    stm_draw_arrays drawn;
    stm_progress_hook progress;
    batch_room *batches; /* [n_batches] */
    int32_t *ids;        /* [most_rows] */
};

bool stm_awaited_is_possible(const stm_decode_work *work)
{
    return stm_repeat_is_possible(work) && work->grid->n_stages > 1;
}

static size_t cut_batch(const stm_awaited *a, char *base, batch_room *batch)
{
    const size_t n = a->slots->most_rows;
    size_t used = 0;
    batch->tables = stm_repeat_cut(base, &used, 4 * n * sizeof *batch->tables);
    batch->numbers = stm_repeat_cut(base, &used, n * sizeof *batch->numbers);
    batch->parts = stm_repeat_cut(base, &used, stm_repeat_room_bytes(batch->repeat));
    batch->results = stm_repeat_cut(base, &used, a->drawn.bytes);
    return used;
}

static stm_status take_batches(stm_awaited *a, const stm_decode_work *work, stm_step *other)
{
    const size_t n = a->slots->n_batches;
    size_t bytes = 0, at = 0;
    char *room;
    STM_TRY(stm_arena_take(work->pass->host, n * sizeof *a->batches, &a->batches));
    for (size_t i = 0; i < n; i++) {
        a->batches[i] = (batch_room){0};
        STM_TRY(stm_repeat_create(work, i, a->slots->most_rows, a->step, other, a->draw, &a->batches[i].repeat));
        bytes += cut_batch(a, NULL, &a->batches[i]);
    }
    STM_TRY(a->model->backend->host_room(a->model->stream, bytes, &room));
    for (size_t i = 0; i < n; i++)
        at += cut_batch(a, room + at, &a->batches[i]);
    return STM_OK;
}

stm_status stm_awaited_create(const stm_decode_work *work, const stm_slots *slots, stm_step *step, stm_step *other,
                              stm_draw *draw, stm_progress_hook progress, stm_awaited **out)
{
    stm_awaited *a;
    STM_TRY(stm_arena_take(work->pass->host, sizeof *a, &a));
    *a = (stm_awaited){.model = work->pass->model,
                       .items = work->items,
                       .slots = slots,
                       .step = step,
                       .draw = draw,
                       .progress = progress};
    if (draw)
        a->drawn = stm_draw_device_arrays(draw);
    *out = a;
    STM_TRY(stm_arena_take(work->pass->host, slots->most_rows * sizeof *a->ids, &a->ids));
    return take_batches(a, work, other);
}

static stm_status write(const stm_awaited *a, void *device, const void *host, size_t bytes)
{
    return a->model->backend->write(a->model->stream, device, host, bytes);
}

static stm_status send_rows(const stm_awaited *a, const batch_room *room, const stm_slot_batch *rows)
{
    const size_t n = a->slots->most_rows;
    const stm_step_tables tables = stm_step_tables_in(n, room->tables);
    stm_step_describe(a->step, rows, &tables);
    STM_TRY(write(a, stm_step_device_tables(a->step)->ids, room->tables, 4 * n * sizeof *room->tables));
    if (!a->draw)
        return STM_OK;
    for (size_t r = 0; r < rows->n_rows; r++)
        room->numbers[r] = stm_draw_number(a->draw, &rows->rows[r], stm_slots_n_given(a->items, &rows->rows[r]));
    return write(a, a->drawn.uniform, room->numbers, rows->n_rows * sizeof *room->numbers);
}

stm_status stm_awaited_run(stm_awaited *a, size_t batch)
{
    const stm_backend *b = a->model->backend;
    const stm_slot_batch *rows = &a->slots->batches[batch];
    const batch_room *room = &a->batches[batch];
    stm_pulse_progress();
    STM_TRY(send_rows(a, room, rows));
    if (!stm_repeat_meet(room->repeat, rows))
        STM_TRY(stm_repeat_list(room->repeat, rows, room->parts));
    STM_TRY(stm_repeat_run(room->repeat, rows, NULL));
    if (!a->draw)
        return STM_OK;
    STM_TRY(b->copy(a->model->stream, room->results, a->drawn.results, a->drawn.bytes));
    return b->mark(a->model->stream, 0);
}

stm_status stm_awaited_read(stm_awaited *a, size_t batch, const int32_t **ids, size_t *not_finite)
{
    const stm_backend *b = a->model->backend;
    const stm_slot_batch *rows = &a->slots->batches[batch];
    *ids = a->ids;
    *not_finite = STM_NONE;
    for (bool passed = false; !passed; a->progress.drive(a->progress.context))
        STM_TRY(b->has_passed_mark(a->model->stream, 0, &passed));
    for (size_t r = 0; r < rows->n_rows; r++)
        a->ids[r] = stm_draw_take(a->draw, a->batches[batch].results, r, rows->rows[r].item, not_finite);
    return STM_OK;
}
