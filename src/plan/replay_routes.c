#include <math.h>
#include <stdlib.h>

#include "plan/replay_world.h"

double stm_world_leave(stm_world *w, const stm_actor *from, bool inside, double bytes, double ready)
{
    const stm_machine *m = w->replay->cost->machine;
    double *is_free = inside ? &w->rank_free[from - w->actors] : &w->node_free[stm_world_node_of(w, from)];
    const double rate = inside ? m->inside.bandwidth : m->between.bandwidth * w->replay->link_share;
    *is_free = fmax(ready, *is_free) + bytes / rate;
    *(inside ? &w->out->inside_bytes : &w->out->between_bytes) += bytes;
    return *is_free + (inside ? m->inside.latency_s : m->between.latency_s);
}

double stm_world_send(stm_world *w, const stm_actor *from, const stm_actor *to, double bytes, double ready)
{
    w->out->n_messages += bytes > 0;
    return stm_world_leave(w, from, stm_world_node_of(w, from) == stm_world_node_of(w, to), bytes, ready);
}

stm_status stm_world_wake(stm_world *w, size_t i)
{
    stm_actor *a = &w->actors[i];
    if (!a->blocked)
        return STM_OK;
    a->blocked = false;
    a->parts[a->waits_for] += w->now - a->since;
    return stm_moments_push(&w->moments, (stm_moment){.time = w->now, .kind = STM_MOMENT_RESUME, .actor = i});
}

stm_status stm_world_kv_is_here(stm_world *w, size_t r, size_t member, size_t step)
{
    stm_kv_route *x = &w->routes[r];
    const size_t from = stm_world_member_actor(w, r, member);
    x->has[member * x->n_steps + step] = 1;
    for (size_t child = x->child[member]; child != STM_NONE; child = x->next[child]) {
        const size_t to = stm_world_member_actor(w, r, child);
        const bool here =
            w->replay->shares_kv && stm_world_node_of(w, &w->actors[from]) == stm_world_node_of(w, &w->actors[to]);
        const double bytes = here ? 0 : x->kv_bytes;
        STM_TRY(stm_moments_push(
            &w->moments, (stm_moment){.time = stm_world_send(w, &w->actors[from], &w->actors[to], bytes, w->now),
                                      .kind = STM_MOMENT_KV_ARRIVES,
                                      .actor = to,
                                      .route = r,
                                      .member = child,
                                      .step = step}));
    }
    return stm_world_wake(w, from);
}

stm_status stm_world_sum_dkv(stm_world *w, size_t r, size_t member, size_t step)
{
    stm_kv_route *x = &w->routes[r];
    const size_t at = member * x->n_steps + step, n = (size_t)stm_world_shared_of(w, r % w->n_shared)->n_members;
    const size_t n_children = (size_t)(2 * member + 1 < n) + (size_t)(2 * member + 2 < n);
    if (!x->offered[at] || x->received[at] < n_children || x->summed[at])
        return STM_OK;
    x->summed[at] = 1;
    const size_t from = stm_world_member_actor(w, r, member);
    if (member > 0) {
        const size_t to = stm_world_member_actor(w, r, (member - 1) / 2);
        STM_TRY(stm_moments_push(
            &w->moments, (stm_moment){.time = stm_world_send(w, &w->actors[from], &w->actors[to], x->dkv_bytes, w->now),
                                      .kind = STM_MOMENT_DKV_ARRIVES,
                                      .actor = to,
                                      .route = r,
                                      .member = (member - 1) / 2,
                                      .step = step}));
    }
    return stm_world_wake(w, from);
}

/* Who passes K and V on to whom (mpi/relay.h): the first member of each node is in the owner's heap; the others of its
 * node, where they read what it has, hear from it. */
static stm_status hang_members(stm_world *w, size_t r)
{
    stm_kv_route *x = &w->routes[r];
    const size_t n = (size_t)stm_world_shared_of(w, r % w->n_shared)->n_members;
    size_t *leaders, *parents, *leader_of; /* [n_leaders] members; [n_members]; [n_nodes] members */
    STM_TRY(stm_alloc(n, sizeof *x->child, &x->child));
    STM_TRY(stm_alloc(n, sizeof *x->next, &x->next));
    STM_TRY(stm_alloc(2 * n + w->n_nodes, sizeof *leaders, &leaders));
    parents = leaders + n;
    leader_of = parents + n;
    for (size_t i = 0; i < w->n_nodes; i++)
        leader_of[i] = STM_NONE;
    for (size_t m = 0, n_leaders = 0; m < n; m++) {
        size_t *leader = &leader_of[stm_world_node_of(w, &w->actors[stm_world_member_actor(w, r, m)])];
        x->child[m] = STM_NONE;
        parents[m] = *leader;
        if (w->replay->shares_kv && *leader != STM_NONE)
            continue;
        parents[m] = n_leaders > 0 ? leaders[(n_leaders - 1) / 2] : STM_NONE;
        leaders[n_leaders++] = *leader = m;
    }
    for (size_t m = n - 1; m > 0; m--) { /* so that the first is told first */
        x->next[m] = x->child[parents[m]];
        x->child[parents[m]] = m;
    }
    free(leaders);
    return STM_OK;
}

stm_status stm_world_open_routes(stm_world *w)
{
    const size_t team_size = (size_t)w->replay->team_size;
    STM_TRY(stm_alloc(w->replay->n_stages * w->n_shared, sizeof *w->routes, &w->routes));
    STM_TRY(stm_alloc(w->n_shared * team_size, sizeof *w->member_of, &w->member_of));
    for (size_t i = 0; i < w->n_shared; i++) {
        const stm_shared_chunk *c = stm_world_shared_of(w, i);
        for (size_t k = 0; k < team_size; k++)
            w->member_of[i * team_size + k] = STM_NONE;
        for (size_t m = 0; m < (size_t)c->n_members; m++)
            w->member_of[i * team_size + (size_t)w->schedules[0].members[c->first_member + m]] = m;
        for (size_t stage = 0; stage < w->replay->n_stages; stage++) {
            stm_kv_route *x = &w->routes[stage * w->n_shared + i];
            x->open = c->n_members > 1 && c->n_rows > 0;
            x->n_steps = stm_world_n_steps(w, stage);
            x->kv_bytes = (double)c->n_rows * stm_cost_kv_bytes(w->replay->cost) * (double)w->group;
            x->dkv_bytes = (double)c->n_rows * stm_cost_dkv_bytes(w->replay->cost) * (double)w->group;
            const size_t n = (size_t)c->n_members * x->n_steps;
            if (x->open) {
                STM_TRY(stm_alloc(4 * n, 1, &x->has));
                STM_TRY(hang_members(w, stage * w->n_shared + i));
            }
            x->offered = x->has ? x->has + n : NULL;
            x->received = x->has ? x->has + 2 * n : NULL;
            x->summed = x->has ? x->has + 3 * n : NULL;
        }
    }
    return STM_OK;
}
