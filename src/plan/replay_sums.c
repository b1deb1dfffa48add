#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "group/keys.h"
#include "mpi/rounds.h"
#include "plan/replay_world.h"

static stm_sum_rounds *sums_of(const stm_world *w, const stm_actor *a)
{
    return &w->sums[a->stage];
}

/* A place is a step's layers of a round: that of all that the rank offers, in its order. */
static size_t place_of(const stm_world *w, const stm_actor *a, size_t i)
{
    const size_t n_steps = stm_world_n_steps(w, a->stage);
    return a->rounds[i / n_steps] * n_steps + i % n_steps;
}

/* Opening */

static int compare_keys(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* All keys of a stage, in order, each once. */
static stm_status list_rounds(const stm_world *w, size_t stage, uint64_t **keys, size_t *n_rounds)
{
    const size_t team_size = (size_t)w->replay->team_size;
    const stm_schedule *schedules = w->schedules + stage * team_size;
    size_t most = 0, n = 0;
    *n_rounds = 0;
    for (size_t i = 0; i < team_size; i++)
        most += schedules[i].n_events;
    STM_TRY(stm_alloc(most + 1, sizeof **keys, keys));
    for (size_t i = 0; i < team_size; i++)
        n += stm_schedule_keys(&schedules[i], *keys + n);
    qsort(*keys, n, sizeof **keys, compare_keys);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || (*keys)[i] != (*keys)[*n_rounds - 1])
            (*keys)[(*n_rounds)++] = (*keys)[i];
    return STM_OK;
}

/* Which rounds a rank has chunks in. */
static stm_status join_rounds(stm_world *w, stm_actor *a, const uint64_t *keys)
{
    const stm_sum_rounds *x = sums_of(w, a);
    const size_t n_steps = stm_world_n_steps(w, a->stage);
    uint64_t *mine;
    STM_TRY(stm_alloc(a->schedule->n_events + 1, sizeof *mine, &mine));
    const size_t n = stm_schedule_keys(a->schedule, mine);
    const stm_status status = stm_alloc(n + 1, sizeof *a->rounds, &a->rounds);
    for (size_t i = 0; i < n && status == STM_OK; i++) {
        const uint64_t *at = bsearch(&mine[i], keys, x->n_places / n_steps, sizeof *keys, compare_keys);
        a->rounds[i] = (size_t)(at - keys);
        for (size_t step = 0; step < n_steps; step++)
            x->n_missing[place_of(w, a, i * n_steps + step)]++;
    }
    free(mine);
    return status;
}

/* Of the step's layers: to the ranks of its stage on this node, and to the others. */
static void count_step(const stm_world *w, const stm_actor *a, size_t step, stm_sum_sends *out)
{
    const stm_replay *r = w->replay;
    const stm_rounds_options *o = &r->rounds[a->stage];
    const int64_t rank = r->first_rank + a->team_rank, before = (int64_t)a->stage * r->stage_size;
    const int64_t begin = stm_world_node_of(w, a) * r->ranks_per_node - before;
    const int first = (int)STM_MAX(begin, (int64_t)0);
    const int last = (int)(STM_MIN(begin + r->ranks_per_node, r->stage_size) - 1);
    const size_t end = STM_MIN((step + 1) * w->group, o->n_layers);
    const double real_bytes = r->cost->real_bytes;
    *out = (stm_sum_sends){0};
    for (size_t l = step * w->group; l < end; l++) {
        const stm_rounds_traffic inside = stm_rounds_sent(o, (int)rank, l, first, last);
        const stm_rounds_traffic all = stm_rounds_sent(o, (int)rank, l, 0, (int)r->stage_size - 1);
        out->inside_bytes += (double)inside.n_reals * real_bytes;
        out->between_bytes += (double)(all.n_reals - inside.n_reals) * real_bytes;
        out->n_messages += (double)all.n_messages;
        out->bytes += (double)(o->bounds[l + 1] - o->bounds[l]) * real_bytes;
    }
}

static stm_status open_stage(stm_world *w, size_t stage)
{
    stm_sum_rounds *x = &w->sums[stage];
    uint64_t *keys = NULL;
    size_t n_rounds;
    stm_status status;
    STM_GOTO_OUT(list_rounds(w, stage, &keys, &n_rounds));
    x->n_places = n_rounds * stm_world_n_steps(w, stage);
    STM_GOTO_OUT(stm_alloc(x->n_places + 1, sizeof *x->n_missing, &x->n_missing));
    for (int i = 0; i < w->replay->team_size; i++)
        STM_GOTO_OUT(join_rounds(w, &w->actors[stm_world_actor_at(w, stage, i)], keys));
out:
    free(keys);
    return status;
}

stm_status stm_world_open_sums(stm_world *w)
{
    if (!w->replay->rounds)
        return STM_OK;
    STM_TRY(stm_alloc(w->replay->n_stages, sizeof *w->sums, &w->sums));
    for (size_t stage = 0; stage < w->replay->n_stages; stage++)
        STM_TRY(open_stage(w, stage));
    for (size_t i = 0; i < w->n_actors; i++) {
        stm_actor *a = &w->actors[i];
        const size_t n_steps = stm_world_n_steps(w, a->stage);
        STM_TRY(stm_alloc(n_steps, sizeof *a->sends, &a->sends));
        for (size_t step = 0; step < n_steps; step++)
            count_step(w, a, step, &a->sends[step]);
    }
    return STM_OK;
}

void stm_world_close_sums(stm_world *w)
{
    for (size_t i = 0; w->actors && i < w->n_actors; i++) {
        free(w->actors[i].rounds);
        free(w->actors[i].sends);
    }
    for (size_t stage = 0; w->sums && stage < w->replay->n_stages; stage++)
        free(w->sums[stage].n_missing);
    free(w->sums);
}

/* Running */

double stm_world_sum_s(const stm_world *w, const stm_actor *a, size_t step)
{
    enum { PASSES = 2 }; /* a room is zeroed; as much as it holds is added to sums */
    const stm_machine *m = w->replay->cost->machine;
    const stm_sum_sends *s = &a->sends[step];
    return PASSES * stm_cost_read_s(w->replay->cost, s->bytes) +
           (m->devices > 0 ? 0 : s->inside_bytes / m->inside.bandwidth);
}

bool stm_world_has_sum_room(const stm_world *w, const stm_actor *a)
{
    return a->n_offered < STM_ROUNDS_ROOMS || sums_of(w, a)->n_done > place_of(w, a, a->n_offered - STM_ROUNDS_ROOMS);
}

bool stm_world_sums_are_done(const stm_world *w, const stm_actor *a)
{
    return !w->sums || sums_of(w, a)->n_done == sums_of(w, a)->n_places;
}

stm_status stm_world_offer_sum(stm_world *w, stm_actor *a)
{
    const size_t n_steps = stm_world_n_steps(w, a->stage);
    const stm_sum_sends *s = &a->sends[n_steps - 1 - a->n_offered % n_steps];
    const bool copied = w->replay->cost->machine->devices == 0; /* by the rank itself, before */
    double arrives = w->now;
    if (s->inside_bytes > 0)
        arrives = stm_world_leave(w, a, true, copied ? 0 : s->inside_bytes, w->now);
    if (s->between_bytes > 0)
        arrives = fmax(arrives, stm_world_leave(w, a, false, s->between_bytes, w->now));
    w->out->inside_bytes += copied ? s->inside_bytes : 0;
    w->out->n_messages += s->n_messages;
    return stm_moments_push(&w->moments, (stm_moment){.time = arrives,
                                                      .kind = STM_MOMENT_SUMS_ARRIVE,
                                                      .actor = (size_t)(a - w->actors),
                                                      .step = place_of(w, a, a->n_offered++)});
}

stm_status stm_world_sum_is_here(stm_world *w, const stm_moment *m)
{
    const stm_actor *from = &w->actors[m->actor];
    stm_sum_rounds *x = sums_of(w, from);
    const size_t before = x->n_done;
    x->n_missing[m->step]--;
    while (x->n_done < x->n_places && x->n_missing[x->n_done] == 0)
        x->n_done++;
    for (int i = 0; i < w->replay->team_size && x->n_done > before; i++) {
        const size_t to = stm_world_actor_at(w, from->stage, i);
        if (w->actors[to].blocked && w->actors[to].waits_for == STM_REPLAY_SUMS)
            STM_TRY(stm_world_wake(w, to));
    }
    return STM_OK;
}
