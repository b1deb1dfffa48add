/* mpi/gathering.h: every rank's owned ranges of a vector to all, bucket after bucket, while the ranks still write them.
 *
 * The way back of mpi/reduction.h: as the optimizer has written a rank's share of a bucket, the share leaves for all
 * others, and theirs arrive in their places. Buckets go from the first to the last. */
#ifndef STM_MPI_GATHERING_H
#define STM_MPI_GATHERING_H

#include "mpi/grid.h"
#include "mpi/reach.h"

typedef struct stm_gathering stm_gathering;

/* comm: its ranks are shards->n_ranks; no other point-to-point message on it has the tag STM_TAG_GATHERING. reach: of
 * the vector (mpi/reach.h), the caller's until destroy. The caller destroys *out, also after a failure. Local. Fails:
 * STM_ERR_MEMORY. */
stm_status stm_gathering_create(MPI_Comm comm, const stm_shards *shards, size_t real_bytes, const stm_reach *reach,
                                stm_gathering **out);
void stm_gathering_destroy(stm_gathering *gathering); /* not between begin and finish; NULL is fine */

/* From here on, other ranks' shares of `reals` (the whole vector's address, the caller's until finish) are written.
 * Every rank of comm begins and finishes alike; only wait and finish wait for others. Local. */
void stm_gathering_begin(stm_gathering *gathering, void *reals);

/* This rank's shares of the first n buckets are final, and stay unchanged until finish. Local. */
void stm_gathering_offer(stm_gathering *gathering, size_t n);

/* Moves what can move, at most every tenth of a millisecond; cheap where nothing is under way, or nothing was begun.
 * NULL is fine. Local. */
void stm_gathering_drive(stm_gathering *gathering);

/* Returns when elements [first, first + n) of the vector are here, and all before them; this rank must have offered its
 * shares of their buckets. */
void stm_gathering_wait(stm_gathering *gathering, size_t first, size_t n);

/* What was not offered is so now; waits until the whole cut is here, and nothing of it is under way. */
void stm_gathering_finish(stm_gathering *gathering);

#endif
