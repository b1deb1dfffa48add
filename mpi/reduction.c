#include "mpi/reduction.h"

#include <assert.h>
#include <sched.h>
#include <stdlib.h>

#include "mpi/collectives.h"
#include "mpi/pairwise.h"

enum { SLOTS = 4 }; /* buckets under way at a time */

struct stm_reduction {
    MPI_Comm comm;
    stm_shards shards;
    size_t real_bytes;
    const stm_reach *reach;
    int rank;
    stm_pairwise *pairwise; /* its places are the buckets from the last to the first */
    char *reals;            /* the whole vector's address */
    size_t *n_missing;      /* [buckets]: elements that are not final */
    size_t n_ready;         /* places whose elements all are */
    size_t slot_bytes;
    char *parts; /* [slots, n_ranks, largest share]: what each rank has of this rank's share */
};

static size_t n_slots(const stm_shards *shards)
{
    return STM_MIN(stm_shards_n_ranges(shards), (size_t)SLOTS);
}

static size_t slot_bytes(const stm_shards *shards, size_t real_bytes)
{
    const size_t p = (size_t)shards->n_ranks;
    return p * ((STM_MIN(shards->bucket_n, shards->n) + p - 1) / p) * real_bytes;
}

size_t stm_reduction_bytes(const stm_shards *shards, size_t real_bytes)
{
    const size_t parts = shards->n_ranks > 1 ? n_slots(shards) * slot_bytes(shards, real_bytes) : 0;
    return parts + stm_shards_n_ranges(shards) * sizeof(size_t);
}

/* From a place to its bucket, or back. */
static size_t bucket_at(const stm_reduction *r, size_t place)
{
    return stm_shards_n_ranges(&r->shards) - 1 - place;
}

/* Where this rank keeps all ranks' parts, [n_ranks, its share], of the bucket at a place. */
static char *parts_at(const stm_reduction *r, size_t place)
{
    return r->parts + place % n_slots(&r->shards) * r->slot_bytes;
}

static void *find(const void *owner, size_t place, int peer, bool sends, size_t *n)
{
    const stm_reduction *r = owner;
    size_t first;
    stm_shards_range(&r->shards, sends ? peer : r->rank, bucket_at(r, place), &first, n);
    return sends ? r->reals + first * r->real_bytes : parts_at(r, place) + (size_t)peer * *n * r->real_bytes;
}

static void sum_parts(void *owner, size_t place)
{
    const stm_reduction *r = owner;
    size_t first, n;
    stm_shards_range(&r->shards, r->rank, bucket_at(r, place), &first, &n);
    char *share = r->reals + first * r->real_bytes, *parts = parts_at(r, place);
    if (n == 0)
        return;
    stm_reach_copy(r->reach, parts + (size_t)r->rank * n * r->real_bytes, share, n * r->real_bytes);
    stm_reach_add_in_order(r->reach, (size_t)r->shards.n_ranks, n, r->real_bytes, parts, share);
}

static stm_status set_up(stm_reduction *r, MPI_Comm comm)
{
    const size_t n_buckets = stm_shards_n_ranges(&r->shards);
    const stm_pairwise_options options = {.comm = comm,
                                          .tag = STM_TAG_REDUCTION,
                                          .n_places = n_buckets,
                                          .n_slots = n_slots(&r->shards),
                                          .real_bytes = r->real_bytes,
                                          .reach = r->reach,
                                          .find = find,
                                          .complete = sum_parts,
                                          .owner = r};
    STM_TRY(stm_alloc(n_buckets, sizeof *r->n_missing, &r->n_missing));
    STM_TRY(stm_reach_alloc(r->reach, n_slots(&r->shards) * r->slot_bytes, &r->parts));
    return stm_pairwise_create(&options, &r->pairwise);
}

stm_status stm_reduction_create(MPI_Comm comm, const stm_shards *shards, size_t real_bytes, const stm_reach *reach,
                                stm_reduction **out)
{
    stm_reduction *r;
    STM_TRY(stm_alloc(1, sizeof *r, &r));
    *out = r;
    *r = (stm_reduction){.comm = comm,
                         .shards = *shards,
                         .real_bytes = real_bytes,
                         .reach = reach,
                         .slot_bytes = slot_bytes(shards, real_bytes)};
    STM_MPI(MPI_Comm_rank(comm, &r->rank));
    return shards->n_ranks > 1 ? set_up(r, comm) : STM_OK;
}

void stm_reduction_destroy(stm_reduction *reduction)
{
    if (!reduction)
        return;
    stm_pairwise_destroy(reduction->pairwise);
    stm_reach_free(reduction->reach, reduction->parts);
    free(reduction->n_missing);
    free(reduction);
}

void stm_reduction_begin(stm_reduction *r, void *reals)
{
    if (!r->pairwise)
        return;
    const size_t n_buckets = stm_shards_n_ranges(&r->shards);
    r->reals = reals;
    r->n_ready = 0;
    for (size_t i = 0; i < n_buckets; i++)
        r->n_missing[i] = STM_MIN(r->shards.n - i * r->shards.bucket_n, r->shards.bucket_n);
    stm_pairwise_begin(r->pairwise);
}

void stm_reduction_ready(stm_reduction *r, size_t first, size_t n)
{
    if (!r->pairwise)
        return;
    const stm_shards *s = &r->shards;
    const size_t begin = STM_MAX(first, s->first), end = STM_MIN(first + n, s->first + s->n);
    for (size_t at = begin; at < end;) {
        const size_t bucket = (at - s->first) / s->bucket_n;
        const size_t next = STM_MIN(end, stm_shards_bucket(s, bucket + 1));
        assert(r->n_missing[bucket] >= next - at);
        r->n_missing[bucket] -= next - at;
        at = next;
    }
    while (r->n_ready < stm_shards_n_ranges(s) && r->n_missing[bucket_at(r, r->n_ready)] == 0)
        r->n_ready++;
    stm_pairwise_offer(r->pairwise, r->n_ready);
}

void stm_reduction_drive(stm_reduction *reduction)
{
    if (reduction && reduction->pairwise)
        stm_pairwise_drive(reduction->pairwise);
}

void stm_reduction_meet(stm_reduction *reduction)
{
    int all_are_here = 0;
    MPI_Request request;
    if (!reduction || !reduction->pairwise)
        return;
    STM_MPI(MPI_Ibarrier(reduction->comm, &request));
    while (!all_are_here) {
        stm_pairwise_drive(reduction->pairwise);
        sched_yield();
        STM_MPI(MPI_Test(&request, &all_are_here, MPI_STATUS_IGNORE));
    }
}

void stm_reduction_finish(stm_reduction *reduction)
{
    if (reduction->pairwise)
        stm_pairwise_finish(reduction->pairwise);
}

size_t stm_reduction_n_done(const stm_reduction *r)
{
    return r->pairwise ? stm_pairwise_n_done(r->pairwise) : stm_shards_n_ranges(&r->shards);
}
