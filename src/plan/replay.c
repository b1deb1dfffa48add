#include "plan/replay.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Shares of a layer's time before K and V are formed, and in backward before those of the rows are needed: about those
 * of the projections' FLOPs. */
static const double before_kv = 0.25, before_dkv = 0.75;

/* At most so many steps a rank: layers of large teams go in groups. */
enum { MOST_STEPS = 12, SMALL_TEAM = 64 };

/* Messages and moments, in order of time */

typedef enum { RESUME, KV_ARRIVES, DKV_ARRIVES, ROWS_ARRIVE } moment_kind;

typedef struct {
    double time;
    size_t order; /* of those at one time, the first listed comes first */
    moment_kind kind;
    size_t actor;
    size_t route, member, step; /* of K, V, dK, dV */
    bool backward;              /* rows */
} moment;

typedef struct {
    moment *items;
    size_t n, capacity, n_pushed;
} moments;

static bool is_before(const moment *a, const moment *b)
{
    return a->time < b->time || (a->time == b->time && a->order < b->order);
}

static stm_status push(moments *m, moment item)
{
    STM_TRY(stm_reserve(&m->items, &m->capacity, m->n + 1, sizeof *m->items));
    item.order = m->n_pushed++;
    size_t at = m->n++;
    for (; at > 0 && is_before(&item, &m->items[(at - 1) / 2]); at = (at - 1) / 2)
        m->items[at] = m->items[(at - 1) / 2];
    m->items[at] = item;
    return STM_OK;
}

static moment pop(moments *m)
{
    const moment first = m->items[0], last = m->items[--m->n];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < m->n; at = child) {
        if (child + 1 < m->n && is_before(&m->items[child + 1], &m->items[child]))
            child++;
        if (!is_before(&m->items[child], &last))
            break;
        m->items[at] = m->items[child];
    }
    m->items[at] = last;
    return first;
}

/* Ranks */

typedef enum { AT_EVENT, AT_LAYER, AT_MEETING, AT_END } place;

typedef struct {
    const stm_schedule *schedule;
    size_t stage;
    int team_rank;
    size_t event, step; /* step: of the layers, counted in the direction of the pass */
    place at;
    bool blocked;
    stm_replay_part waits_for;
    double since, clock; /* since: it is blocked */
    double parts[STM_REPLAY_N_PARTS];
    size_t arrived[2], used[2]; /* messages of rows: forward, backward */
    double backward_began;      /* the last one */
    stm_work work;              /* of the chunk that runs */
} actor;

/* K, V and dK, dV of a shared chunk of one stage; members as in the schedule. [n_members, n_steps] each. */
typedef struct {
    bool open;
    size_t n_steps;
    uint8_t *has, *offered, *received, *summed;
    double bytes; /* of a step */
} route;

typedef struct {
    const stm_replay *replay;
    const stm_schedule *schedules;
    size_t n_actors, n_shared, group; /* group: layers of a step */
    actor *actors;
    route *routes;                 /* [n_stages, n_shared] */
    size_t *member_of;             /* [n_shared, team_size]: place among the members, or STM_NONE */
    double *rank_free, *node_free; /* when the last message has left */
    moments moments;
    double now;
    stm_replayed *out;
} world;

static const stm_shared_chunk *shared_of(const world *w, size_t i)
{
    return &w->schedules[0].shared[i];
}

static size_t n_layers(const stm_model *model)
{
    return model->end_layer - model->first_layer;
}

static size_t n_steps(const world *w, size_t stage)
{
    return (n_layers(&w->replay->stages[stage]) + w->group - 1) / w->group;
}

static int64_t node_of(const world *w, const actor *a)
{
    return ((int64_t)a->stage * w->replay->stage_size + w->replay->first_rank + a->team_rank) /
           w->replay->ranks_per_node;
}

/* When a message that is ready at `ready` arrives. */
static double send(world *w, const actor *from, const actor *to, double bytes, double ready)
{
    const stm_machine *m = w->replay->cost->machine;
    const int64_t node = node_of(w, from);
    const bool inside = node == node_of(w, to);
    double *is_free = inside ? &w->rank_free[from - w->actors] : &w->node_free[node];
    const double rate = inside ? m->inside.bandwidth : m->between.bandwidth * w->replay->link_share;
    *is_free = fmax(ready, *is_free) + bytes / rate;
    *(inside ? &w->out->inside_bytes : &w->out->between_bytes) += bytes;
    return *is_free + (inside ? m->inside.latency_s : m->between.latency_s);
}

static size_t actor_at(const world *w, size_t stage, int team_rank)
{
    return stage * (size_t)w->replay->team_size + (size_t)team_rank;
}

/* The rank of a member of a route. */
static size_t member_actor(const world *w, size_t r, size_t member)
{
    const size_t shared = r % w->n_shared;
    return actor_at(w, r / w->n_shared, w->schedules[0].members[shared_of(w, shared)->first_member + member]);
}

static stm_status wake(world *w, size_t i)
{
    actor *a = &w->actors[i];
    if (!a->blocked)
        return STM_OK;
    a->blocked = false;
    a->parts[a->waits_for] += w->now - a->since;
    return push(&w->moments, (moment){.time = w->now, .kind = RESUME, .actor = i});
}

static void block(world *w, actor *a, stm_replay_part what)
{
    a->blocked = true;
    a->waits_for = what;
    a->since = w->now;
}

/* Routes */

static stm_status kv_is_here(world *w, size_t r, size_t member, size_t step)
{
    route *x = &w->routes[r];
    const size_t from = member_actor(w, r, member), n = (size_t)shared_of(w, r % w->n_shared)->n_members;
    x->has[member * x->n_steps + step] = 1;
    for (size_t child = 2 * member + 1; child <= 2 * member + 2 && child < n; child++) {
        const size_t to = member_actor(w, r, child);
        STM_TRY(push(&w->moments, (moment){.time = send(w, &w->actors[from], &w->actors[to], x->bytes, w->now),
                                           .kind = KV_ARRIVES,
                                           .actor = to,
                                           .route = r,
                                           .member = child,
                                           .step = step}));
    }
    return wake(w, from);
}

/* A member's own part, or that of one below it, is there. */
static stm_status sum_dkv(world *w, size_t r, size_t member, size_t step)
{
    route *x = &w->routes[r];
    const size_t at = member * x->n_steps + step, n = (size_t)shared_of(w, r % w->n_shared)->n_members;
    const size_t n_children = (2 * member + 1 < n) + (2 * member + 2 < n);
    if (!x->offered[at] || x->received[at] < n_children || x->summed[at])
        return STM_OK;
    x->summed[at] = 1;
    const size_t from = member_actor(w, r, member);
    if (member > 0) {
        const size_t to = member_actor(w, r, (member - 1) / 2);
        STM_TRY(push(&w->moments, (moment){.time = send(w, &w->actors[from], &w->actors[to], x->bytes, w->now),
                                           .kind = DKV_ARRIVES,
                                           .actor = to,
                                           .route = r,
                                           .member = (member - 1) / 2,
                                           .step = step}));
    }
    return wake(w, from);
}

static size_t route_of(const world *w, const actor *a, size_t shared)
{
    return a->stage * w->n_shared + shared;
}

static size_t own_member(const world *w, const actor *a, size_t shared)
{
    return w->member_of[shared * (size_t)w->replay->team_size + (size_t)a->team_rank];
}

/* The layers that a step has, as places in the stage's; a step counts in the direction of the pass. */
static size_t step_of(const world *w, const actor *a, bool backward)
{
    return backward ? n_steps(w, a->stage) - 1 - a->step : a->step;
}

/* Computing */

/* For `seconds` from now. */
static stm_status compute(world *w, actor *a, stm_replay_part what, double seconds)
{
    a->parts[what] += seconds;
    return push(&w->moments, (moment){.time = w->now + seconds, .kind = RESUME, .actor = (size_t)(a - w->actors)});
}

/* Of the layers of a step. */
static double step_s(const world *w, const actor *a, size_t step, bool backward)
{
    const stm_model *model = &w->replay->stages[a->stage];
    const size_t first = model->first_layer + step * w->group, end = STM_MIN(first + w->group, model->end_layer);
    const bool has_last = end == model->config.n_layers;
    double (*layer_s)(const stm_cost *, const stm_work *, bool) = backward ? stm_cost_backward_s : stm_cost_forward_s;
    const stm_cost *cost = w->replay->cost;
    return (double)(end - first - has_last) * layer_s(cost, &a->work, false) +
           (has_last ? layer_s(cost, &a->work, true) : 0);
}

static bool has_head(const world *w, const actor *a)
{
    return a->stage + 1 == w->replay->n_stages;
}

static const stm_planned_chunk *chunk_of(const actor *a)
{
    return &a->schedule->chunks[a->schedule->events[a->event].chunk];
}

static stm_status next_event(world *w, actor *a)
{
    a->event++;
    a->at = AT_EVENT;
    a->step = 0;
    return push(&w->moments, (moment){.time = w->now, .kind = RESUME, .actor = (size_t)(a - w->actors)});
}

/* The rows' message to the stage after, or (backward) before. */
static stm_status send_rows(world *w, actor *a, bool backward)
{
    const size_t to = actor_at(w, backward ? a->stage - 1 : a->stage + 1, a->team_rank);
    const double bytes = a->work.n_rows * (double)w->replay->stages[0].config.hidden_size * w->replay->cost->real_bytes;
    return push(&w->moments, (moment){.time = send(w, a, &w->actors[to], bytes, w->now),
                                      .kind = ROWS_ARRIVE,
                                      .actor = to,
                                      .backward = backward});
}

static bool takes_rows(const world *w, const actor *a, bool backward)
{
    return backward ? a->stage + 1 < w->replay->n_stages : a->stage > 0;
}

static bool gives_rows(const world *w, const actor *a, bool backward)
{
    return backward ? a->stage > 0 : a->stage + 1 < w->replay->n_stages;
}

static stm_status begin_forward(world *w, actor *a)
{
    a->at = AT_LAYER;
    return compute(w, a, STM_REPLAY_FORWARD, 0);
}

/* Activations again, where they were not kept, and the head. */
static stm_status begin_backward(world *w, actor *a)
{
    double again_s = 0;
    for (size_t step = 0; step < n_steps(w, a->stage) && !chunk_of(a)->keeps; step++)
        again_s += step_s(w, a, step, false);
    const double head_s = has_head(w, a) ? stm_cost_head_s(w->replay->cost, a->work.n_active, true) : 0;
    a->backward_began = w->now;
    a->at = AT_LAYER;
    a->parts[STM_REPLAY_AGAIN] += again_s;
    a->parts[STM_REPLAY_HEAD] += head_s;
    return push(&w->moments,
                (moment){.time = w->now + again_s + head_s, .kind = RESUME, .actor = (size_t)(a - w->actors)});
}

static stm_status begin(world *w, actor *a, bool backward)
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
static stm_status meet_forward(world *w, actor *a, bool *waits)
{
    const stm_planned_chunk *c = chunk_of(a);
    const size_t step = step_of(w, a, false);
    *waits = false;
    if (c->shared != STM_NONE) {
        const size_t r = route_of(w, a, c->shared);
        if (w->routes[r].open && !w->routes[r].has[step])
            STM_TRY(kv_is_here(w, r, 0, step));
    }
    for (size_t i = c->first_read; i < c->first_read + c->n_reads; i++) {
        const size_t shared = a->schedule->reads[i];
        const route *x = &w->routes[route_of(w, a, shared)];
        *waits = *waits || (x->open && !x->has[own_member(w, a, shared) * x->n_steps + step]);
    }
    return STM_OK;
}

static stm_status meet_backward(world *w, actor *a, bool *waits)
{
    const stm_planned_chunk *c = chunk_of(a);
    const size_t step = step_of(w, a, true);
    for (size_t i = c->first_offer; i < c->first_offer + c->n_offers; i++) {
        const size_t shared = a->schedule->offers[i], r = route_of(w, a, shared), m = own_member(w, a, shared);
        route *x = &w->routes[r];
        if (!x->open || x->offered[m * x->n_steps + step])
            continue;
        x->offered[m * x->n_steps + step] = 1;
        STM_TRY(sum_dkv(w, r, m, step));
    }
    const route *own = c->shared == STM_NONE ? NULL : &w->routes[route_of(w, a, c->shared)];
    *waits = own && own->open && !own->summed[step];
    return STM_OK;
}

static stm_status end_pass(world *w, actor *a, bool backward)
{
    if (gives_rows(w, a, backward))
        STM_TRY(send_rows(w, a, backward));
    const bool scores = !backward && w->replay->kind == STM_PASS_SCORE && has_head(w, a);
    const double head_s = scores ? stm_cost_head_s(w->replay->cost, a->work.n_active, false) : 0;
    a->event++;
    a->at = AT_EVENT;
    a->step = 0;
    return compute(w, a, STM_REPLAY_HEAD, head_s);
}

static stm_status run_layers(world *w, actor *a, bool backward)
{
    const stm_replay_part what = backward ? STM_REPLAY_BACKWARD : STM_REPLAY_FORWARD;
    const double before = backward ? before_dkv : before_kv;
    bool waits;
    if (a->at == AT_LAYER && a->step == n_steps(w, a->stage))
        return end_pass(w, a, backward);
    const double seconds = step_s(w, a, step_of(w, a, backward), backward);
    if (a->at == AT_LAYER) {
        a->at = AT_MEETING;
        return compute(w, a, what, before * seconds);
    }
    STM_TRY(backward ? meet_backward(w, a, &waits) : meet_forward(w, a, &waits));
    if (waits) {
        block(w, a, STM_REPLAY_KV);
        return STM_OK;
    }
    a->at = AT_LAYER;
    a->step++;
    return compute(w, a, what, (1 - before) * seconds);
}

/* All that this rank passes on of a shared chunk has come. */
static stm_status close_chunk(world *w, actor *a)
{
    const stm_planned_chunk *c = chunk_of(a);
    if (c->shared == STM_NONE || !w->routes[route_of(w, a, c->shared)].open)
        return next_event(w, a);
    const route *x = &w->routes[route_of(w, a, c->shared)];
    const size_t first = own_member(w, a, c->shared) * x->n_steps;
    const uint8_t *done = w->replay->kind == STM_PASS_GRADIENT ? x->summed : x->has;
    for (size_t step = 0; step < x->n_steps; step++)
        if (!done[first + step]) {
            block(w, a, STM_REPLAY_KV);
            return STM_OK;
        }
    return next_event(w, a);
}

static stm_status resume(world *w, actor *a)
{
    a->clock = w->now;
    if (a->event == a->schedule->n_events)
        return STM_OK;
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

static stm_status act(world *w, const moment *m)
{
    w->now = m->time;
    switch (m->kind) {
    case RESUME:
        return resume(w, &w->actors[m->actor]);
    case KV_ARRIVES:
        return kv_is_here(w, m->route, m->member, m->step);
    case DKV_ARRIVES:
        w->routes[m->route].received[m->member * w->routes[m->route].n_steps + m->step]++;
        return sum_dkv(w, m->route, m->member, m->step);
    case ROWS_ARRIVE:
        w->actors[m->actor].arrived[m->backward]++;
        return wake(w, m->actor);
    }
    return STM_OK;
}

/* Memory: what is held at once, as group/schedule.c counts it */

static void add_memory(const world *w, const actor *a)
{
    const stm_model *model = &w->replay->stages[a->stage];
    const bool gradient = w->replay->kind == STM_PASS_GRADIENT;
    size_t kv = 0, kept = 0, most = 0;
    for (size_t e = 0; e < a->schedule->n_events; e++) {
        const stm_planned_chunk *c = &a->schedule->chunks[a->schedule->events[e].chunk];
        const size_t kv_bytes = stm_chunk_kv_bytes(model, c->n_rows, gradient);
        const size_t kept_bytes = c->computes ? stm_chunk_kept_bytes(model, c->n_rows) : 0;
        switch (a->schedule->events[e].kind) {
        case STM_EVENT_OPEN:
            kv += kv_bytes;
            break;
        case STM_EVENT_FORWARD:
            kept += c->keeps ? kept_bytes : 0;
            break;
        case STM_EVENT_BACKWARD:
            kept -= c->keeps ? kept_bytes : 0;
            break;
        case STM_EVENT_CLOSE:
            kv -= kv_bytes;
            break;
        }
        const size_t now = kept + (gradient && !c->keeps && c->computes ? kept_bytes : 0);
        if (kv + now <= most)
            continue;
        most = kv + now;
        if (most > w->out->kv_bytes + w->out->kept_bytes) {
            w->out->kv_bytes = kv;
            w->out->kept_bytes = now;
        }
    }
    w->out->n_chunks = STM_MAX(w->out->n_chunks, a->schedule->n_chunks);
    w->out->largest_rows = STM_MAX(w->out->largest_rows, a->schedule->largest_rows);
    w->out->scratch_bytes =
        STM_MAX(w->out->scratch_bytes, stm_chunk_scratch_bytes(model, a->schedule->largest_rows, gradient));
}

/* Buffers of two messages each way to each neighbour, and room to add a part of dK, dV. */
static void add_message_memory(const world *w)
{
    const stm_replay *r = w->replay;
    const double rows = (double)w->out->largest_rows, layer = stm_cost_kv_bytes(r->cost);
    const double stages = (double)r->stages[0].config.hidden_size * r->cost->real_bytes;
    const double links = r->n_stages == 1 ? 0 : r->kind == STM_PASS_GRADIENT ? 4 : 2;
    w->out->message_bytes = (size_t)(2 * links * rows * stages + (r->team_size > 1 ? rows * layer : 0));
}

/* All of it */

static stm_status open_routes(world *w)
{
    const size_t team_size = (size_t)w->replay->team_size;
    STM_TRY(stm_alloc(w->replay->n_stages * w->n_shared, sizeof *w->routes, &w->routes));
    STM_TRY(stm_alloc(w->n_shared * team_size, sizeof *w->member_of, &w->member_of));
    for (size_t i = 0; i < w->n_shared; i++) {
        const stm_shared_chunk *c = shared_of(w, i);
        for (size_t k = 0; k < team_size; k++)
            w->member_of[i * team_size + k] = STM_NONE;
        for (size_t m = 0; m < (size_t)c->n_members; m++)
            w->member_of[i * team_size + (size_t)w->schedules[0].members[c->first_member + m]] = m;
        for (size_t stage = 0; stage < w->replay->n_stages; stage++) {
            route *x = &w->routes[stage * w->n_shared + i];
            x->open = c->n_members > 1 && c->n_rows > 0;
            x->n_steps = n_steps(w, stage);
            x->bytes = (double)c->n_rows * stm_cost_kv_bytes(w->replay->cost) * (double)w->group;
            const size_t n = (size_t)c->n_members * x->n_steps;
            if (x->open)
                STM_TRY(stm_alloc(4 * n, 1, &x->has));
            x->offered = x->has ? x->has + n : NULL;
            x->received = x->has ? x->has + 2 * n : NULL;
            x->summed = x->has ? x->has + 3 * n : NULL;
        }
    }
    return STM_OK;
}

static stm_status set_up(world *w)
{
    const stm_replay *r = w->replay;
    const int64_t n_nodes = (int64_t)r->n_stages * r->stage_size / r->ranks_per_node + 1;
    size_t most_layers = 0;
    for (size_t s = 0; s < r->n_stages; s++)
        most_layers = STM_MAX(most_layers, n_layers(&r->stages[s]));
    w->group = w->n_actors <= SMALL_TEAM ? 1 : (most_layers + MOST_STEPS - 1) / MOST_STEPS;
    STM_TRY(stm_alloc(w->n_actors, sizeof *w->actors, &w->actors));
    STM_TRY(stm_alloc(w->n_actors, sizeof *w->rank_free, &w->rank_free));
    STM_TRY(stm_alloc((size_t)n_nodes, sizeof *w->node_free, &w->node_free));
    STM_TRY(open_routes(w));
    for (size_t i = 0; i < w->n_actors; i++) {
        w->actors[i] = (actor){.schedule = &w->schedules[i],
                               .stage = i / (size_t)r->team_size,
                               .team_rank = (int)(i % (size_t)r->team_size)};
        add_memory(w, &w->actors[i]);
        STM_TRY(push(&w->moments, (moment){.kind = RESUME, .actor = i}));
    }
    add_message_memory(w);
    return STM_OK;
}

static stm_status finish(world *w)
{
    stm_replayed *out = w->out;
    out->tail_s = INFINITY;
    for (size_t i = 0; i < w->n_actors; i++) {
        const actor *a = &w->actors[i];
        if (a->event < a->schedule->n_events)
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

static void clear(world *w)
{
    for (size_t i = 0; w->routes && i < w->replay->n_stages * w->n_shared; i++)
        free(w->routes[i].has);
    free(w->routes);
    free(w->member_of);
    free(w->actors);
    free(w->rank_free);
    free(w->node_free);
    free(w->moments.items);
}

stm_status stm_replay_run(const stm_replay *replay, const stm_schedule *schedules, stm_replayed *out)
{
    world w = {.replay = replay,
               .schedules = schedules,
               .n_actors = replay->n_stages * (size_t)replay->team_size,
               .n_shared = schedules[0].n_shared,
               .out = out};
    stm_status status;
    *out = (stm_replayed){0};
    STM_GOTO_OUT(set_up(&w));
    while (w.moments.n > 0) {
        const moment m = pop(&w.moments);
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
        status = stm_schedule_create(replay->forest, placement, &replay->stages[o.stage], &o, &schedules[i]);
    }
    if (status == STM_OK)
        status = stm_replay_run(replay, schedules, out);
    for (size_t i = 0; i < n; i++)
        stm_schedule_clear(&schedules[i]);
    free(schedules);
    return status;
}
