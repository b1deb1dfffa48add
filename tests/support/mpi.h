/* tests/support/mpi.h: tests that run on several ranks.
 *
 * Every rank runs every test; a test passes when it passes on all. Rank 0 prints the verdicts, a rank that failed
 * prints why. After a failure the other ranks may wait for the one that left its test early: when they have not
 * finished in a few seconds, the run is aborted, so that a failed claim is never a silent time-out. */
#ifndef STM_TESTS_MPI_H
#define STM_TESTS_MPI_H

#include <mpi.h>

#include "support/support.h"

/* main() of an MPI test program: starts MPI, runs the tests (those that argv names, if it names any), ends MPI; returns
 * the exit code. Collective over the
 * world. */
int stm_mpi_tests(int argc, char **argv, const struct CMUnitTest *tests, size_t n);

/* The first n ranks of the world, and the most of them that n_stages divide; MPI_COMM_NULL on the others. The caller
 * frees it. Collective over the world. */
MPI_Comm stm_mpi_first_ranks(int n);
MPI_Comm stm_mpi_ranks_of_stages(int n_stages);

/* A folder made by rank 0 under $TMPDIR, the same name on every rank (freed by the caller); remove deletes it.
 * Collective. */
char *stm_mpi_make_folder(void);
void stm_mpi_remove_folder(char *folder); /* frees the name too */

#endif
