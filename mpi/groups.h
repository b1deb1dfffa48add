/* mpi/groups.h: the messages of mpi/pairwise.h where the device carries them (exchange of mpi/reach.h): all that a rank
 * sends and receives at a place is one group.
 *
 *      places   0   1   2 |  3   4  |  5   6   7  |  8   9 ..
 *               done      |  begun  |  asked for  |  offered, or not yet
 *
 * A group waits on the device for those of all others, so it is begun only when every rank has offered the place; they
 * tell each other so by a barrier that nobody waits in. Otherwise the device of the first would wait for the last, for
 * as long as that computes: its waiting takes multiprocessors, and two ranks could wait in a circle, each in a call
 * that waits for its device. Groups and barriers come in the order of places, the same on every rank.
 *
 * Nothing is allocated after create. A failed MPI call prints and aborts. Local, but that every rank must take part. */
#ifndef STM_MPI_GROUPS_H
#define STM_MPI_GROUPS_H

#include "mpi/pairwise.h"

typedef struct stm_groups stm_groups;

/* options: with a reach that has exchange; the caller's until destroy, as *out is. Fails: STM_ERR_MEMORY. */
stm_status stm_groups_create(const stm_pairwise_options *options, stm_groups **out);
void stm_groups_destroy(stm_groups *groups); /* NULL is fine */

/* Place 0 is the next; all that was asked for must be done. */
void stm_groups_begin(stm_groups *groups);

/* Moves what can move of the first n_offered places; returns how many of them are done: their group is through, and
 * what `complete` has begun, too. */
size_t stm_groups_move(stm_groups *groups, size_t n_offered);

#endif
