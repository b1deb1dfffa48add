/* Messages between neighbours of a chain: all arrive, whole and in order, in both directions at once, whoever is late
 * and whatever MPI buffers, by links that share a courier, too, and from memory that is not the host's; a sender runs
 * ahead as far as there are slots, and no further. */
#include "mpi/link.h"

#include <unistd.h>

#include "base/random.h"
#include "support/far.h"
#include "support/mpi.h"

enum { TAG_UP = 11, TAG_DOWN = 12, TAG_NOTE = 13, MOST_REALS = 40000, N_MESSAGES = 60 };

/* MPI's profiling interface: with `strict`, a send is through only when its receive has begun: MPI buffers nothing. */
static bool strict;

int MPI_Isend(const void *buffer, int n, MPI_Datatype type, int to, int tag, MPI_Comm comm, MPI_Request *request)
{
    return strict ? PMPI_Issend(buffer, n, type, to, tag, comm, request)
                  : PMPI_Isend(buffer, n, type, to, tag, comm, request);
}

static int rank, n_ranks;

static void find_ranks(void)
{
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
}

static double draw(uint64_t seed, size_t which, size_t i)
{
    const stm_random_key key = {.seed = seed, .use = STM_RANDOM_SHUFFLE, .slot = (uint32_t)which, .token = (uint32_t)i};
    return stm_random_uniform(&key);
}

/* Every rank is late now and then, each at its own times; some ranks are much slower than others. */
static void dawdle(uint64_t seed, size_t i)
{
    if (draw(seed + 1000, (size_t)rank, i) < 0.3)
        usleep((useconds_t)(draw(seed + 2000, (size_t)rank, 0) * 1500));
}

/* From nothing to what goes in many fragments, mostly small. */
static size_t size_of(uint64_t seed, int tag, size_t i)
{
    static const size_t sizes[] = {0, 1, 7, 300, 1000, 5000, MOST_REALS, 1};
    return sizes[(size_t)(draw(seed, (size_t)tag, i) * 8)];
}

static double content(uint64_t seed, int tag, int from, size_t message, size_t i)
{
    return (double)(seed * 1000) + tag * 100 + from * 10 + (double)message + (double)i / (1 << 20);
}

/* A rank's links along the chain: up to higher ranks, and down. NULL at its ends. */
enum { FROM_BELOW, TO_ABOVE, FROM_ABOVE, TO_BELOW, N_LINKS };

typedef struct {
    uint64_t seed;
    bool announced; /* receivers learn of sizes message by message */
    const stm_reach *reach;
    stm_courier *courier; /* NULL: each link has its own */
    double *host;         /* [MOST_REALS]: a message's content */
    stm_link *links[N_LINKS];
    double *slots[N_LINKS];
    size_t sizes[N_LINKS][N_MESSAGES];
    size_t n_expected[N_LINKS], n_slots[N_LINKS];
} chain;

static void drive_all(void *context)
{
    chain *c = context;
    for (int i = 0; i < N_LINKS; i++)
        stm_link_drive(c->links[i]);
}

static int tag_of(int which)
{
    return which == FROM_BELOW || which == TO_ABOVE ? TAG_UP : TAG_DOWN;
}

static int peer_of(int which)
{
    return which == FROM_BELOW || which == TO_BELOW ? rank - 1 : rank + 1;
}

static void open_link(chain *c, int which, size_t n_slots)
{
    const bool sends = which == TO_ABOVE || which == TO_BELOW;
    if (peer_of(which) < 0 || peer_of(which) >= n_ranks)
        return;
    for (size_t i = 0; i < N_MESSAGES; i++)
        c->sizes[which][i] = STM_MAX(size_of(c->seed, tag_of(which), i), (size_t)(c->reach != NULL));
    c->n_slots[which] = n_slots;
    assert_ok(stm_reach_alloc(c->reach, n_slots * MOST_REALS * sizeof(double), &c->slots[which]));
    const stm_link_options options = {.courier = c->courier,
                                      .comm = MPI_COMM_WORLD,
                                      .peer = peer_of(which),
                                      .tag = tag_of(which),
                                      .sends = sends,
                                      .n_slots = n_slots,
                                      .slot_reals = MOST_REALS,
                                      .real_bytes = sizeof(double),
                                      .slots = c->slots[which],
                                      .sizes = sends || c->announced ? NULL : c->sizes[which],
                                      .n = N_MESSAGES,
                                      .progress = {drive_all, c}};
    c->links[which] = stm_link_create(&options);
}

static void open_chain(chain *c, uint64_t seed, int kind)
{
    *c = (chain){.seed = seed, .announced = seed % 3 == 0, .reach = far_reach(kind)};
    if (c->reach || seed % 2 == 0)
        assert_ok(stm_courier_create(c->reach, 0, &c->courier));
    assert_ok(stm_alloc(MOST_REALS, sizeof *c->host, &c->host));
    for (int i = 0; i < N_LINKS; i++)
        open_link(c, i, 1 + (seed + (uint64_t)(i * rank)) % 3); /* both sides may differ */
}

static void close_chain(chain *c)
{
    for (int i = 0; i < N_LINKS; i++) {
        stm_link_destroy(c->links[i]); /* it may wait, and drive the others */
        c->links[i] = NULL;
    }
    for (int i = 0; i < N_LINKS; i++)
        stm_reach_free(c->reach, c->slots[i]);
    stm_courier_destroy(c->courier);
    free(c->host);
}

static void receive(chain *c, int which, size_t message)
{
    stm_link *link = c->links[which];
    if (!link)
        return;
    for (; c->announced && c->n_expected[which] < STM_MIN(message + c->n_slots[which], N_MESSAGES);
         c->n_expected[which]++)
        stm_link_expect(link, c->sizes[which][c->n_expected[which]]);
    far_read(c->reach, c->host, stm_link_wait(link), c->sizes[which][message] * sizeof *c->host);
    for (size_t i = 0; i < c->sizes[which][message]; i++)
        if (c->host[i] != content(c->seed, tag_of(which), peer_of(which), message, i))
            fail_msg("link %d, message %zu, element %zu: found %.9g", which, message, i, c->host[i]);
    dawdle(c->seed, message);
    stm_link_release(link);
}

static void send(chain *c, int which, size_t message)
{
    if (!c->links[which])
        return;
    void *slot = stm_link_take(c->links[which]);
    for (size_t i = 0; i < c->sizes[which][message]; i++)
        c->host[i] = content(c->seed, tag_of(which), rank, message, i);
    far_write(c->reach, slot, c->host, c->sizes[which][message] * sizeof *c->host);
    stm_link_send(c->links[which], c->sizes[which][message]);
    dawdle(c->seed + 1, message);
    drive_all(c);
}

/* As in a pipeline: a lower rank is further ahead on the way up, and then takes turns. */
static void run_chain(uint64_t seed, int kind)
{
    chain c;
    open_chain(&c, seed, kind);
    const size_t ahead = (size_t)(n_ranks - 1 - rank);
    for (size_t i = 0; i < N_MESSAGES + ahead; i++) {
        if (i < N_MESSAGES) {
            receive(&c, FROM_BELOW, i);
            send(&c, TO_ABOVE, i);
        }
        if (i >= ahead) {
            receive(&c, FROM_ABOVE, i - ahead);
            send(&c, TO_BELOW, i - ahead);
        }
    }
    close_chain(&c);
}

static void messages_go_both_ways_in_order(void **state)
{
    (void)state;
    find_ranks();
    for (uint64_t seed = 0; seed < 9; seed++)
        run_chain(seed, 0);
    for (uint64_t seed = 0; seed < 4; seed++)
        run_chain(seed, 1 + (int)(seed % 2));
}

static void nothing_relies_on_hidden_buffers(void **state)
{
    (void)state;
    find_ranks();
    strict = true;
    for (uint64_t seed = 0; seed < 9; seed++)
        run_chain(seed, 0);
    for (uint64_t seed = 0; seed < 2; seed++)
        run_chain(seed, 1 + (int)seed);
    strict = false;
}

/* Two ranks, of which the receiver does nothing until the sender has had to wait for a while. */

enum { N_SLOTS = 3, AHEAD = 2 * N_SLOTS, PATIENCE = 2000 };

typedef struct {
    bool runs_out;
    size_t n_calls;
    bool noted;
} patience;

static void note(void *context)
{
    patience *p = context;
    if (p->runs_out && ++p->n_calls == PATIENCE) { /* so it keeps calling */
        MPI_Send(NULL, 0, MPI_INT, 1, TAG_NOTE, MPI_COMM_WORLD);
        p->noted = true;
    }
}

static void run_ahead(size_t n)
{
    double slots[N_SLOTS];
    patience p = {0};
    stm_link *link = stm_link_create(&(stm_link_options){.comm = MPI_COMM_WORLD,
                                                         .peer = 1,
                                                         .tag = TAG_UP,
                                                         .sends = true,
                                                         .n_slots = N_SLOTS,
                                                         .slot_reals = 1,
                                                         .real_bytes = sizeof(double),
                                                         .slots = slots,
                                                         .progress = {note, &p}});
    for (size_t i = 0; i < n; i++) {
        p.runs_out = i == AHEAD;
        double *x = stm_link_take(link);
        assert_int_equal(p.noted, i >= AHEAD); /* the first that waits until the receiver moves */
        *x = (double)i;
        stm_link_send(link, 1);
    }
    stm_link_destroy(link);
}

static void follow_when_told(size_t n)
{
    double slots[N_SLOTS];
    size_t sizes[4 * N_SLOTS];
    for (size_t i = 0; i < n; i++)
        sizes[i] = 1;
    stm_link *link = stm_link_create(&(stm_link_options){.comm = MPI_COMM_WORLD,
                                                         .tag = TAG_UP,
                                                         .n_slots = N_SLOTS,
                                                         .slot_reals = 1,
                                                         .real_bytes = sizeof(double),
                                                         .slots = slots,
                                                         .sizes = sizes,
                                                         .n = n});
    MPI_Recv(NULL, 0, MPI_INT, 0, TAG_NOTE, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    for (size_t i = 0; i < n; i++) {
        assert_true(*(const double *)stm_link_wait(link) == (double)i);
        stm_link_release(link);
    }
    stm_link_destroy(link);
}

static void a_sender_runs_ahead_as_far_as_there_are_slots(void **state)
{
    (void)state;
    find_ranks();
    strict = true;
    if (n_ranks > 1 && rank == 0)
        run_ahead(4 * N_SLOTS);
    if (rank == 1)
        follow_when_told(4 * N_SLOTS);
    strict = false;
}

/* What rank 0 waits for is sent only when its wait has called `note` often enough. */
static void waiting_drives_the_rest(void **state)
{
    (void)state;
    find_ranks();
    double slot;
    const size_t size = 1;
    patience p = {.runs_out = true};
    if (rank > 1 || n_ranks == 1)
        return;
    const stm_link_options options = {.comm = MPI_COMM_WORLD,
                                      .peer = 1 - rank,
                                      .tag = TAG_DOWN,
                                      .sends = rank == 1,
                                      .n_slots = 1,
                                      .slot_reals = 1,
                                      .real_bytes = sizeof slot,
                                      .slots = &slot,
                                      .sizes = rank == 1 ? NULL : &size,
                                      .n = 1,
                                      .progress = {note, &p}};
    stm_link *link = stm_link_create(&options);
    if (rank == 1) {
        MPI_Recv(NULL, 0, MPI_INT, 0, TAG_NOTE, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        *(double *)stm_link_take(link) = 4;
        stm_link_send(link, 1);
    } else {
        assert_false(stm_link_has(link));
        assert_true(*(const double *)stm_link_wait(link) == 4);
        stm_link_release(link);
        assert_true(p.noted);
    }
    stm_link_destroy(link);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_go_both_ways_in_order),
        cmocka_unit_test(nothing_relies_on_hidden_buffers),
        cmocka_unit_test(a_sender_runs_ahead_as_far_as_there_are_slots),
        cmocka_unit_test(waiting_drives_the_rest),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
