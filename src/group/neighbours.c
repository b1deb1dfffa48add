#include "group/neighbours.h"

enum { SLOTS = 2, FORWARD_TAG = 1, BACKWARD_TAG = 2 };

struct stm_neighbours {
    const stm_pass *pass;
    stm_timers *timers;
    stm_link *from_before, *to_after; /* hidden rows; NULL: there is no such stage */
    stm_link *from_after, *to_before; /* gradients */
};

/* Reals of each message of the events of one kind, in order. */
static stm_status list_sizes(const stm_pass *pass, const stm_schedule *schedule, stm_event_kind kind, size_t **sizes,
                             size_t *n)
{
    *n = 0;
    STM_TRY(stm_arena_take(pass->host, schedule->n_chunks * sizeof **sizes, sizes));
    for (size_t e = 0; e < schedule->n_events; e++) {
        const size_t n_rows = schedule->chunks[schedule->events[e].chunk].n_rows;
        if (schedule->events[e].kind == kind && n_rows > 0)
            (*sizes)[(*n)++] = n_rows * pass->model->config.hidden_size;
    }
    return STM_OK;
}

static stm_status open_link(const stm_pass *pass, const stm_schedule *schedule, stm_link_options options,
                            stm_link **out)
{
    const bool backward = options.tag == BACKWARD_TAG;
    size_t *sizes = NULL;
    options.n_slots = SLOTS;
    options.real_bytes = pass->model->backend->real_bytes;
    options.slot_reals = schedule->largest_rows * pass->model->config.hidden_size;
    STM_TRY(stm_arena_take(pass->device, SLOTS * options.slot_reals * options.real_bytes, &options.slots));
    if (!options.sends)
        STM_TRY(list_sizes(pass, schedule, backward ? STM_EVENT_BACKWARD : STM_EVENT_FORWARD, &sizes, &options.n));
    options.sizes = sizes;
    *out = stm_link_create(&options);
    return STM_OK;
}

stm_status stm_neighbours_create(stm_pass *pass, const stm_schedule *schedule, const stm_grid *grid,
                                 stm_progress_hook progress, stm_timers *timers, stm_neighbours **out)
{
    stm_neighbours *n;
    const int stage = grid->stage, n_stages = grid->n_stages;
    STM_TRY(stm_arena_take(pass->host, sizeof *n, &n));
    *n = (stm_neighbours){.pass = pass, .timers = timers};
    *out = n;
    const bool back = pass->kind == STM_PASS_GRADIENT;
    const stm_link_options both = {.courier = grid->along_column, .comm = grid->column_comm, .progress = progress};
    stm_link_options before = both, after = both;
    before.peer = stage - 1;
    after.peer = stage + 1;
    const struct {
        stm_link **link;
        stm_link_options options;
        bool exists;
    } wanted[] = {{&n->from_before, before, stage > 0},
                  {&n->to_after, after, stage + 1 < n_stages},
                  {&n->from_after, after, back && stage + 1 < n_stages},
                  {&n->to_before, before, back && stage > 0}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        stm_link_options options = wanted[i].options;
        options.tag = i < 2 ? FORWARD_TAG : BACKWARD_TAG;
        options.sends = wanted[i].link == &n->to_after || wanted[i].link == &n->to_before;
        if (wanted[i].exists)
            STM_TRY(open_link(pass, schedule, options, wanted[i].link));
    }
    return STM_OK;
}

void stm_neighbours_destroy(stm_neighbours *n)
{
    if (!n)
        return;
    stm_link **const links[] = {&n->from_before, &n->to_after, &n->from_after, &n->to_before};
    for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
        stm_link_destroy(*links[i]); /* it may wait, and drive the others */
        *links[i] = NULL;
    }
}

void stm_neighbours_drive(stm_neighbours *n)
{
    if (!n)
        return;
    stm_link_drive(n->from_before);
    stm_link_drive(n->to_after);
    stm_link_drive(n->from_after);
    stm_link_drive(n->to_before);
}

stm_status stm_neighbours_receive(stm_neighbours *n, bool backward, size_t n_rows, void *x)
{
    const stm_model *model = n->pass->model;
    stm_link *link = backward ? n->from_after : n->from_before;
    stm_timers_push(n->timers, STM_PHASE_STAGE);
    const void *arrived = stm_link_wait(link);
    stm_timers_pop(n->timers, STM_PHASE_STAGE);
    STM_TRY(model->backend->copy(model->stream, x, arrived,
                                 n_rows * model->config.hidden_size * model->backend->real_bytes));
    stm_link_release(link);
    return STM_OK;
}

stm_status stm_neighbours_send(stm_neighbours *n, bool backward, size_t n_rows, const void *x)
{
    const stm_model *model = n->pass->model;
    stm_link *link = backward ? n->to_before : n->to_after;
    const size_t reals = n_rows * model->config.hidden_size;
    stm_timers_push(n->timers, STM_PHASE_STAGE);
    void *slot = stm_link_take(link);
    stm_timers_pop(n->timers, STM_PHASE_STAGE);
    STM_TRY(model->backend->copy(model->stream, slot, x, reals * model->backend->real_bytes));
    stm_link_send(link, reals);
    return STM_OK;
}
