#include "group/walk.h"

#include <sched.h>

#include "group/exchange.h"
#include "group/keys.h"
#include "mpi/rounds.h"
#include "mpi/window.h"

typedef struct {
    stm_pass *pass;
    const stm_schedule *schedule;
    const stm_bank *banks;
    stm_exchange *exchange;
    stm_chunk **chunks;   /* [n_chunks]: open ones */
    stm_bank_mark *marks; /* [n_chunks]: of their banks, before they were opened */
    size_t n_backward;    /* chunks with rows that are still to go back */
} walk;

/* Where K and V of a chunk lie that ranks of this node share, or NULL. */
static void *shared_kv(const walk *w, const stm_planned_chunk *c)
{
    const stm_schedule *s = w->schedule;
    if (c->shared == STM_NONE || s->shared[c->shared].n_local == 0)
        return NULL;
    const stm_shared_chunk *shared = &s->shared[c->shared];
    return stm_window_at(w->pass->window, s->local[shared->first_local], shared->offset);
}

static stm_status open_chunk(walk *w, size_t i)
{
    const stm_planned_chunk *c = &w->schedule->chunks[i];
    const stm_bank *bank = &w->banks[c->bank];
    w->marks[i] = stm_bank_mark_of(bank);
    STM_TRY(stm_chunk_create(w->pass, bank, w->schedule->segments + c->first_segment, c->n, c->computes,
                             shared_kv(w, c), &w->chunks[i]));
    return stm_exchange_open(w->exchange, i);
}

static stm_status run_forward(walk *w, size_t i)
{
    stm_exchange_forward(w->exchange, i);
    return stm_chunk_forward(w->pass, w->chunks[i], w->schedule->chunks[i].keeps);
}

static stm_status run_backward(walk *w, size_t i)
{
    const bool has_rows = w->schedule->chunks[i].n_rows > 0;
    w->n_backward -= has_rows;
    w->pass->last_backward = has_rows && w->n_backward == 0;
    stm_exchange_backward(w->exchange, i);
    STM_TRY(stm_chunk_backward(w->pass, w->chunks[i]));
    stm_exchange_went_back(w->exchange, i);
    return STM_OK;
}

static stm_status close_chunk(walk *w, size_t i)
{
    stm_exchange_close(w->exchange, i);
    stm_bank_reset(&w->banks[w->schedule->chunks[i].bank], w->marks[i]);
    return STM_OK;
}

static size_t count_backward(const stm_schedule *s)
{
    size_t n = 0;
    for (size_t e = 0; e < s->n_events; e++)
        n += s->events[e].kind == STM_EVENT_BACKWARD && s->chunks[s->events[e].chunk].n_rows > 0;
    return n;
}

static stm_status run_events(walk *w)
{
    static stm_status (*const run[])(walk *, size_t) = {[STM_EVENT_OPEN] = open_chunk,
                                                        [STM_EVENT_FORWARD] = run_forward,
                                                        [STM_EVENT_BACKWARD] = run_backward,
                                                        [STM_EVENT_CLOSE] = close_chunk};
    w->n_backward = count_backward(w->schedule);
    if (w->n_backward == 0)
        stm_pass_without_backward(w->pass);
    for (size_t e = 0; e < w->schedule->n_events; e++)
        STM_TRY(run[w->schedule->events[e].kind](w, w->schedule->events[e].chunk));
    if (w->pass->kind == STM_PASS_PREFILL)
        for (size_t i = 0; i < w->schedule->n_chunks; i++)
            stm_exchange_close(w->exchange, i);
    return STM_OK;
}

static stm_status agree_on_rounds(const walk *w)
{
    uint64_t *keys;
    if (!w->pass->rounds)
        return STM_OK;
    STM_TRY(stm_arena_take(w->pass->host, w->schedule->n_events * sizeof *keys, &keys));
    stm_rounds_agree(w->pass->rounds, keys, stm_schedule_keys(w->schedule, keys));
    return STM_OK;
}

/* Others may have chunks to come, and wait for this rank, which moves their messages, too. */
static void settle_rounds(const stm_pass *pass)
{
    if (!pass->rounds)
        return;
    stm_rounds_end(pass->rounds);
    while (!stm_rounds_settled(pass->rounds)) {
        pass->hooks->drive(pass->hooks->context);
        sched_yield();
    }
}

static stm_status run(walk *w, const stm_grid *grid, stm_timers *timers)
{
    const size_t n = w->schedule->n_chunks;
    STM_TRY(stm_arena_take(w->pass->host, n * sizeof *w->chunks, &w->chunks));
    STM_TRY(stm_arena_take(w->pass->host, n * sizeof *w->marks, &w->marks));
    STM_TRY(stm_exchange_create(w->pass, w->schedule, w->chunks, grid, timers, &w->exchange));
    STM_TRY(agree_on_rounds(w));
    STM_TRY(run_events(w));
    settle_rounds(w->pass);
    return STM_OK;
}

stm_status stm_walk_run(stm_pass *pass, const stm_schedule *schedule, const stm_bank *banks, const stm_grid *grid,
                        stm_timers *timers)
{
    const stm_bank temporary = {.device = pass->device, .host = pass->host};
    const stm_bank_mark mark = stm_bank_mark_of(&temporary);
    walk w = {.pass = pass, .schedule = schedule, .banks = banks};
    const stm_status status = run(&w, grid, timers);
    if (status != STM_OK) {
        stm_abort_in_team(grid->team_comm);
        stm_abort_in_team(grid->column_comm);
    }
    stm_exchange_destroy(w.exchange);
    if (pass->kind != STM_PASS_PREFILL)
        stm_bank_reset(&temporary, mark);
    return status;
}
