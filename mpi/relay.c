#include "mpi/relay.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>

#include "mpi/collectives.h"

enum { NOBODY = -1, TAGS = STM_COURIER_TAGS / 2 };
static const double drive_s = 1e-4;

/* A route under way. Steps are counted in the order in which they travel. */
typedef struct {
    stm_route route;
    int parent, children[4], n_children;
    bool from_window, in_window[4]; /* the parent, the children find the content themselves */
    size_t n_offered;               /* steps whose own part is complete */
    size_t n_complete;              /* steps that have arrived, or are summed, and were sent on */
    int n_added;                    /* children whose part of the step after these is in the sum */
    size_t n_posted;                /* receives */
    bool arrived;                   /* SUM: `room` holds a part that is not added yet */
    size_t n_requests;              /* under way */
} under_way;

struct stm_relay {
    MPI_Comm comm;
    int rank;
    stm_courier *courier;
    size_t n_routes, route_capacity;
    under_way *routes;
    double driven_s; /* monotonic clock */
};

void stm_relay_prepare(void)
{
    (void)setenv("OMPI_MCA_pml_ob1_send_pipeline_depth", "256", 0); /* fragments of 32 KiB; without it, only slower */
}

static int position_of(const int *members, int n_members, int rank)
{
    int at = 0;
    while (at < n_members && members[at] != rank)
        at++;
    assert(at < n_members);
    return at;
}

static int count_children(int position, int n_members)
{
    return STM_MAX(0, STM_MIN(2, n_members - 2 * position - 1));
}

int stm_relay_n_children(const int *members, int n_members, int rank)
{
    return count_children(position_of(members, n_members, rank), n_members);
}

static void demand(stm_status status)
{
    if (status != STM_OK)
        stm_mpi_abort(MPI_ERR_NO_MEM, "memory for messages", __FILE__, __LINE__);
}

stm_relay *stm_relay_create(MPI_Comm comm, stm_courier *courier)
{
    stm_relay *relay = stm_scratch(sizeof *relay);
    *relay = (stm_relay){.comm = comm, .courier = courier};
    STM_MPI(MPI_Comm_rank(comm, &relay->rank));
    return relay;
}

void stm_relay_destroy(stm_relay *relay)
{
    if (!relay)
        return;
    assert(stm_courier_n(relay->courier) == 0);
    free(relay->routes);
    stm_scratch_free(relay);
}

/* Messages */

/* From a step to its place in the order in which steps travel, or back. */
static size_t order_of(const stm_route *route, size_t step)
{
    return route->kind == STM_RELAY_SPREAD ? step : route->n_steps - 1 - step;
}

/* Where a step, counted as it travels, lies. */
static void *step_at(const stm_route *route, size_t place)
{
    return (char *)route->numbers + order_of(route, place) * route->n * route->number_bytes;
}

/* The tags of a route may be those of a far later one, too: between two ranks equal tags keep their order. */
static int tag_of(const stm_route *route)
{
    return (int)(route->id % TAGS) * 2 + (route->kind == STM_RELAY_SUM);
}

/* told: without content. */
static stm_message message_of(const stm_relay *relay, size_t i, void *numbers, int peer, bool told)
{
    const stm_route *route = &relay->routes[i].route;
    return (stm_message){.comm = relay->comm,
                         .peer = peer,
                         .tag = tag_of(route),
                         .numbers = numbers,
                         .n = told ? 0 : route->n,
                         .number_bytes = route->number_bytes};
}

static void send(stm_relay *relay, size_t i, size_t place, int to, bool told)
{
    const stm_message message = message_of(relay, i, step_at(&relay->routes[i].route, place), to, told);
    relay->routes[i].n_requests++;
    stm_courier_send(relay->courier, &message, i);
}

static void receive(stm_relay *relay, size_t i, void *numbers, int from)
{
    const stm_message message = message_of(relay, i, numbers, from, relay->routes[i].from_window);
    relay->routes[i].n_posted++;
    relay->routes[i].n_requests++;
    stm_courier_receive(relay->courier, &message, i);
}

/* Spreading */

static void post_spread(stm_relay *relay, size_t i)
{
    const under_way *r = &relay->routes[i];
    if (r->parent != NOBODY && r->n_posted < r->route.n_steps)
        receive(relay, i, step_at(&r->route, r->n_posted), r->parent);
}

static void advance_spread(stm_relay *relay, size_t i)
{
    under_way *r = &relay->routes[i];
    for (; r->n_complete < r->n_offered; r->n_complete++)
        for (int c = 0; c < r->n_children; c++)
            send(relay, i, r->n_complete, r->children[c], r->in_window[c]);
}

/* Summing */

static void post_sum(stm_relay *relay, size_t i)
{
    const under_way *r = &relay->routes[i];
    if (r->n_children > 0 && r->n_posted < r->route.n_steps * (size_t)r->n_children)
        receive(relay, i, r->route.room, r->children[r->n_posted % (size_t)r->n_children]);
}

static void advance_sum(stm_relay *relay, size_t i)
{
    under_way *r = &relay->routes[i];
    while (r->n_complete < r->n_offered) {
        if (r->n_added < r->n_children) {
            if (!r->arrived)
                return;
            stm_reach_add(stm_courier_reach(relay->courier), r->route.n, r->route.number_bytes, r->route.room,
                          step_at(&r->route, r->n_complete));
            r->arrived = false;
            r->n_added++;
            post_sum(relay, i);
            continue;
        }
        if (r->parent != NOBODY)
            send(relay, i, r->n_complete, r->parent, false);
        r->n_complete++;
        r->n_added = 0;
    }
}

/* Both */

static void advance(stm_relay *relay, size_t i)
{
    if (relay->routes[i].route.kind == STM_RELAY_SPREAD)
        advance_spread(relay, i);
    else
        advance_sum(relay, i);
}

static void receive_done(stm_relay *relay, size_t i)
{
    under_way *r = &relay->routes[i];
    if (r->route.kind == STM_RELAY_SPREAD) {
        stm_window_synchronize(r->route.window);
        r->n_offered++;
        post_spread(relay, i);
    } else {
        r->arrived = true;
    }
    advance(relay, i);
}

bool stm_relay_poll(stm_relay *relay, bool blocks)
{
    const size_t n_through = stm_courier_poll(relay->courier, blocks);
    for (size_t k = 0; k < n_through; k++) {
        const stm_claim of = stm_courier_through(relay->courier, k);
        relay->routes[of.of].n_requests--;
        if (!of.sends)
            receive_done(relay, of.of);
    }
    return n_through > 0;
}

/* The parent and children that this rank has in the heap of `ranks`. */
static void hang(under_way *r, const int *ranks, int n, int rank, bool in_window)
{
    const int at = position_of(ranks, n, rank);
    if (at > 0) {
        r->parent = ranks[(at - 1) / 2];
        r->from_window = in_window;
    }
    for (int c = 0; c < count_children(at, n); c++) {
        r->in_window[r->n_children] = in_window;
        r->children[r->n_children++] = ranks[2 * at + 1 + c];
    }
}

size_t stm_relay_open(stm_relay *relay, const stm_route *route)
{
    if (route->n > INT_MAX)
        stm_mpi_abort(MPI_ERR_COUNT, "a step of a route", __FILE__, __LINE__);
    demand(stm_reserve(&relay->routes, &relay->route_capacity, relay->n_routes + 1, sizeof *relay->routes));
    const size_t i = relay->n_routes++;
    under_way *r = &relay->routes[i];
    *r = (under_way){.route = *route, .parent = NOBODY};
    if (route->n_local == 0 || route->local[0] == relay->rank)
        hang(r, route->members, route->n_members, relay->rank, false);
    if (route->n_local > 0)
        hang(r, route->local, route->n_local, relay->rank, true);
    stm_reach_follow(stm_courier_reach(relay->courier)); /* the buffers may have served for something else until now */
    if (route->kind == STM_RELAY_SPREAD)
        post_spread(relay, i);
    else
        post_sum(relay, i);
    return i;
}

void stm_relay_offer(stm_relay *relay, size_t route, size_t step)
{
    under_way *r = &relay->routes[route];
    stm_window_synchronize(r->route.window);
    if (r->n_offered > order_of(&r->route, step))
        return;
    stm_reach_follow(stm_courier_reach(relay->courier));
    r->n_offered = order_of(&r->route, step) + 1;
    advance(relay, route);
}

bool stm_relay_has(const stm_relay *relay, size_t route, size_t step)
{
    const under_way *r = &relay->routes[route];
    return r->n_complete > order_of(&r->route, step);
}

void stm_relay_wait(stm_relay *relay, size_t route, size_t step)
{
    while (!stm_relay_has(relay, route, step)) {
        assert(stm_courier_n(relay->courier) > 0);
        stm_relay_poll(relay, true);
    }
}

bool stm_relay_is_settled(const stm_relay *relay, size_t route)
{
    return relay->routes[route].n_requests == 0;
}

bool stm_relay_is_done(const stm_relay *relay, size_t route)
{
    const under_way *r = &relay->routes[route];
    return r->n_complete == r->route.n_steps && r->n_requests == 0;
}

void stm_relay_drive(stm_relay *relay)
{
    if (stm_courier_n(relay->courier) == 0)
        return;
    const double now_s = stm_now_s();
    if (now_s - relay->driven_s < drive_s)
        return;
    while (stm_relay_poll(relay, false))
        ;
    relay->driven_s = stm_now_s();
}

void stm_relay_finish(stm_relay *relay)
{
    for (size_t i = 0; i < relay->n_routes; i++) {
        while (!stm_relay_is_done(relay, i)) {
            assert(stm_courier_n(relay->courier) > 0);
            stm_relay_poll(relay, true);
        }
    }
    relay->n_routes = 0;
}
