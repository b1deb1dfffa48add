/* mpi/pairwise.h: from every rank a message to every other, bucket after bucket, while the ranks compute.
 *
 * Buckets stand in one order that all ranks share: places 0, 1, .. In round k = 1 .. n_ranks - 1 of a place rank r
 * sends to r + k and receives from r - k (modulo n_ranks), so that nobody has all others at the door at once.
 *
 *      places   0   1 |  2   3   4   5 |  6   7 ..
 *               done  |  the window    |  later
 *
 * In the window parts of others arrive in any order; this rank's leave once it has offered the place. A place is done
 * when all has arrived and this rank's part is offered, places in their order. So a rank is at most n_slots places
 * ahead of the slowest, whatever MPI may buffer, and has at most STM_PAIRWISE_MESSAGES under way each way. Two ranks
 * exchange at most one message a place and way, in the order of places: one tag is enough, and none is ever used up.
 *
 * Messages are point to point and never block; they move inside offer, drive and the waits. What a device does to the
 * arrays (mpi/reach.h) comes before an offer, or begin, if it was asked for before. Nothing is allocated after create.
 * Where the device carries messages, those of a place are a group of mpi/groups.h, and `complete` queues what it does.
 * A failed MPI call prints and aborts. Local, all of it, but that every rank must take part. */
#ifndef STM_MPI_PAIRWISE_H
#define STM_MPI_PAIRWISE_H

#include "mpi/grid.h"
#include "mpi/reach.h"

enum { STM_PAIRWISE_MESSAGES = 64 };

/* Point-to-point tags of the communicators that this is used on. */
enum { STM_TAG_REDUCTION = 1, STM_TAG_GATHERING = 2, STM_TAG_ROUNDS = 3 };

typedef struct stm_pairwise stm_pairwise;

typedef struct {
    MPI_Comm comm; /* used for nothing else that has this tag */
    int tag;
    size_t n_places, n_slots, real_bytes;
    const stm_reach *reach; /* of the arrays; the caller's, until destroy */
    /* The reals of the message to `peer` (sends) or from it; *n of them, at most 2^30. 0: there is none, as the peer
     * must find, too. */
    void *(*find)(const void *owner, size_t place, int peer, bool sends, size_t *n);
    void (*complete)(void *owner, size_t place); /* as a place is done; NULL: nothing to do */
    void *owner;
} stm_pairwise_options;

/* The caller destroys *out. Fails: STM_ERR_MEMORY. */
stm_status stm_pairwise_create(const stm_pairwise_options *options, stm_pairwise **out);
void stm_pairwise_destroy(stm_pairwise *pairwise); /* after finish, or before begin; NULL is fine */

/* Place 0 is the next; what was begun before must be finished. begin_places: of so many places, from now on. */
void stm_pairwise_begin(stm_pairwise *pairwise);
void stm_pairwise_begin_places(stm_pairwise *pairwise, size_t n_places);

/* This rank's parts of the first n places are final. */
void stm_pairwise_offer(stm_pairwise *pairwise, size_t n);

/* Moves what can move, at most every tenth of a millisecond. Cheap where nothing is under way. */
void stm_pairwise_drive(stm_pairwise *pairwise);

size_t stm_pairwise_n_done(const stm_pairwise *pairwise);

/* Places, from the first on, that are done and whose messages have left: nothing of them is read or written any more.
 */
size_t stm_pairwise_n_free(const stm_pairwise *pairwise);

/* Returns when the first n places, which must be offered, are done. */
void stm_pairwise_wait(stm_pairwise *pairwise, size_t n);

/* Offers what is not yet offered; returns when all places are done, and all that was sent has left. */
void stm_pairwise_finish(stm_pairwise *pairwise);

#endif
