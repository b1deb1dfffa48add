/* mpi/shards.c: who owns which elements of a long vector (ZeRO-1's cut), and the two collectives along that cut.
 *
 *   bucket 0                    bucket 1                    bucket 2 (shorter)
 *   [ rank 0 | rank 1 | rank 2 ][ rank 0 | rank 1 | rank 2 ][ 0 | 1 | 2 ]
 */
#include "mpi/collectives.h"

size_t stm_shards_n_ranges(const stm_shards *shards)
{
    return (shards->n + shards->bucket_n - 1) / shards->bucket_n;
}

void stm_shards_range(const stm_shards *shards, int rank, size_t i, size_t *first, size_t *n)
{
    const size_t start = i * shards->bucket_n, bucket = STM_MIN(shards->bucket_n, shards->n - start);
    const size_t p = (size_t)shards->n_ranks, r = (size_t)rank;
    const size_t share = bucket / p, n_larger = bucket % p;
    *first = shards->first + start + r * share + STM_MIN(r, n_larger);
    *n = share + (r < n_larger);
}

size_t stm_shards_count(const stm_shards *shards, int rank)
{
    size_t count = 0;
    for (size_t i = 0; i < stm_shards_n_ranges(shards); i++) {
        size_t first, n;
        stm_shards_range(shards, rank, i, &first, &n);
        count += n;
    }
    return count;
}

void stm_shards_cut(const stm_shards *shards, size_t i, int *counts, int *starts)
{
    for (int r = 0; r < shards->n_ranks; r++) {
        size_t first, n;
        stm_shards_range(shards, r, i, &first, &n);
        counts[r] = (int)n;
        starts[r] = (int)(first - stm_shards_bucket(shards, i));
    }
}

void stm_reduce_scatter(MPI_Comm comm, const stm_shards *shards, void *reals, size_t real_bytes)
{
    int rank;
    STM_MPI(MPI_Comm_rank(comm, &rank));
    if (shards->n_ranks == 1)
        return;
    stm_summing *summing = stm_summing_create(comm, shards, real_bytes);
    for (size_t i = 0; i < stm_shards_n_ranges(shards); i++) {
        size_t first, n;
        stm_shards_range(shards, rank, i, &first, &n);
        stm_summing_bucket(summing, i, reals, (char *)reals + first * real_bytes);
    }
    stm_summing_destroy(summing);
}

void stm_all_gather_shards(MPI_Comm comm, const stm_shards *shards, void *reals, size_t real_bytes)
{
    if (shards->n_ranks == 1)
        return;
    const MPI_Datatype type = stm_mpi_real(real_bytes);
    int *counts = stm_scratch(2 * (size_t)shards->n_ranks * sizeof *counts), *starts = counts + shards->n_ranks;
    for (size_t i = 0; i < stm_shards_n_ranges(shards); i++) {
        stm_shards_cut(shards, i, counts, starts);
        char *bucket = (char *)reals + stm_shards_bucket(shards, i) * real_bytes;
        STM_MPI(MPI_Allgatherv(MPI_IN_PLACE, 0, type, bucket, counts, starts, type, comm));
    }
    stm_scratch_free(counts);
}
