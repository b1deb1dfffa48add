#include "mpi/relay.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>

#include "mpi/collectives.h"

enum { NOBODY = -1, TAGS = 16384 };
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

/* Whose a request is. */
typedef struct {
    size_t route;
    bool receives;
} claim;

struct stm_relay {
    MPI_Comm comm;
    int rank;
    size_t n_routes, route_capacity;
    under_way *routes;
    int n; /* requests under way */
    size_t request_capacity, claim_capacity, done_capacity;
    MPI_Request *requests;
    claim *claims;
    int *done;
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

stm_relay *stm_relay_create(MPI_Comm comm)
{
    stm_relay *relay = stm_scratch(sizeof *relay);
    *relay = (stm_relay){.comm = comm};
    STM_MPI(MPI_Comm_rank(comm, &relay->rank));
    return relay;
}

void stm_relay_destroy(stm_relay *relay)
{
    if (!relay)
        return;
    assert(relay->n == 0);
    free(relay->routes);
    free(relay->requests);
    free(relay->claims);
    free(relay->done);
    stm_scratch_free(relay);
}

/* Requests */

static MPI_Request *new_request(stm_relay *relay, size_t route, bool receives)
{
    const size_t n = (size_t)relay->n + 1;
    demand(stm_reserve(&relay->requests, &relay->request_capacity, n, sizeof *relay->requests));
    demand(stm_reserve(&relay->claims, &relay->claim_capacity, n, sizeof *relay->claims));
    demand(stm_reserve(&relay->done, &relay->done_capacity, n, sizeof *relay->done));
    relay->routes[route].n_requests++;
    relay->claims[relay->n] = (claim){route, receives};
    return &relay->requests[relay->n++];
}

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

/* Numbers of half the size are moved alone, never added. */
static MPI_Datatype type_of(const stm_route *route)
{
    return route->number_bytes == sizeof(uint16_t) ? MPI_UINT16_T : stm_mpi_real(route->number_bytes);
}

static void send(stm_relay *relay, size_t i, size_t place, int to, bool told)
{
    const stm_route *route = &relay->routes[i].route;
    STM_MPI(MPI_Isend(step_at(route, place), told ? 0 : (int)route->n, type_of(route), to, tag_of(route), relay->comm,
                      new_request(relay, i, false)));
}

static void receive(stm_relay *relay, size_t i, void *numbers, int from)
{
    const stm_route *route = &relay->routes[i].route;
    relay->routes[i].n_posted++;
    STM_MPI(MPI_Irecv(numbers, relay->routes[i].from_window ? 0 : (int)route->n, type_of(route), from, tag_of(route),
                      relay->comm, new_request(relay, i, true)));
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

static void add(size_t n, size_t real_bytes, const void *x, void *y)
{
    if (real_bytes == sizeof(float))
        for (size_t i = 0; i < n; i++)
            ((float *)y)[i] += ((const float *)x)[i];
    else
        for (size_t i = 0; i < n; i++)
            ((double *)y)[i] += ((const double *)x)[i];
}

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
            add(r->route.n, r->route.number_bytes, r->route.room, step_at(&r->route, r->n_complete));
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

/* Drops the requests that are done, in order. */
static void compact(stm_relay *relay)
{
    int n = 0;
    for (int k = 0; k < relay->n; k++) {
        if (relay->requests[k] == MPI_REQUEST_NULL)
            continue;
        relay->requests[n] = relay->requests[k];
        relay->claims[n++] = relay->claims[k];
    }
    relay->n = n;
}

bool stm_relay_poll(stm_relay *relay, bool blocks)
{
    int n_done = 0;
    if (relay->n == 0)
        return false;
    if (blocks)
        STM_MPI(MPI_Waitsome(relay->n, relay->requests, &n_done, relay->done, MPI_STATUSES_IGNORE));
    else
        STM_MPI(MPI_Testsome(relay->n, relay->requests, &n_done, relay->done, MPI_STATUSES_IGNORE));
    for (int k = 0; k < n_done; k++) {
        const claim of = relay->claims[relay->done[k]];
        relay->routes[of.route].n_requests--;
        if (of.receives)
            receive_done(relay, of.route);
    }
    if (n_done > 0)
        compact(relay);
    return n_done > 0;
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
    r->n_offered = STM_MAX(r->n_offered, order_of(&r->route, step) + 1);
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
        assert(relay->n > 0);
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
    if (relay->n == 0)
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
            assert(relay->n > 0);
            stm_relay_poll(relay, true);
        }
    }
    relay->n_routes = 0;
}
