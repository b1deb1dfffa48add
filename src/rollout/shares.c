#include "rollout/shares.h"

#include "mpi/tally.h"

enum { LEVEL, OFFER, N_NUMBERS };

struct stm_shares {
    stm_slots *slots;
    stm_timers *timers;
    stm_tally *tally;
    size_t n_ranks, rank;
    bool is_open;
    /* Each rank's queue as a stack, the last of it on top; what has started is still below. */
    size_t *tops;             /* [n_ranks]; STM_NONE: empty */
    size_t *below;            /* [n_items] */
    int64_t *levels, *offers; /* [n_ranks] */
};

static void push(stm_shares *s, size_t rank, size_t item)
{
    s->below[item] = s->tops[rank];
    s->tops[rank] = item;
}

static size_t n_free(const stm_slots *slots)
{
    size_t n = 0;
    for (size_t b = 0; b < slots->n_batches; b++)
        n += slots->batches[b].n_free;
    return n;
}

/* How many rollouts may be expected to end, and as many to start, before the numbers are read. */
static size_t n_needed(const stm_slots *slots)
{
    const size_t tokens = slots->n_slots * STM_SHARES_ROUNDS;
    return slots->n_tokens == 0 ? slots->n_queued : tokens * STM_MAX(slots->n_ended, (size_t)1) / slots->n_tokens + 1;
}

static void post(stm_shares *s)
{
    stm_slots *slots = s->slots;
    const size_t n_kept = n_free(slots) + n_needed(slots);
    slots->n_held = slots->n_queued > n_kept ? slots->n_queued - n_kept : 0;
    const int64_t numbers[N_NUMBERS] = {
        [LEVEL] = (int64_t)slots->n_queued - (int64_t)n_free(slots), [OFFER] = (int64_t)slots->n_held};
    stm_tally_post(s->tally, numbers);
}

bool stm_shares_are_needed(const stm_decode_work *work)
{
    const size_t n = (size_t)work->grid->team_size;
    return n > 1 && (work->n_items + n - 1) / n > work->n_slots;
}

stm_status stm_shares_create(const stm_decode_work *work, stm_slots *slots, stm_progress_hook progress,
                             stm_shares **out)
{
    stm_shares *s;
    stm_arena *host = work->pass->host;
    const size_t n = (size_t)work->grid->team_size;
    STM_TRY(stm_arena_take(host, sizeof *s, &s));
    *s = (stm_shares){
        .slots = slots, .timers = work->timers, .n_ranks = n, .rank = (size_t)work->grid->team_rank, .is_open = true};
    STM_TRY(stm_arena_take(host, n * sizeof *s->tops, &s->tops));
    STM_TRY(stm_arena_take(host, n * sizeof *s->offers, &s->offers));
    STM_TRY(stm_arena_take(host, n * sizeof *s->levels, &s->levels));
    STM_TRY(stm_arena_take(host, work->n_items * sizeof *s->below, &s->below));
    for (size_t r = 0; r < n; r++) {
        s->tops[r] = STM_NONE;
        for (size_t i = stm_decode_share(work, (int)r); i < stm_decode_share(work, (int)r + 1); i++)
            push(s, r, i);
    }
    s->tally = stm_tally_create(work->grid->team_comm, N_NUMBERS, progress);
    *out = s;
    return STM_OK;
}

void stm_shares_begin(stm_shares *s)
{
    if (s)
        post(s);
}

void stm_shares_destroy(stm_shares *s)
{
    if (s)
        stm_tally_destroy(s->tally);
}

void stm_shares_drive(stm_shares *s)
{
    if (s)
        stm_tally_drive(s->tally);
}

bool stm_shares_is_open(const stm_shares *s)
{
    return s && s->is_open;
}

void stm_shares_level(size_t n_ranks, int64_t *levels, int64_t *offers,
                      void (*move)(void *context, size_t from, size_t to), void *context)
{
    while (true) {
        size_t from = STM_NONE, to = 0;
        for (size_t r = 0; r < n_ranks; r++) {
            if (offers[r] > 0 && (from == STM_NONE || levels[r] > levels[from]))
                from = r;
            if (levels[r] < levels[to])
                to = r;
        }
        if (from == STM_NONE || levels[from] - levels[to] < 2)
            return;
        move(context, from, to);
        offers[from]--;
        levels[from]--;
        levels[to]++;
    }
}

static void move_one(void *context, size_t from, size_t to)
{
    stm_shares *s = context;
    stm_slots *slots = s->slots;
    const size_t item = s->tops[from];
    s->tops[from] = s->below[item];
    push(s, to, item);
    if (from == s->rank)
        slots->n_queued--;
    if (to == s->rank)
        slots->queue[slots->first_queued + slots->n_queued++] = item;
}

void stm_shares_meet(stm_shares *s)
{
    stm_timers_push(s->timers, STM_PHASE_WAIT);
    const int64_t *table = stm_tally_wait(s->tally);
    stm_timers_pop(s->timers, STM_PHASE_WAIT);
    s->slots->n_held = 0;
    s->is_open = false;
    for (size_t r = 0; r < s->n_ranks; r++) {
        s->levels[r] = table[r * N_NUMBERS + LEVEL];
        s->offers[r] = table[r * N_NUMBERS + OFFER];
        s->is_open = s->is_open || s->levels[r] > 0;
    }
    stm_shares_level(s->n_ranks, s->levels, s->offers, move_one, s);
    if (s->is_open)
        post(s);
}
