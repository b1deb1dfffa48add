/* mpi/collectives.h: what collectives.c and shards.c share. Sums are taken here, in rank order, not by MPI's
 * reductions, whose order depends on its choice of algorithm: so equal layouts give equal bits under any MPI, and
 * float32 is summed in double. */
#ifndef STM_MPI_COLLECTIVES_H
#define STM_MPI_COLLECTIVES_H

#include "mpi/grid.h"

/* Memory for the duration of a collective; prints and aborts when there is none, for the others already wait. Local. */
void *stm_scratch(size_t bytes);
void stm_scratch_free(void *memory);

MPI_Datatype stm_mpi_real(size_t real_bytes); /* 4 or 8 */

/* sum[i] = parts[0][i] + parts[1][i] + .., in this order, float32 in double; parts: [n_parts, n]. Local. */
void stm_add_in_order(size_t n_parts, size_t n, size_t real_bytes, const void *parts, void *sum);

/* Where bucket i begins in the vector. Local. */
static inline size_t stm_shards_bucket(const stm_shards *shards, size_t i)
{
    return shards->first + i * shards->bucket_n;
}

/* counts, starts: [n_ranks], each rank's share of bucket i and where it starts in the bucket. Local. */
void stm_shards_cut(const stm_shards *shards, size_t i, int *counts, int *starts);

/* Scratch for sums over `comm` along a cut. create and destroy are local; bucket is collective over comm. */
typedef struct stm_summing stm_summing;
stm_summing *stm_summing_create(MPI_Comm comm, const stm_shards *shards, size_t real_bytes);
void stm_summing_destroy(stm_summing *summing);

/* Sums bucket i of `reals`; this rank's share of the sum goes to `share`, which may be its place in `reals`. */
void stm_summing_bucket(stm_summing *summing, size_t i, const void *reals, void *share);

#endif
