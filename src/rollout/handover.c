#include "rollout/handover.h"

enum { ROWS_TAG = 3, IDS_TAG = 4 }; /* of a column; group/neighbours.h has lower ones */

struct stm_handover {
    stm_timers *timers;
    size_t hidden;                    /* reals of a row, of all models together */
    stm_link *from_before, *to_after; /* rows; NULL: there is no such stage */
    stm_link *from_last;              /* ids; NULL: this is the last */
    stm_link **to_others;             /* [n_others]: ids */
    size_t n_others;
};

/* Every batch may have a message under way. Ids travel as doubles, which hold them exactly. */
static stm_status open_link(const stm_decode_work *work, const stm_slots *slots, stm_link_options options,
                            stm_link **out)
{
    const stm_model *model = work->pass->model;
    const bool rows = options.tag == ROWS_TAG;
    const size_t hidden = stm_decode_n_models(work) * model->config.hidden_size;
    options.courier = rows ? work->grid->along_column : NULL;
    options.comm = work->grid->column_comm;
    options.n_slots = slots->n_batches;
    options.slot_reals = slots->most_rows * (rows ? hidden : 1);
    options.real_bytes = rows ? model->backend->real_bytes : sizeof(double);
    STM_TRY(stm_arena_take(rows ? work->pass->device : work->pass->host,
                           options.n_slots * options.slot_reals * options.real_bytes, &options.slots));
    *out = stm_link_create(&options);
    return STM_OK;
}

stm_status stm_handover_create(const stm_decode_work *work, const stm_slots *slots, stm_progress_hook progress,
                               stm_handover **out)
{
    const int stage = work->grid->stage, last = work->grid->n_stages - 1;
    stm_handover *h;
    stm_link_options options = {.progress = progress};
    STM_TRY(stm_arena_take(work->pass->host, sizeof *h, &h));
    STM_TRY(stm_arena_take(work->pass->host, (size_t)last * sizeof *h->to_others, &h->to_others));
    *h = (stm_handover){.timers = work->timers,
                        .hidden = stm_decode_n_models(work) * work->pass->model->config.hidden_size,
                        .to_others = h->to_others};
    *out = h;
    options.tag = ROWS_TAG;
    options.peer = stage - 1;
    if (stage > 0)
        STM_TRY(open_link(work, slots, options, &h->from_before));
    options.sends = true;
    options.peer = stage + 1;
    if (stage < last)
        STM_TRY(open_link(work, slots, options, &h->to_after));
    options.tag = IDS_TAG;
    for (options.peer = 0; stage == last && options.peer < last; options.peer++) {
        STM_TRY(open_link(work, slots, options, &h->to_others[h->n_others]));
        h->n_others++;
    }
    options.sends = false;
    options.peer = last;
    return stage < last ? open_link(work, slots, options, &h->from_last) : STM_OK;
}

/* It may wait, and drive the others. */
static void close_link(stm_link **link)
{
    stm_link_destroy(*link);
    *link = NULL;
}

void stm_handover_destroy(stm_handover *h)
{
    if (!h)
        return;
    close_link(&h->from_before);
    close_link(&h->to_after);
    close_link(&h->from_last);
    for (size_t i = 0; i < h->n_others; i++)
        close_link(&h->to_others[i]);
}

void stm_handover_drive(stm_handover *h)
{
    if (!h)
        return;
    stm_link_drive(h->from_before);
    stm_link_drive(h->to_after);
    stm_link_drive(h->from_last);
    for (size_t i = 0; i < h->n_others; i++)
        stm_link_drive(h->to_others[i]);
}

static const void *wait_in(stm_handover *h, stm_link *link)
{
    stm_timers_push(h->timers, STM_PHASE_STAGE);
    const void *arrived = stm_link_wait(link);
    stm_timers_pop(h->timers, STM_PHASE_STAGE);
    return arrived;
}

/* Rows */

void stm_handover_expect(stm_handover *h, size_t n_rows)
{
    if (h->from_before)
        stm_link_expect(h->from_before, n_rows * h->hidden);
}

const void *stm_handover_receive(stm_handover *h)
{
    return h->from_before ? wait_in(h, h->from_before) : NULL;
}

void stm_handover_release(stm_handover *h)
{
    if (h->from_before)
        stm_link_release(h->from_before);
}

void *stm_handover_take(stm_handover *h)
{
    stm_timers_push(h->timers, STM_PHASE_STAGE);
    void *rows = stm_link_take(h->to_after);
    stm_timers_pop(h->timers, STM_PHASE_STAGE);
    return rows;
}

void stm_handover_send(stm_handover *h, size_t n_rows)
{
    stm_link_send(h->to_after, n_rows * h->hidden);
}

/* Ids */

void stm_handover_tell(stm_handover *h, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < h->n_others; i++) {
        double *message = stm_link_take(h->to_others[i]);
        for (size_t k = 0; k < n; k++)
            message[k] = ids[k];
        stm_link_send(h->to_others[i], n);
    }
}

void stm_handover_expect_ids(stm_handover *h, size_t n)
{
    stm_link_expect(h->from_last, n);
}

bool stm_handover_has_ids(stm_handover *h)
{
    return stm_link_has(h->from_last);
}

void stm_handover_hear(stm_handover *h, int32_t *ids, size_t n)
{
    const double *message = wait_in(h, h->from_last);
    for (size_t k = 0; k < n; k++)
        ids[k] = (int32_t)message[k];
    stm_link_release(h->from_last);
}
