/* mpi/reduction.h: the sum of a gradient over ranks along a cut (stm_shards), while those still compute it.
 *
 * Backward completes a gradient from the end of the buffer to its front; so buckets are reduced from the last to the
 * first, the same order on every rank. A bucket starts when all of its elements are final here; every rank sends each
 * other rank's share to it and adds what the others send of its own (mpi/pairwise.h), in rank order whoever is first,
 * float32 in double: the very bits of stm_reduce_scatter.
 *
 *      gradient   [ .. bucket 2 ][ bucket 3  ][ bucket 4  ][ bucket 5 ]
 *                   not final     final        parts arrive   summed       <- backward
 *
 * What is waited for must come before in the order by which
 * ranks compute: a rank that has met a failure still says that all is ready, and finishes. */
#ifndef STM_MPI_REDUCTION_H
#define STM_MPI_REDUCTION_H

#include "mpi/grid.h"
#include "mpi/reach.h"

typedef struct stm_reduction stm_reduction;

/* Takes the room for the parts of a few buckets; later calls take none. comm: its ranks are shards->n_ranks; no other
 * point-to-point message on it has the tag STM_TAG_REDUCTION. reach: of the vector, and of the room; the caller's until
 * destroy. The caller destroys *out, also after a failure. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_reduction_create(MPI_Comm comm, const stm_shards *shards, size_t real_bytes, const stm_reach *reach,
                                stm_reduction **out);
void stm_reduction_destroy(stm_reduction *reduction); /* not between begin and finish; NULL is fine */

/* Bytes that create takes on every rank. Local. */
size_t stm_reduction_bytes(const stm_shards *shards, size_t real_bytes);

/* Begins a sum of `reals` (the whole vector's address, the caller's until finish); no element is final yet. Every rank
 * of comm begins and finishes alike; none of these calls waits for the others but meet and finish. Local. */
void stm_reduction_begin(stm_reduction *reduction, void *reals);

/* Elements [first, first + n) of the vector are final here, and stay unchanged until finish. Each element is named
 * once, in any order; what is not in the cut is ignored. Local. */
void stm_reduction_ready(stm_reduction *reduction, size_t first, size_t n);

/* Moves what can move, at most every tenth of a millisecond; cheap where nothing is under way, or nothing was begun. To
 * be called about every millisecond while the ranks compute. NULL is fine. Local. */
void stm_reduction_drive(stm_reduction *reduction);

/* Returns when every rank of the sum is here, and drives until then: who has nothing left to compute does not hold up
 * the sums of those who have. NULL is fine. */
void stm_reduction_meet(stm_reduction *reduction);

/* What was not said to be ready is so now; waits until this rank has the sums of the ranges it owns, in place, and
 * nothing of it is under way. The rest of its buffer is as it was. */
void stm_reduction_finish(stm_reduction *reduction);

/* Buckets that are summed, of stm_shards_n_ranges. Local. */
size_t stm_reduction_n_done(const stm_reduction *reduction);

#endif
