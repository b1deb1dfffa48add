#include "mpi/pairwise.h"

#include <assert.h>
#include <sched.h>
#include <stdlib.h>

#include "mpi/collectives.h"
#include "mpi/courier.h"
#include "mpi/groups.h"

static const size_t MOST_REALS = (size_t)1 << 30; /* of a message */
static const double drive_s = 1e-4;

/* The next message of one way. */
typedef struct {
    size_t place;
    int round;
} cursor;

struct stm_pairwise {
    stm_pairwise_options options;
    int rank, n_ranks;
    cursor ways[2]; /* receives, sends */
    size_t n_offered, n_done;
    size_t n_under_way[2]; /* receives, sends */
    stm_courier *courier;  /* its messages are of places; NULL: */
    stm_groups *groups;    /* the device carries them */
    double driven_s;       /* monotonic clock */
    size_t n_coming[];     /* [n_slots]: posted and not arrived, of each place in the window */
};

stm_status stm_pairwise_create(const stm_pairwise_options *options, stm_pairwise **out)
{
    stm_pairwise *p = malloc(sizeof *p + options->n_slots * sizeof *p->n_coming);
    if (!p)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    *p = (stm_pairwise){.options = *options};
    const stm_status status = options->reach && options->reach->exchange
                                  ? stm_groups_create(&p->options, &p->groups)
                                  : stm_courier_create(options->reach, 2 * STM_PAIRWISE_MESSAGES, &p->courier);
    if (status != STM_OK) {
        free(p);
        return status;
    }
    for (size_t i = 0; i < options->n_slots; i++)
        p->n_coming[i] = 0;
    STM_MPI(MPI_Comm_rank(options->comm, &p->rank));
    STM_MPI(MPI_Comm_size(options->comm, &p->n_ranks));
    p->n_offered = p->n_done = options->n_places;
    *out = p;
    return STM_OK;
}

void stm_pairwise_destroy(stm_pairwise *pairwise)
{
    if (!pairwise)
        return;
    assert(pairwise->n_done == pairwise->options.n_places);
    stm_courier_destroy(pairwise->courier);
    stm_groups_destroy(pairwise->groups);
    free(pairwise);
}

static bool is_idle(const stm_pairwise *p)
{
    return p->groups ? p->n_done == p->n_offered : stm_courier_n(p->courier) == 0;
}

/* Starts the message that the cursor points at, if there is one. */
static void start(stm_pairwise *p, bool sends)
{
    const stm_pairwise_options *o = &p->options;
    const cursor *c = &p->ways[sends];
    const int peer = (p->rank + (sends ? c->round : p->n_ranks - c->round)) % p->n_ranks;
    size_t n;
    void *reals = o->find(o->owner, c->place, peer, sends, &n);
    if (n == 0)
        return;
    if (n > MOST_REALS)
        stm_mpi_abort(MPI_ERR_COUNT, "a share of a bucket", __FILE__, __LINE__);
    const stm_message message = {
        .comm = o->comm, .peer = peer, .tag = o->tag, .numbers = reals, .n = n, .number_bytes = o->real_bytes};
    p->n_under_way[sends]++;
    if (sends) {
        stm_courier_send(p->courier, &message, c->place);
    } else {
        p->n_coming[c->place % o->n_slots]++;
        stm_courier_receive(p->courier, &message, c->place);
    }
}

static void start_all(stm_pairwise *p, bool sends)
{
    cursor *c = &p->ways[sends];
    const size_t end = STM_MIN(p->n_done + p->options.n_slots, sends ? p->n_offered : p->options.n_places);
    while (c->place < end && p->n_under_way[sends] < STM_PAIRWISE_MESSAGES) {
        if (c->round < p->n_ranks)
            start(p, sends);
        c->round++;
        if (c->round >= p->n_ranks)
            *c = (cursor){c->place + 1, 1};
    }
}

/* Whether the first place of the window is done now. */
static bool complete_next(stm_pairwise *p)
{
    const size_t place = p->n_done;
    if (place >= p->n_offered || place >= p->ways[false].place || p->n_coming[place % p->options.n_slots] > 0)
        return false;
    if (p->options.complete)
        p->options.complete(p->options.owner, place);
    p->n_done++;
    return true;
}

static void advance(stm_pairwise *p)
{
    if (p->groups) {
        p->n_done = stm_groups_move(p->groups, p->n_offered);
        return;
    }
    do {
        start_all(p, false);
        start_all(p, true);
    } while (complete_next(p));
}

/* Whether a place is done that was not. */
static bool poll_groups(stm_pairwise *p, bool blocks)
{
    const size_t n_done = p->n_done;
    for (advance(p); blocks && p->n_done == n_done; advance(p))
        sched_yield();
    return p->n_done > n_done;
}

/* Acts on the messages that are through; blocks: waits for one. False: there was none. */
static bool poll(stm_pairwise *p, bool blocks)
{
    if (p->groups)
        return poll_groups(p, blocks);
    const size_t n_through = stm_courier_poll(p->courier, blocks);
    for (size_t k = 0; k < n_through; k++) {
        const stm_claim of = stm_courier_through(p->courier, k);
        p->n_under_way[of.sends]--;
        if (!of.sends)
            p->n_coming[of.of % p->options.n_slots]--;
    }
    if (n_through == 0)
        return false;
    advance(p);
    return true;
}

void stm_pairwise_begin(stm_pairwise *p)
{
    assert(is_idle(p) && p->n_done == p->options.n_places);
    if (p->groups)
        stm_groups_begin(p->groups);
    p->ways[false] = p->ways[true] = (cursor){0, 1};
    p->n_offered = p->n_done = 0;
    stm_reach_follow(p->options.reach); /* arrays may have served for something else until now */
    advance(p);
}

void stm_pairwise_begin_places(stm_pairwise *p, size_t n_places)
{
    assert(is_idle(p) && p->n_done == p->options.n_places);
    p->options.n_places = p->n_offered = p->n_done = n_places;
    stm_pairwise_begin(p);
}

void stm_pairwise_offer(stm_pairwise *p, size_t n)
{
    if (n <= p->n_offered)
        return;
    assert(n <= p->options.n_places);
    p->n_offered = n;
    stm_reach_follow(p->options.reach);
    advance(p);
}

void stm_pairwise_drive(stm_pairwise *p)
{
    if (is_idle(p))
        return;
    const double now_s = stm_now_s();
    if (now_s - p->driven_s < drive_s)
        return;
    while (poll(p, false))
        ;
    p->driven_s = stm_now_s();
}

size_t stm_pairwise_n_done(const stm_pairwise *p)
{
    return p->n_done;
}

size_t stm_pairwise_n_free(const stm_pairwise *p)
{
    if (p->groups)
        return p->n_done;
    size_t n = STM_MIN(p->n_done, p->ways[true].place);
    for (size_t k = 0; k < stm_courier_n(p->courier); k++)
        n = STM_MIN(n, stm_courier_claim(p->courier, k).of);
    return n;
}

void stm_pairwise_wait(stm_pairwise *p, size_t n)
{
    assert(n <= p->n_offered || n <= p->n_done);
    while (p->n_done < n)
        poll(p, true);
}

void stm_pairwise_finish(stm_pairwise *p)
{
    stm_pairwise_offer(p, p->options.n_places);
    stm_pairwise_wait(p, p->options.n_places);
    while (!is_idle(p))
        poll(p, true);
}
