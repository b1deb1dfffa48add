#include "plan/replay_world.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Shares of a layer's time before K and V are formed, and in backward before those of the rows are needed: about those
 * of the projections' FLOPs. */
static const double before_kv = 0.25, before_dkv = 0.75;

/* At most so many steps a rank: layers of large teams go in groups. */
enum { MOST_STEPS = 12, SMALL_TEAM = 64 };

static void block(stm_world *w, stm_actor *a, stm_replay_part what)
{
    a->blocked = true;
    a->waits_for = what;
    a->since = w->now;
}

static size_t route_of(const stm_world *w, const stm_actor *a, size_t shared)
{
    return a->stage * w->n_shared + shared;
}

static size_t own_member(const stm_world *w, const stm_actor *a, size_t shared)
{
    return w->member_of[shared * (size_t)w->replay->team_size + (size_t)a->team_rank];
}

/* The layers that a step has, as places in the stage's; a step counts in the direction of the pass. */
static size_t step_of(const stm_world *w, const stm_actor *a, bool backward)
{
    return backward ? stm_world_n_steps(w, a->stage) - 1 - a->step : a->step;
}

/* Of the layers of a step. */
static double step_s(const stm_world *w, const stm_actor *a, size_t step, bool backward)
{
    const stm_model *model = &w->replay->stages[a->stage];
    const size_t first = model->first_layer + step * w->group, end = STM_MIN(first + w->group, model->end_layer);
    const bool has_last = end == model->config.n_layers;
    double (*layer_s)(const stm_cost *, const stm_work *, bool) = backward ? stm_cost_backward_s : stm_cost_forward_s;
    const stm_cost *cost = w->replay->cost;
    return (double)(end - first - has_last) * layer_s(cost, &a->work, false) +
           (has_last ? layer_s(cost, &a->work, true) : 0);
}

static bool has_head(const stm_world *w, const stm_actor *a)
{
    return a->stage + 1 == w->replay->n_stages;
}

static const stm_planned_chunk *chunk_of(const stm_actor *a)
{
    return &a->schedule->chunks[a->schedule->events[a->event].chunk];
}

static stm_status next_event(stm_world *w, stm_actor *a)
{
    a->event++;
    a->at = AT_EVENT;
    a->step = 0;
    return stm_moments_push(&w->moments,
                            (stm_moment){.time = w->now, .kind = STM_MOMENT_RESUME, .actor = (size_t)(a - w->actors)});
}

/* The rows' message to the stage after, or (backward) before. */
static stm_status send_rows(stm_world *w, stm_actor *a, bool backward)
{
    const size_t to = stm_world_actor_at(w, backward ? a->stage - 1 : a->stage + 1, a->team_rank);
    const double bytes = a->work.n_rows * (double)w->replay->stages[0].config.hidden_size * w->replay->cost->real_bytes;
    return stm_moments_push(&w->moments, (stm_moment){.time = stm_world_send(w, a, &w->actors[to], bytes, w->now),
                                                      .kind = STM_MOMENT_ROWS_ARRIVE,
                                                      .actor = to,
                                                      .backward = backward});
}

static bool takes_rows(const stm_world *w, const stm_actor *a, bool backward)
{
    return backward ? a->stage + 1 < w->replay->n_stages : a->stage > 0;
}

static bool gives_rows(const stm_world *w, const stm_actor *a, bool backward)
{
    return backward ? a->stage > 0 : a->stage + 1 < w->replay->n_stages;
}

static stm_status begin_forward(stm_world *w, stm_actor *a)
{
    a->at = AT_LAYER;
    return stm_world_compute(w, a, STM_REPLAY_FORWARD, 0);
}

/* Activations again, where they were not kept, and the head. */
static stm_status begin_backward(stm_world *w, stm_actor *a)
{
    double again_s = 0;
    for (size_t step = 0; step < stm_world_n_steps(w, a->stage) && !chunk_of(a)->keeps; step++)
        again_s += step_s(w, a, step, false);
    const double head_s = has_head(w, a) ? stm_cost_head_s(w->replay->cost, a->work.n_active, true) : 0;
    a->backward_began = w->now;
    a->at = AT_LAYER;
    return stm_world_compute_both(w, a, STM_REPLAY_AGAIN, again_s, STM_REPLAY_HEAD, head_s);
}

static stm_status begin(stm_world *w, stm_actor *a, bool backward)
{
    if (takes_rows(w, a, backward)) {
        if (a->arrived[backward] == a->used[backward]) {
            block(w, a, STM_REPLAY_STAGE);
            return STM_OK;
        }
        a->used[backward]++;
    }
    const stm_planned_chunk *c = chunk_of(a);
    a->work = stm_work_of(w->replay->forest, a->schedule->segments + c->first_segment, c->n);
    return backward ? begin_backward(w, a) : begin_forward(w, a);
}

/* Whether something that the layer needs is still under way; offers what is ready. */
static stm_status meet_forward(stm_world *w, stm_actor *a, bool *waits)
{
    const stm_planned_chunk *c = chunk_of(a);
    const size_t step = step_of(w, a, false);
    *waits = false;
    if (c->shared != STM_NONE) {
        const size_t r = route_of(w, a, c->shared);
        if (w->routes[r].open && !w->routes[r].has[step])
            STM_TRY(stm_world_kv_is_here(w, r, 0, step));
    }
    for (size_t i = c->first_read; i < c->first_read + c->n_reads; i++) {
        const size_t shared = a->schedule->reads[i];
        const stm_kv_route *x = &w->routes[route_of(w, a, shared)];
        *waits = *waits || (x->open && !x->has[own_member(w, a, shared) * x->n_steps + step]);
    }
    return STM_OK;
}

static stm_status meet_backward(stm_world *w, stm_actor *a, bool *waits)
{
    const stm_planned_chunk *c = chunk_of(a);
    const size_t step = step_of(w, a, true);
    for (size_t i = c->first_offer; i < c->first_offer + c->n_offers; i++) {
        const size_t shared = a->schedule->offers[i], r = route_of(w, a, shared), m = own_member(w, a, shared);
        stm_kv_route *x = &w->routes[r];
        if (!x->open || x->offered[m * x->n_steps + step])
            continue;
        x->offered[m * x->n_steps + step] = 1;
        STM_TRY(stm_world_sum_dkv(w, r, m, step));
    }
    const stm_kv_route *own = c->shared == STM_NONE ? NULL : &w->routes[route_of(w, a, c->shared)];
    *waits = own && own->open && !own->summed[step];
    return STM_OK;
}

static stm_status end_pass(stm_world *w, stm_actor *a, bool backward)
{
    if (gives_rows(w, a, backward))
        STM_TRY(send_rows(w, a, backward));
    const bool scores = !backward && w->replay->kind == STM_PASS_SCORE && has_head(w, a);
    const double head_s = scores ? stm_cost_head_s(w->replay->cost, a->work.n_active, false) : 0;
    a->event++;
    a->at = AT_EVENT;
    a->step = 0;
    return stm_world_compute(w, a, STM_REPLAY_HEAD, head_s);
}

static stm_status run_layers(stm_world *w, stm_actor *a, bool backward)
{
    const stm_replay_part what = backward ? STM_REPLAY_BACKWARD : STM_REPLAY_FORWARD;
    const double before = backward ? before_dkv : before_kv;
    const bool sums = backward && w->sums && chunk_of(a)->n_rows > 0;
    bool waits;
    if (a->n_offered < a->n_computed)
        STM_TRY(stm_world_offer_sum(w, a));
    if (a->at == AT_LAYER && a->step == stm_world_n_steps(w, a->stage))
        return end_pass(w, a, backward);
    const double seconds = step_s(w, a, step_of(w, a, backward), backward);
    if (a->at == AT_LAYER && sums && !stm_world_has_sum_room(w, a)) {
        block(w, a, STM_REPLAY_SUMS);
        return STM_OK;
    }
    if (a->at == AT_LAYER) {
        a->at = AT_MEETING;
        return stm_world_compute(w, a, what, before * seconds);
    }
    STM_TRY(backward ? meet_backward(w, a, &waits) : meet_forward(w, a, &waits));
    if (waits) {
        block(w, a, STM_REPLAY_KV);
        return STM_OK;
    }
    const double sum_s = sums ? stm_world_sum_s(w, a, step_of(w, a, backward)) : 0;
    a->n_computed += sums;
    a->at = AT_LAYER;
    a->step++;
    return stm_world_compute_both(w, a, what, (1 - before) * seconds, STM_REPLAY_SUMS, sum_s);
}

/* All that this rank passes on of a shared chunk has come. */
static stm_status close_chunk(stm_world *w, stm_actor *a)
{
    const stm_planned_chunk *c = chunk_of(a);
    if (c->shared == STM_NONE || !w->routes[route_of(w, a, c->shared)].open)
        return next_event(w, a);
    const stm_kv_route *x = &w->routes[route_of(w, a, c->shared)];
    const size_t first = own_member(w, a, c->shared) * x->n_steps;
    const uint8_t *done = w->replay->kind == STM_PASS_GRADIENT ? x->summed : x->has;
    for (size_t step = 0; step < x->n_steps; step++)
        if (!done[first + step]) {
            block(w, a, STM_REPLAY_KV);
            return STM_OK;
        }
    return next_event(w, a);
}

static stm_status resume(stm_world *w, stm_actor *a)
{
    a->clock = w->now;
    if (a->event == a->schedule->n_events) {
        if (!stm_world_sums_are_done(w, a))
            block(w, a, STM_REPLAY_SUMS);
        return STM_OK;
    }
    const stm_event_kind kind = a->schedule->events[a->event].kind;
    switch (kind) {
    case STM_EVENT_OPEN:
        return next_event(w, a);
    case STM_EVENT_CLOSE:
        return close_chunk(w, a);
    case STM_EVENT_FORWARD:
    case STM_EVENT_BACKWARD:
        break;
    }
    const bool backward = kind == STM_EVENT_BACKWARD;
    return a->at == AT_EVENT ? begin(w, a, backward) : run_layers(w, a, backward);
}

static stm_status act(stm_world *w, const stm_moment *m)
{
    w->now = m->time;
    switch (m->kind) {
    case STM_MOMENT_RESUME:
        return resume(w, &w->actors[m->actor]);
    case STM_MOMENT_CORES:
        return stm_world_leave_cores(w, m);
    case STM_MOMENT_KV_ARRIVES:
        return stm_world_kv_is_here(w, m->route, m->member, m->step);
    case STM_MOMENT_DKV_ARRIVES:
        w->routes[m->route].received[m->member * w->routes[m->route].n_steps + m->step]++;
        return stm_world_sum_dkv(w, m->route, m->member, m->step);
    case STM_MOMENT_ROWS_ARRIVE:
        w->actors[m->actor].arrived[m->backward]++;
        return stm_world_wake(w, m->actor);
    case STM_MOMENT_SUMS_ARRIVE:
        return stm_world_sum_is_here(w, m);
    }
    return STM_OK;
}

/* All of it */

static stm_status set_up(stm_world *w)
{
    const stm_replay *r = w->replay;
    w->n_nodes = (size_t)((int64_t)r->n_stages * r->stage_size / r->ranks_per_node + 1);
    size_t most_layers = 0;
    for (size_t s = 0; s < r->n_stages; s++)
        most_layers = STM_MAX(most_layers, stm_world_n_layers(&r->stages[s]));
    w->group = w->n_actors <= SMALL_TEAM ? 1 : (most_layers + MOST_STEPS - 1) / MOST_STEPS;
    STM_TRY(stm_alloc(w->n_actors, sizeof *w->actors, &w->actors));
    STM_TRY(stm_alloc(w->n_actors, sizeof *w->rank_free, &w->rank_free));
    STM_TRY(stm_alloc(w->n_nodes, sizeof *w->node_free, &w->node_free));
    STM_TRY(stm_alloc(w->n_nodes, sizeof *w->cores, &w->cores));
    for (size_t i = 0; i < w->n_actors; i++) {
        w->actors[i] = (stm_actor){.schedule = &w->schedules[i],
                                   .stage = i / (size_t)r->team_size,
                                   .team_rank = (int)(i % (size_t)r->team_size)};
        stm_world_cores_of(w, &w->actors[i])->n_here++;
        w->out->n_chunks = STM_MAX(w->out->n_chunks, w->schedules[i].n_chunks);
        STM_TRY(stm_moments_push(&w->moments, (stm_moment){.kind = STM_MOMENT_RESUME, .actor = i}));
    }
    STM_TRY(stm_world_open_sums(w));
    return stm_world_open_routes(w);
}

static stm_status finish(stm_world *w)
{
    stm_replayed *out = w->out;
    out->tail_s = INFINITY;
    for (size_t i = 0; i < w->n_actors; i++) {
        const stm_actor *a = &w->actors[i];
        if (a->event < a->schedule->n_events || a->blocked)
            return stm_fail(STM_ERR_DEVICE, "replay: stage %zu, rank %d waits for ever at event %zu of %zu", a->stage,
                            a->team_rank, a->event, a->schedule->n_events);
        out->seconds = fmax(out->seconds, a->clock);
        out->tail_s = fmin(out->tail_s, a->clock - a->backward_began);
    }
    if (w->replay->kind == STM_PASS_PREFILL)
        out->seconds = fmax(out->seconds, w->now); /* everyone keeps all of it */
    for (size_t i = 0; i < w->n_actors; i++) {
        for (size_t p = 0; p < STM_REPLAY_N_PARTS; p++)
            out->parts[p] += w->actors[i].parts[p] / (double)w->n_actors;
        out->parts[STM_REPLAY_IDLE] += (out->seconds - w->actors[i].clock) / (double)w->n_actors;
    }
    return STM_OK;
}

static void clear(stm_world *w)
{
    for (size_t i = 0; w->routes && i < w->replay->n_stages * w->n_shared; i++) {
        free(w->routes[i].has);
        free(w->routes[i].child);
        free(w->routes[i].next);
    }
    stm_world_close_sums(w);
    free(w->routes);
    free(w->member_of);
    free(w->actors);
    free(w->rank_free);
    free(w->node_free);
    free(w->cores);
    free(w->moments.items);
}

stm_status stm_replay_run(const stm_replay *replay, const stm_schedule *schedules, stm_replayed *out)
{
    stm_world w = {.replay = replay,
                   .schedules = schedules,
                   .n_actors = replay->n_stages * (size_t)replay->team_size,
                   .n_shared = schedules[0].n_shared,
                   .out = out};
    stm_status status;
    *out = (stm_replayed){0};
    STM_GOTO_OUT(set_up(&w));
    while (w.moments.n > 0) {
        const stm_moment m = stm_moments_pop(&w.moments);
        STM_GOTO_OUT(act(&w, &m));
    }
    status = finish(&w);
out:
    clear(&w);
    return status;
}

stm_status stm_replay_pass(const stm_replay *replay, const stm_placement *placement,
                           const stm_schedule_options *options, stm_replayed *out)
{
    const size_t n = replay->n_stages * (size_t)replay->team_size;
    stm_schedule *schedules;
    stm_status status = STM_OK;
    STM_TRY(stm_alloc(n, sizeof *schedules, &schedules));
    for (size_t i = 0; i < n && status == STM_OK; i++) {
        stm_schedule_options o = *options;
        o.kind = replay->kind;
        o.team_size = replay->team_size;
        o.team_rank = (int)(i % (size_t)replay->team_size);
        o.n_stages = replay->n_stages;
        o.stage = i / (size_t)replay->team_size;
        o.one_clock = replay->rounds != NULL;
        status = stm_schedule_create(replay->forest, placement, &replay->stages[o.stage], &o, &schedules[i]);
    }
    if (status == STM_OK)
        status = stm_replay_run(replay, schedules, out);
    for (size_t i = 0; i < n; i++)
        stm_schedule_clear(&schedules[i]);
    free(schedules);
    return status;
}
