#include "rollout/ahead.h"

#include "base/pulse.h"

enum { NUMBERS = 8 }; /* uniform numbers that a row is given at once */

/* A round that was queued, and its room in the host's memory, which the device reads and writes by itself. */
typedef struct {
    size_t n_rows;
    size_t *items; /* [most_rows] */
    int32_t *tables, *ways;
    double *numbers;
    void *parts, *results;
} queued_round;

struct stm_ahead {
    const stm_model *model;
    const stm_sampling *sampling;
    const stm_rollout_item *items;
    stm_step *step;
    stm_draw *draw;
    stm_repeat *repeat;
    size_t most_rows;
    size_t n_rounds, n_queued, n_read; /* n_rounds: at once; the others count all */
    queued_round *rounds;              /* [n_rounds]: round i is number i % n_rounds */
    stm_slot_batch now;                /* rows of the round that is being queued */
    size_t n_numbers;                  /* that each of them has left on the device */

    stm_draw_arrays drawn;
    stm_advance advance; /* its arrays on the device */
    int32_t *ways;       /* device: from, and turns, [most_rows] each */
    double *numbers;     /* device: [most_rows, NUMBERS] */
    int32_t *ids;        /* [most_rows] */
};

/* Beginning and end */

bool stm_ahead_is_possible(const stm_decode_work *work)
{
    return stm_repeat_is_possible(work) && work->grid->n_stages == 1;
}

static size_t cut_round(const stm_ahead *a, char *base, queued_round *round)
{
    const size_t n = a->most_rows;
    size_t used = 0;
    round->tables = stm_repeat_cut(base, &used, 4 * n * sizeof *round->tables);
    round->ways = stm_repeat_cut(base, &used, 2 * n * sizeof *round->ways);
    round->numbers = stm_repeat_cut(base, &used, n * NUMBERS * sizeof *round->numbers);
    round->parts = stm_repeat_cut(base, &used, stm_repeat_room_bytes(a->repeat));
    round->results = stm_repeat_cut(base, &used, a->drawn.bytes);
    return used;
}

static stm_status take_rounds(stm_ahead *a, stm_arena *host)
{
    const size_t n = a->most_rows;
    queued_round none;
    const size_t bytes = cut_round(a, NULL, &none);
    char *room;
    STM_TRY(a->model->backend->host_room(a->model->stream, a->n_rounds * bytes, &room));
    STM_TRY(stm_arena_take(host, a->n_rounds * sizeof *a->rounds, &a->rounds));
    for (size_t i = 0; i < a->n_rounds; i++) {
        cut_round(a, room + i * bytes, &a->rounds[i]);
        STM_TRY(stm_arena_take(host, n * sizeof *a->rounds[i].items, &a->rounds[i].items));
    }
    STM_TRY(stm_arena_take(host, n * sizeof *a->now.rows, &a->now.rows));
    return stm_arena_take(host, n * sizeof *a->ids, &a->ids);
}

static stm_status take_device(stm_ahead *a, stm_arena *device)
{
    const size_t n = a->most_rows;
    STM_TRY(stm_arena_take(device, 2 * n * sizeof *a->ways, &a->ways));
    return stm_arena_take(device, n * NUMBERS * sizeof *a->numbers, &a->numbers);
}

stm_status stm_ahead_create(const stm_decode_work *work, size_t most_rows, stm_step *step, stm_step *other,
                            stm_draw *draw, stm_ahead **out)
{
    stm_ahead *a;
    const stm_model *model = work->pass->model;
    STM_TRY(stm_arena_take(work->pass->host, sizeof *a, &a));
    *a = (stm_ahead){.model = model,
                     .sampling = work->sampling,
                     .items = work->items,
                     .step = step,
                     .draw = draw,
                     .most_rows = most_rows,
                     .n_rounds = work->sampling->rounds_ahead + 1,
                     .drawn = stm_draw_device_arrays(draw)};
    STM_TRY(stm_repeat_create(work, 0, most_rows, step, other, draw, &a->repeat));
    STM_TRY(take_device(a, work->pass->device));
    STM_TRY(take_rounds(a, work->pass->host));
    const stm_step_tables *tables = stm_step_device_tables(step);
    a->advance = (stm_advance){.n_ahead = NUMBERS,
                               .sampled = a->drawn.sampled,
                               .uniforms = a->numbers,
                               .from = a->ways,
                               .turns = a->ways + most_rows,
                               .ids = tables->ids,
                               .positions = tables->positions,
                               .lengths = tables->lengths,
                               .uniform = a->drawn.uniform};
    *out = a;
    return STM_OK;
}

stm_status stm_ahead_finish(const stm_ahead *ahead)
{
    if (!ahead || ahead->n_read == ahead->n_queued)
        return STM_OK;
    return ahead->model->backend->wait_mark(ahead->model->stream, (ahead->n_queued - 1) % ahead->n_rounds);
}

/* Queueing a round */

/* Rows that will not have all their tokens when the rounds before are read. */
static void choose_rows(stm_ahead *a, const stm_slot_batch *batch)
{
    a->now.n_rows = 0;
    for (size_t r = 0; r < batch->n_rows; r++) {
        const stm_occupant *row = &batch->rows[r];
        const size_t n = a->items[row->item].origin.n_sampled + stm_slots_n_given(a->items, row);
        if (n < a->sampling->max_new_tokens)
            a->now.rows[a->now.n_rows++] = *row;
    }
}

static void note_rows(const stm_ahead *a, queued_round *round)
{
    round->n_rows = a->now.n_rows;
    for (size_t r = 0; r < round->n_rows; r++)
        round->items[r] = a->now.rows[r].item;
}

static stm_status write(const stm_ahead *a, void *device, const void *host, size_t bytes)
{
    return a->model->backend->write(a->model->stream, device, host, bytes);
}

/* Where the rows come from and how far they are, one token before they advance, and their next numbers. Rows stand in
 * the order of their start, in every round. */
static stm_status send_rows(stm_ahead *a, const queued_round *round, const queued_round *last)
{
    const stm_step_tables tables = stm_step_tables_in(a->most_rows, round->tables);
    size_t place = 0;
    stm_step_describe(a->step, &a->now, &tables);
    for (size_t r = 0; r < round->n_rows; r++) {
        const stm_occupant *row = &a->now.rows[r];
        if (tables.ids[r] == STM_NOT_YET) {
            while (last->items[place] != row->item)
                place++;
            round->ways[r] = (int32_t)place;
        } else {
            round->ways[r] = -1 - tables.ids[r];
        }
        round->ways[a->most_rows + r] = 0;
        tables.positions[r]--;
        tables.lengths[r]--;
        for (size_t i = 0; i < NUMBERS; i++)
            round->numbers[r * NUMBERS + i] = stm_draw_number(a->draw, row, stm_slots_n_given(a->items, row) + i);
    }
    a->n_numbers = NUMBERS;
    STM_TRY(write(a, stm_step_device_tables(a->step)->ids, round->tables, 4 * a->most_rows * sizeof *round->tables));
    STM_TRY(write(a, a->ways, round->ways, 2 * a->most_rows * sizeof *round->ways));
    return write(a, a->numbers, round->numbers, round->n_rows * NUMBERS * sizeof *round->numbers);
}

/* The rows of the batch are in one round more. */
static void count_up(const stm_ahead *a, stm_slot_batch *batch)
{
    for (size_t r = 0, i = 0; i < a->now.n_rows; r++)
        if (batch->rows[r].item == a->now.rows[i].item) {
            batch->rows[r].n_ahead++;
            i++;
        }
}

static stm_status queue_round(stm_ahead *a, stm_slot_batch *batch)
{
    const stm_backend *b = a->model->backend;
    const size_t number = a->n_queued % a->n_rounds;
    queued_round *round = &a->rounds[number];
    const queued_round *last = a->n_queued > 0 ? &a->rounds[(a->n_queued - 1) % a->n_rounds] : NULL;
    note_rows(a, round);
    const bool goes_on = stm_repeat_meet(a->repeat, &a->now);
    if (!goes_on || a->n_numbers == 0)
        STM_TRY(send_rows(a, round, last));
    if (!goes_on)
        STM_TRY(stm_repeat_list(a->repeat, &a->now, round->parts));
    a->advance.n_rows = a->now.n_rows;
    STM_TRY(stm_repeat_run(a->repeat, &a->now, &a->advance));
    STM_TRY(b->copy(a->model->stream, round->results, a->drawn.results, a->drawn.bytes));
    STM_TRY(b->mark(a->model->stream, number));
    count_up(a, batch);
    a->n_numbers--;
    a->n_queued++;
    return STM_OK;
}

/* Reading one */

/* Both the batch and the round have their rows in the order of their start; rows of the batch that began later are not
 * in the round, and rows of the round that have ended not in the batch. */
static stm_status read_round(stm_ahead *a, stm_slot_batch *batch, size_t *not_finite)
{
    const size_t number = a->n_read++ % a->n_rounds;
    const queued_round *round = &a->rounds[number];
    size_t first = 0;
    STM_TRY(a->model->backend->wait_mark(a->model->stream, number));
    for (size_t r = 0; r < batch->n_rows; r++) {
        size_t place = first;
        while (place < round->n_rows && round->items[place] != batch->rows[r].item)
            place++;
        a->ids[r] = STM_NOT_YET;
        if (place == round->n_rows)
            continue;
        a->ids[r] = stm_draw_take(a->draw, round->results, place, batch->rows[r].item, not_finite);
        batch->rows[r].n_ahead--;
        first = place + 1;
    }
    return STM_OK;
}

stm_status stm_ahead_run(stm_ahead *ahead, stm_slot_batch *batch, const int32_t **ids, size_t *not_finite)
{
    stm_pulse_progress();
    for (choose_rows(ahead, batch); ahead->now.n_rows > 0 && ahead->n_queued - ahead->n_read < ahead->n_rounds;
         choose_rows(ahead, batch))
        STM_TRY(queue_round(ahead, batch));
    *ids = ahead->ids;
    *not_finite = STM_NONE;
    return read_round(ahead, batch, not_finite);
}
