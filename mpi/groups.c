#include "mpi/groups.h"

#include <assert.h>
#include <stdlib.h>

enum { WINDOW = 16 }; /* places that are asked for and not done */

struct stm_groups {
    const stm_pairwise_options *options;
    int rank, n_ranks;
    size_t n_asked, n_begun, n_done;
    MPI_Request asked[WINDOW];    /* the barriers of places n_begun .. n_asked - 1 */
    uint64_t marks[WINDOW];       /* after the groups of places n_done .. n_begun - 1 */
    stm_group_message messages[]; /* [2 * (n_ranks - 1)] */
};

stm_status stm_groups_create(const stm_pairwise_options *options, stm_groups **out)
{
    int rank, n_ranks;
    STM_MPI(MPI_Comm_rank(options->reach->comm, &rank));
    STM_MPI(MPI_Comm_size(options->reach->comm, &n_ranks));
    stm_groups *g = malloc(sizeof *g + 2 * (size_t)n_ranks * sizeof *g->messages);
    if (!g)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    *g = (stm_groups){.options = options, .rank = rank, .n_ranks = n_ranks};
    *out = g;
    return STM_OK;
}

void stm_groups_destroy(stm_groups *groups)
{
    free(groups);
}

void stm_groups_begin(stm_groups *g)
{
    assert(g->n_done == g->n_asked);
    g->n_asked = g->n_begun = g->n_done = 0;
}

static size_t add_message(stm_groups *g, size_t place, int peer, bool sends, size_t at)
{
    const stm_pairwise_options *o = g->options;
    size_t n;
    void *reals = o->find(o->owner, place, peer, sends, &n);
    if (n == 0)
        return at;
    g->messages[at] = (stm_group_message){.peer = peer, .sends = sends, .bytes = reals, .n = n * o->real_bytes};
    return at + 1;
}

static void begin_group(stm_groups *g, size_t place)
{
    const stm_pairwise_options *o = g->options;
    size_t n = 0;
    for (int round = 1; round < g->n_ranks; round++) {
        n = add_message(g, place, (g->rank + round) % g->n_ranks, true, n);
        n = add_message(g, place, (g->rank + g->n_ranks - round) % g->n_ranks, false, n);
    }
    if (n > 0)
        o->reach->exchange(o->reach->device, g->messages, n);
    if (o->complete)
        o->complete(o->owner, place);
    g->marks[place % WINDOW] = o->reach->mark(o->reach->device);
}

static bool all_have_offered(stm_groups *g, size_t place)
{
    int all;
    STM_MPI(MPI_Test(&g->asked[place % WINDOW], &all, MPI_STATUS_IGNORE));
    return all != 0;
}

size_t stm_groups_move(stm_groups *g, size_t n_offered)
{
    const stm_reach *reach = g->options->reach;
    while (g->n_done < g->n_begun && reach->has_passed(reach->device, g->marks[g->n_done % WINDOW]))
        g->n_done++;
    for (; g->n_asked < STM_MIN(n_offered, g->n_done + WINDOW); g->n_asked++)
        STM_MPI(MPI_Ibarrier(reach->comm, &g->asked[g->n_asked % WINDOW]));
    for (; g->n_begun < g->n_asked && all_have_offered(g, g->n_begun); g->n_begun++)
        begin_group(g, g->n_begun);
    return g->n_done;
}
