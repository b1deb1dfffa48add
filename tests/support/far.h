/* tests/support/far.h: memory that the host and MPI cannot read, as a GPU's, with the reach that gets at it.
 *
 * A touch of a far address is a fault. Work is done when it has been asked for a while, as by a device that is
 * behind; what is to come before them (follow) is only counted. */
#ifndef STM_TESTS_FAR_H
#define STM_TESTS_FAR_H

#include "mpi/reach.h"

/* How arrays are reached in a test: NULL, the host's; far, in pieces of a few bytes; far in name alone, so that MPI
 * gets its addresses; and by a device that carries groups itself, which the first call, collective over MPI_COMM_WORLD,
 * prepares. Groups that this rank has begun; whether all that was begun is done: */
enum { FAR_GROUPS = 3, FAR_KINDS };
const stm_reach *far_reach(int kind);
size_t far_n_groups(void);
bool far_is_idle(void);

/* Bytes of an array: those of far memory, through its reach. */
void far_write(const stm_reach *reach, void *to, const void *from, size_t bytes);
void far_read(const stm_reach *reach, void *to, const void *from, size_t bytes);

#endif
