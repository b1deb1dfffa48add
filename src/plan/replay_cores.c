#include <math.h>

#include "plan/replay_world.h"

/* Of a rank that runs; those that are not replayed run as often as those that are. */
static double speed(const stm_world *w, const stm_cores *c)
{
    return fmin(1, (double)c->n_here / ((double)c->n_running * w->replay->cost->crowd));
}

/* Brings the cores up to now. */
static void catch_up(const stm_world *w, stm_cores *c)
{
    if (c->n_running > 0)
        c->done += (w->now - c->since) * speed(w, c);
    c->since = w->now;
}

/* The moment when the next of the ranks that run on a node is done, as long as no other starts or ends. */
static stm_status schedule_cores(stm_world *w, stm_cores *c)
{
    size_t next = STM_NONE;
    c->version++;
    for (size_t i = 0; i < w->n_actors; i++)
        if (w->actors[i].computes && stm_world_cores_of(w, &w->actors[i]) == c &&
            (next == STM_NONE || w->actors[i].ends < w->actors[next].ends))
            next = i;
    if (next == STM_NONE)
        return STM_OK;
    const double left = fmax(w->actors[next].ends - c->done, 0) / speed(w, c);
    return stm_moments_push(
        &w->moments,
        (stm_moment){.time = w->now + left, .kind = STM_MOMENT_CORES, .actor = next, .version = c->version});
}

stm_status stm_world_compute_both(stm_world *w, stm_actor *a, stm_replay_part what, double seconds,
                                  stm_replay_part then, double then_s)
{
    if (!stm_world_shares_cores(w)) {
        a->parts[what] += seconds;
        a->parts[then] += then_s;
        return stm_moments_push(&w->moments, (stm_moment){.time = w->now + seconds + then_s,
                                                          .kind = STM_MOMENT_RESUME,
                                                          .actor = (size_t)(a - w->actors)});
    }
    stm_cores *c = stm_world_cores_of(w, a);
    catch_up(w, c);
    c->n_running++;
    a->computes = true;
    a->doing[0] = what;
    a->doing[1] = then;
    a->doing_s[0] = seconds;
    a->doing_s[1] = then_s;
    a->began = w->now;
    a->ends = c->done + seconds + then_s;
    return schedule_cores(w, c);
}

stm_status stm_world_compute(stm_world *w, stm_actor *a, stm_replay_part what, double seconds)
{
    return stm_world_compute_both(w, a, what, seconds, what, 0);
}

/* A rank has computed what it had to: the time that it took belongs to what it did, in proportion. */
stm_status stm_world_leave_cores(stm_world *w, const stm_moment *m)
{
    stm_actor *a = &w->actors[m->actor];
    stm_cores *c = stm_world_cores_of(w, a);
    if (m->version != c->version)
        return STM_OK;
    catch_up(w, c);
    c->n_running--;
    a->computes = false;
    const double all_s = a->doing_s[0] + a->doing_s[1], scale = all_s > 0 ? (w->now - a->began) / all_s : 0;
    for (int i = 0; i < 2; i++)
        a->parts[a->doing[i]] += scale * a->doing_s[i];
    STM_TRY(schedule_cores(w, c));
    return stm_moments_push(&w->moments, (stm_moment){.time = w->now, .kind = STM_MOMENT_RESUME, .actor = m->actor});
}
