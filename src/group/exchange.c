#include "group/exchange.h"

#include <sched.h>

#include "group/neighbours.h"
#include "group/profile.h"
#include "mpi/reduction.h"
#include "mpi/relay.h"
#include "mpi/rounds.h"

/* The messages of a shared chunk that travels. */
typedef struct {
    size_t kv, dkv; /* routes; STM_NONE: not needed */
    size_t read;    /* a route, too: all members here have read the leader's K and V */
    bool open;
} route_pair;

struct stm_exchange {
    stm_pass *pass;
    const stm_schedule *schedule;
    stm_chunk *const *chunks;
    int team_rank;
    stm_timers *timers;
    stm_relay *relay;
    stm_layer_hooks hooks;
    stm_neighbours *neighbours; /* NULL: no pipeline */
    route_pair *routes;         /* [n_shared] */
    char nothing;               /* the content of messages that have none */
    /* What runs. */
    size_t running;
    bool backward;
};

static const stm_shared_chunk *shared_of(const stm_exchange *e, size_t shared)
{
    return &e->schedule->shared[shared];
}

/* The shared chunk that runs, or STM_NONE. */
static size_t running_shared(const stm_exchange *e)
{
    return e->schedule->chunks[e->running].shared;
}

/* Waiting */

/* Waiting is what the team costs: it counts as such wherever it happens. */
static double begin_wait(stm_exchange *e, stm_phase phase)
{
    stm_timers_push(e->timers, phase);
    return stm_now_s();
}

static void end_wait(stm_exchange *e, stm_phase phase, double begin_s)
{
    stm_profile_exclude(e->pass, STM_STAGE_EXCHANGE, stm_now_s() - begin_s);
    stm_timers_pop(e->timers, phase);
}

/* While messages of a route are awaited. Alone with its team a rank may sleep in MPI; else all kinds must move. */
static void move(stm_exchange *e)
{
    if (stm_relay_poll(e->relay, e->neighbours == NULL && !e->pass->reduction && !e->pass->rounds))
        return;
    stm_neighbours_drive(e->neighbours);
    stm_reduction_drive(e->pass->reduction);
    stm_rounds_drive(e->pass->rounds);
    sched_yield();
}

static void wait_for(stm_exchange *e, size_t route, size_t layer)
{
    const size_t step = layer - e->pass->model->first_layer;
    if (stm_relay_has(e->relay, route, step))
        return;
    const stm_phase phase = e->backward ? STM_PHASE_DKV : STM_PHASE_KV;
    const double begin_s = begin_wait(e, phase);
    while (!stm_relay_has(e->relay, route, step))
        move(e);
    end_wait(e, phase, begin_s);
}

static void offer(stm_exchange *e, size_t route, size_t layer)
{
    stm_relay_offer(e->relay, route, layer - e->pass->model->first_layer);
}

/* Hooks */

static void meet_forward(stm_exchange *e, size_t layer)
{
    const stm_planned_chunk *c = &e->schedule->chunks[e->running];
    if (c->shared != STM_NONE && e->routes[c->shared].open)
        offer(e, e->routes[c->shared].kv, layer);
    for (size_t i = c->first_read; i < c->first_read + c->n_reads; i++) {
        const route_pair *routes = &e->routes[e->schedule->reads[i]];
        if (routes->open)
            wait_for(e, routes->kv, layer);
    }
}

/* Offers what the chunk that runs is the last to add to. */
static void offer_sums(stm_exchange *e, size_t chunk, size_t layer)
{
    const stm_planned_chunk *c = &e->schedule->chunks[chunk];
    for (size_t i = c->first_offer; i < c->first_offer + c->n_offers; i++) {
        const route_pair *routes = &e->routes[e->schedule->offers[i]];
        if (routes->open)
            offer(e, routes->dkv, layer);
    }
}

static void meet_backward(stm_exchange *e, size_t layer)
{
    const size_t shared = running_shared(e);
    offer_sums(e, e->running, layer);
    if (shared != STM_NONE && e->routes[shared].open)
        wait_for(e, e->routes[shared].dkv, layer);
}

static stm_status meet(void *context, size_t layer, bool backward)
{
    stm_exchange *e = context;
    if (backward != e->backward || e->schedule->n_shared == 0)
        return STM_OK; /* forward before backward: again, for activations, and nobody waits for it */
    if (backward)
        meet_backward(e, layer);
    else
        meet_forward(e, layer);
    return STM_OK;
}

static void drive(void *context)
{
    stm_exchange *e = context;
    stm_relay_drive(e->relay);
    stm_neighbours_drive(e->neighbours);
    stm_reduction_drive(e->pass->reduction);
    stm_rounds_drive(e->pass->rounds);
}

/* A pass */

stm_status stm_exchange_create(stm_pass *pass, const stm_schedule *schedule, stm_chunk *const *chunks,
                               const stm_grid *grid, stm_timers *timers, stm_exchange **out)
{
    stm_exchange *e;
    STM_TRY(stm_arena_take(pass->host, sizeof *e, &e));
    *e = (stm_exchange){
        .pass = pass, .schedule = schedule, .chunks = chunks, .team_rank = grid->team_rank, .timers = timers};
    STM_TRY(stm_arena_take(pass->host, schedule->n_shared * sizeof *e->routes, &e->routes));
    for (size_t i = 0; i < schedule->n_shared; i++)
        e->routes[i] = (route_pair){.open = false};
    e->relay = stm_relay_create(grid->team_comm, pass->courier);
    *out = e;
    e->hooks = (stm_layer_hooks){.meet = meet, .drive = drive, .context = e};
    if (grid->n_stages > 1)
        STM_TRY(stm_neighbours_create(pass, schedule, grid, (stm_progress_hook){drive, e}, timers, &e->neighbours));
    pass->hooks = grid->team_size > 1 || grid->n_stages > 1 || pass->reduction || pass->rounds ? &e->hooks : NULL;
    pass->neighbours = e->neighbours;
    return STM_OK;
}

void stm_exchange_destroy(stm_exchange *exchange)
{
    if (!exchange)
        return;
    exchange->pass->hooks = NULL;
    exchange->pass->neighbours = NULL;
    stm_neighbours_destroy(exchange->neighbours);
    stm_relay_destroy(exchange->relay);
}

/* Chunks */

/* A sum of nothing, over the ranks here that share K and V: it is complete when all have offered. */
static size_t open_read(stm_exchange *e, size_t i)
{
    const stm_shared_chunk *shared = shared_of(e, i);
    const stm_route route = {.kind = STM_RELAY_SUM,
                             .members = e->schedule->local + shared->first_local,
                             .n_members = shared->n_local,
                             .id = 2 * i + 1,
                             .n_steps = 1,
                             .number_bytes = e->pass->model->backend->real_bytes,
                             .numbers = &e->nothing,
                             .room = &e->nothing};
    return stm_relay_open(e->relay, &route);
}

stm_status stm_exchange_open(stm_exchange *e, size_t chunk)
{
    const size_t i = e->schedule->chunks[chunk].shared;
    if (i == STM_NONE)
        return STM_OK;
    const stm_shared_chunk *shared = shared_of(e, i);
    stm_pass *pass = e->pass;
    const stm_model *model = pass->model;
    if (shared->n_members == 1 || shared->n_rows == 0)
        return STM_OK;
    stm_route route = {.kind = STM_RELAY_SPREAD,
                       .members = e->schedule->leaders + shared->first_leader,
                       .n_members = shared->n_leaders,
                       .local = e->schedule->local + shared->first_local,
                       .n_local = shared->n_local,
                       .window = shared->n_local > 0 ? pass->window : NULL,
                       .id = 2 * i,
                       .n_steps = model->end_layer - model->first_layer,
                       .n = stm_chunk_kv_n(pass, e->chunks[chunk]),
                       .number_bytes = model->backend->activation_bytes,
                       .numbers = stm_chunk_kv(pass, e->chunks[chunk], model->first_layer)};
    const size_t kv = stm_relay_open(e->relay, &route);
    e->routes[i] = (route_pair){.kv = kv, .dkv = STM_NONE, .read = STM_NONE, .open = true};
    if (shared->n_local > 0 && pass->kind != STM_PASS_PREFILL)
        e->routes[i].read = open_read(e, i);
    if (pass->kind != STM_PASS_GRADIENT)
        return STM_OK;
    route.kind = STM_RELAY_SUM;
    route.members = e->schedule->members + shared->first_member;
    route.n_members = shared->n_members;
    route.n_local = 0;
    route.window = NULL;
    route.number_bytes = model->backend->real_bytes;
    route.numbers = stm_chunk_dkv(pass, e->chunks[chunk], model->first_layer);
    if (stm_relay_n_children(route.members, route.n_members, e->team_rank) > 0)
        STM_TRY(stm_chunk_take(e->chunks[chunk], route.n * route.number_bytes, &route.room));
    e->routes[i].dkv = stm_relay_open(e->relay, &route);
    return STM_OK;
}

void stm_exchange_forward(stm_exchange *e, size_t chunk)
{
    e->running = chunk;
    e->backward = false;
}

void stm_exchange_backward(stm_exchange *e, size_t chunk)
{
    const stm_planned_chunk *c = &e->schedule->chunks[chunk];
    e->running = chunk;
    e->backward = true;
    if (c->keeps || c->shared == STM_NONE || !e->routes[c->shared].open || shared_of(e, c->shared)->n_local > 0)
        return; /* what lies in a window is not formed again */
    stm_profile_start(e->pass);
    const double begin_s = begin_wait(e, STM_PHASE_KV);
    while (!stm_relay_is_settled(e->relay, e->routes[c->shared].kv))
        move(e);
    end_wait(e, STM_PHASE_KV, begin_s);
}

void stm_exchange_went_back(stm_exchange *e, size_t chunk)
{
    offer_sums(e, chunk, e->pass->model->first_layer);
}

static bool is_done(const stm_exchange *e, size_t route)
{
    return route == STM_NONE || stm_relay_is_done(e->relay, route);
}

void stm_exchange_close(stm_exchange *e, size_t chunk)
{
    const size_t i = e->schedule->chunks[chunk].shared;
    if (i == STM_NONE || !e->routes[i].open)
        return;
    const route_pair *routes = &e->routes[i];
    const bool gradient = e->pass->kind == STM_PASS_GRADIENT;
    stm_profile_start(e->pass);
    const stm_phase phase = gradient ? STM_PHASE_DKV : STM_PHASE_KV;
    const double begin_s = begin_wait(e, phase);
    if (routes->read != STM_NONE)
        stm_relay_offer(e->relay, routes->read, 0);
    while (!is_done(e, routes->kv) || !is_done(e, routes->dkv) || !is_done(e, routes->read))
        move(e);
    end_wait(e, phase, begin_s);
    e->routes[i].open = false;
}
