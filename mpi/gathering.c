#include "mpi/gathering.h"

#include <stdlib.h>

#include "mpi/pairwise.h"

enum { SLOTS = 4 }; /* buckets under way at a time */

struct stm_gathering {
    stm_shards shards;
    size_t real_bytes;
    int rank;
    stm_pairwise *pairwise; /* its places are the buckets */
    char *reals;            /* the whole vector's address */
};

static void *find(const void *owner, size_t place, int peer, bool sends, size_t *n)
{
    const stm_gathering *g = owner;
    size_t first;
    stm_shards_range(&g->shards, sends ? g->rank : peer, place, &first, n);
    return g->reals + first * g->real_bytes;
}

stm_status stm_gathering_create(MPI_Comm comm, const stm_shards *shards, size_t real_bytes, const stm_reach *reach,
                                stm_gathering **out)
{
    stm_gathering *g;
    STM_TRY(stm_alloc(1, sizeof *g, &g));
    *out = g;
    *g = (stm_gathering){.shards = *shards, .real_bytes = real_bytes};
    STM_MPI(MPI_Comm_rank(comm, &g->rank));
    const stm_pairwise_options options = {.comm = comm,
                                          .tag = STM_TAG_GATHERING,
                                          .n_places = stm_shards_n_ranges(shards),
                                          .n_slots = SLOTS,
                                          .real_bytes = real_bytes,
                                          .reach = reach,
                                          .find = find,
                                          .owner = g};
    return shards->n_ranks > 1 ? stm_pairwise_create(&options, &g->pairwise) : STM_OK;
}

void stm_gathering_destroy(stm_gathering *gathering)
{
    if (!gathering)
        return;
    stm_pairwise_destroy(gathering->pairwise);
    free(gathering);
}

void stm_gathering_begin(stm_gathering *g, void *reals)
{
    g->reals = reals;
    if (g->pairwise)
        stm_pairwise_begin(g->pairwise);
}

void stm_gathering_offer(stm_gathering *gathering, size_t n)
{
    if (gathering->pairwise)
        stm_pairwise_offer(gathering->pairwise, n);
}

void stm_gathering_drive(stm_gathering *gathering)
{
    if (gathering && gathering->pairwise)
        stm_pairwise_drive(gathering->pairwise);
}

void stm_gathering_wait(stm_gathering *g, size_t first, size_t n)
{
    const stm_shards *s = &g->shards;
    const size_t end = STM_MIN(first + n, s->first + s->n);
    if (g->pairwise && n > 0 && end > s->first)
        stm_pairwise_wait(g->pairwise, (end - s->first + s->bucket_n - 1) / s->bucket_n);
}

void stm_gathering_finish(stm_gathering *gathering)
{
    if (gathering->pairwise)
        stm_pairwise_finish(gathering->pairwise);
}
