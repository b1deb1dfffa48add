/* tests/support/far.h: memory that the host and MPI cannot read, as a GPU's, with the reach that gets at it.
 *
 * A touch of a far address is a fault. Copies are done when they have been asked for a while, as by a device that is
 * behind; what is to come before them (follow) is only counted. */
#ifndef STM_TESTS_FAR_H
#define STM_TESTS_FAR_H

#include "mpi/reach.h"

/* How arrays are reached in a test: NULL, the host's; far, in pieces of a few bytes; and far in name alone, so that MPI
 * gets its addresses. */
enum { FAR_KINDS = 3 };
const stm_reach *far_reach(int kind);

/* Bytes of an array: those of far memory, through its reach. */
void far_write(const stm_reach *reach, void *to, const void *from, size_t bytes);
void far_read(const stm_reach *reach, void *to, const void *from, size_t bytes);

#endif
