/* mpi/rounds.h: a gradient that is summed over ranks piece of work by piece of work, so that a rank keeps sums of its
 * own shard alone (ZeRO-2: Rajbhandari et al. 2020, arXiv 1910.02054).
 *
 * A chunk's backward adds to one layer after another, from the last to the first, and no rank has room for all of them:
 * it computes into one of two rooms, each as large as a layer, which leaves for the owners of its shares before the
 * room is used again. Chunks of all ranks stand in one order: each has a key, and those of equal keys are one round.
 *
 *      round       0            1            2                what does not travel by rounds: the ends of the vector
 *      rank 0      a            b            -                (embedding; final norm and head), which are as long as
 *      rank 1      c            -            d                a room would have to be: kept whole, summed at the end
 *      place       L2 L1 L0     L2 L1 L0     L2 L1 L0         each layer in the pieces that the cut makes of it
 *
 * An owner adds a round's parts to its sum in rank order, rounds in their order, float32 in double: the order of sums
 * is a function of the keys. What comes after a chunk for a rank must have a greater key, and what a chunk waits for a
 * smaller or an equal one; then no rank waits in a circle. A rank that waits for another drives meanwhile.
 *
 * It costs a sum over the ranks for each chunk, where mpi/reduction.h has one for all of them. Buffers are memory that
 * MPI and the processor can reach. */
#ifndef STM_MPI_ROUNDS_H
#define STM_MPI_ROUNDS_H

#include "mpi/grid.h"
#include "mpi/reach.h"

enum { STM_ROUNDS_ROOMS = 2 };

typedef struct stm_rounds stm_rounds;

/* Layer l of n_layers is [bounds[l], bounds[l + 1]) of the vector, inside the cut; what of the cut lies before the
 * first or behind the last are its ends. */
typedef struct stm_rounds_options {
    MPI_Comm comm; /* its ranks are shards.n_ranks; no other point-to-point message on it has the tag STM_TAG_ROUNDS */
    stm_shards shards;
    size_t n_layers;
    const size_t *bounds; /* [n_layers + 1], copied */
    size_t real_bytes;
    void *rooms;            /* [STM_ROUNDS_ROOMS, stm_rounds_room_reals], the caller's */
    const stm_reach *reach; /* of the arrays; the caller's, until destroy */
} stm_rounds_options;

/* The caller destroys *out, also after a failure. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_rounds_create(const stm_rounds_options *options, stm_rounds **out);
void stm_rounds_destroy(stm_rounds *rounds); /* not between begin and finish; NULL is fine */

/* Reals of a room; and bytes that create takes on every rank, rooms apart. Local. */
size_t stm_rounds_room_reals(const stm_rounds_options *options);
size_t stm_rounds_bytes(const stm_rounds_options *options);

/* What `rank` sends of a layer of its chunk, or (layer n_layers) of the ends, to those of the ranks [first, last] that
 * are others: a function of the cut and the bounds alone. Local. */
typedef struct {
    size_t n_messages, n_reals;
} stm_rounds_traffic;
stm_rounds_traffic stm_rounds_sent(const stm_rounds_options *options, int rank, size_t layer, int first, int last);

/* Begins to add to `sums`, [stm_shards_count]: this rank's ranges one after the other. ends: the whole vector's
 * address, of which only the ends are read, at finish. Local. */
void stm_rounds_begin(stm_rounds *rounds, void *sums, const void *ends);

/* keys [n], increasing: of this rank's chunks to come. Once between begin and finish. Collective over comm. */
void stm_rounds_agree(stm_rounds *rounds, const uint64_t *keys, size_t n);

/* The room for a layer of the next chunk, layers from the last to the first; contents undefined. NULL: not yet; to be
 * asked again after drive. Local. */
void *stm_rounds_room(stm_rounds *rounds, size_t layer);

/* The layer that got its room last is final there. Local. */
void stm_rounds_offer(stm_rounds *rounds);

/* Moves what can move, at most every tenth of a millisecond. NULL is fine. Local. */
void stm_rounds_drive(stm_rounds *rounds);

/* What is still to come of this rank's chunks counts as offered (its content is of no use: after a failure). Local. */
void stm_rounds_end(stm_rounds *rounds);

/* Whether all rounds are summed, and nothing of them is under way. Local. */
bool stm_rounds_settled(const stm_rounds *rounds);

/* end, with no keys if there was no agreement, and waits until settled. Every rank of comm takes part. */
void stm_rounds_settle(stm_rounds *rounds);

/* The same, and then the ends; returns when this rank has all of its sums. */
void stm_rounds_finish(stm_rounds *rounds);

#endif
