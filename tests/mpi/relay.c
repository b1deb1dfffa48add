/* Buffers that travel between ranks: every member gets the owner's, sums are in one order to the bit whoever is late,
 * and routes of several owners do not mix; wherever the buffers are (support/far.h). */
#include "mpi/relay.h"

#include <unistd.h>

#include "base/random.h"
#include "support/far.h"
#include "support/mpi.h"

enum { N_STEPS = 5, MOST_RANKS = 8 };

static int rank, n_ranks;
static const stm_reach *reach; /* of the buffers */

static void find_ranks(void)
{
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    assert_true(n_ranks <= MOST_RANKS);
}

static double draw(uint64_t seed, size_t which, size_t i)
{
    const stm_random_key key = {.seed = seed, .use = STM_RANDOM_SHUFFLE, .slot = (uint32_t)which, .token = (uint32_t)i};
    return stm_random_uniform(&key) - 0.5;
}

/* Every rank is late now and then, each at its own times. */
static void dawdle(uint64_t seed, size_t i)
{
    const double x = draw(seed + 1000, (size_t)rank, i);
    if (x > 0)
        usleep((useconds_t)(x * 1200));
}

/* Members of route k: its owner, then the others but now and then one. */
static int list_members(uint64_t seed, int k, int *members)
{
    int n = 0;
    for (int i = 0; i < n_ranks; i++) {
        const int r = (k + i) % n_ranks;
        if (i == 0 || draw(seed, (size_t)k + 50, (size_t)r) < 0.3)
            members[n++] = r;
    }
    return n;
}

static bool is_member(const int *members, int n)
{
    for (int i = 0; i < n; i++)
        if (members[i] == rank)
            return true;
    return false;
}

/* Element i of what `from` puts into route k. */
static double content(uint64_t seed, int k, int from, size_t i)
{
    return draw(seed, (size_t)(k * MOST_RANKS + from), i);
}

typedef struct {
    int members[MOST_RANKS], n_members;
    bool member;
    size_t n, number;
    float *reals, *room;
} test_route;

static void open_route(stm_relay *relay, stm_relay_kind kind, uint64_t seed, int k, size_t n, test_route *t)
{
    *t = (test_route){.n = n};
    t->n_members = list_members(seed, k, t->members);
    t->member = is_member(t->members, t->n_members);
    if (!t->member)
        return;
    float *own;
    assert_ok(stm_alloc(N_STEPS * n, sizeof *own, &own));
    assert_ok(stm_reach_alloc(reach, N_STEPS * n * sizeof *own, &t->reals));
    assert_ok(stm_reach_alloc(reach, n * sizeof *own, &t->room));
    for (size_t i = 0; i < N_STEPS * n && (kind == STM_RELAY_SUM || t->members[0] == rank); i++)
        own[i] = (float)content(seed, k, rank, i);
    far_write(reach, t->reals, own, N_STEPS * n * sizeof *own);
    free(own);
    /* Half of the time the same bytes, as twice as many numbers. */
    const size_t halves = kind == STM_RELAY_SPREAD && seed % 2 ? 2 : 1;
    const stm_route route = {.kind = kind,
                             .members = t->members,
                             .n_members = t->n_members,
                             .id = (size_t)k,
                             .n_steps = N_STEPS,
                             .n = halves * n,
                             .number_bytes = sizeof(float) / halves,
                             .numbers = t->reals,
                             .room = stm_relay_n_children(t->members, t->n_members, rank) > 0 ? t->room : NULL};
    t->number = stm_relay_open(relay, &route);
}

/* What is in the buffer; the caller frees. */
static float *read_route(const test_route *t)
{
    float *reals;
    assert_ok(stm_alloc(N_STEPS * t->n, sizeof *reals, &reals));
    far_read(reach, reals, t->reals, N_STEPS * t->n * sizeof *reals);
    return reals;
}

static void close_route(test_route *t)
{
    stm_reach_free(reach, t->reals);
    stm_reach_free(reach, t->room);
}

static stm_relay *open_relay(stm_courier **courier)
{
    assert_ok(stm_courier_create(reach, 1, courier));
    return stm_relay_create(MPI_COMM_WORLD, *courier);
}

static void close_relay(stm_relay *relay, stm_courier *courier)
{
    stm_relay_destroy(relay);
    stm_courier_destroy(courier);
}

/* The body for buffers of every kind. */
static void for_every_reach(void (*body)(void))
{
    find_ranks();
    for (int kind = 0; kind < FAR_KINDS; kind++) {
        reach = far_reach(kind);
        body();
    }
}

/* Sizes from a few bytes to what goes in many fragments. */
static size_t size_of(uint64_t seed)
{
    static const size_t sizes[] = {1, 900, 7000, 50000};
    return sizes[seed % 4];
}

static void spread_all(void)
{
    stm_courier *courier;
    stm_relay *relay = open_relay(&courier);
    for (uint64_t seed = 0; seed < (reach ? 4 : 12); seed++) {
        test_route routes[MOST_RANKS];
        for (int k = 0; k < n_ranks; k++)
            open_route(relay, STM_RELAY_SPREAD, seed, k, size_of(seed), &routes[k]);
        for (size_t step = 0; step < N_STEPS; step++) {
            dawdle(seed, step);
            stm_relay_drive(relay);
            if (routes[rank].members[0] == rank)
                stm_relay_offer(relay, routes[rank].number, step);
        }
        for (int k = 0; k < n_ranks; k++)
            if (routes[k].member && k % 2 == 0) /* the others' steps are waited for by finish alone */
                stm_relay_wait(relay, routes[k].number, N_STEPS - 1);
        stm_relay_finish(relay);
        for (int k = 0; k < n_ranks; k++) {
            if (!routes[k].member)
                continue;
            float *reals = read_route(&routes[k]);
            for (size_t i = 0; i < N_STEPS * routes[k].n; i++)
                assert_true(reals[i] == (float)content(seed, k, k, i));
            free(reals);
            close_route(&routes[k]);
        }
    }
    close_relay(relay, courier);
}

static void every_member_gets_what_the_owner_offers(void **state)
{
    (void)state;
    for_every_reach(spread_all);
}

/* The sum over member i and all that hang on it, added in the order that relay.h promises. */
static float sum_below(const test_route *t, uint64_t seed, int k, int i, size_t element)
{
    if (i >= t->n_members)
        return 0;
    float sum = (float)content(seed, k, t->members[i], element);
    if (2 * i + 1 < t->n_members)
        sum += sum_below(t, seed, k, 2 * i + 1, element);
    if (2 * i + 2 < t->n_members)
        sum += sum_below(t, seed, k, 2 * i + 2, element);
    return sum;
}

static void sum_all(void)
{
    stm_courier *courier;
    stm_relay *relay = open_relay(&courier);
    for (uint64_t seed = 0; seed < (reach ? 4 : 12); seed++) {
        test_route routes[MOST_RANKS];
        for (int k = 0; k < n_ranks; k++)
            open_route(relay, STM_RELAY_SUM, seed, k, size_of(seed), &routes[k]);
        for (size_t step = N_STEPS; step-- > 0;) {
            dawdle(seed, step);
            for (int k = 0; k < n_ranks; k++)
                if (routes[k].member && (k + (int)seed) % 3 > 0) /* the rest is offered at once, below */
                    stm_relay_offer(relay, routes[k].number, step);
            stm_relay_drive(relay);
        }
        for (int k = 0; k < n_ranks; k++)
            if (routes[k].member)
                stm_relay_offer(relay, routes[k].number, 0);
        if (seed % 2 == 0)
            stm_relay_wait(relay, routes[rank].number, 0);
        stm_relay_finish(relay);
        const test_route *mine = &routes[rank];
        float *reals = read_route(mine);
        for (size_t i = 0; i < N_STEPS * mine->n; i++)
            assert_true(reals[i] == sum_below(mine, seed, rank, 0, i));
        free(reals);
        for (int k = 0; k < n_ranks; k++)
            if (routes[k].member)
                close_route(&routes[k]);
    }
    close_relay(relay, courier);
}

static void sums_are_in_one_order_whoever_is_late(void **state)
{
    (void)state;
    for_every_reach(sum_all);
}

/* What has left its buffer may be overwritten. */
static void settle_all(void)
{
    stm_courier *courier;
    stm_relay *relay = open_relay(&courier);
    for (uint64_t seed = 0; seed < (reach ? 4 : 8); seed++) {
        test_route t;
        open_route(relay, STM_RELAY_SPREAD, seed, 0, size_of(seed), &t);
        if (rank == 0) {
            stm_relay_offer(relay, t.number, N_STEPS - 1);
            while (!stm_relay_is_settled(relay, t.number))
                stm_relay_poll(relay, true);
            float *zeros;
            assert_ok(stm_alloc(N_STEPS * t.n, sizeof *zeros, &zeros));
            far_write(reach, t.reals, zeros, N_STEPS * t.n * sizeof *zeros);
            free(zeros);
        }
        dawdle(seed, 0);
        stm_relay_finish(relay);
        if (!t.member)
            continue;
        float *reals = read_route(&t);
        for (size_t i = 0; rank != 0 && i < N_STEPS * t.n; i++)
            assert_true(reals[i] == (float)content(seed, 0, 0, i));
        free(reals);
        close_route(&t);
    }
    close_relay(relay, courier);
}

static void settled_buffers_are_free(void **state)
{
    (void)state;
    for_every_reach(settle_all);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_member_gets_what_the_owner_offers),
        cmocka_unit_test(sums_are_in_one_order_whoever_is_late),
        cmocka_unit_test(settled_buffers_are_free),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
