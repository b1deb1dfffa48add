/* mpi/tally.h: a few numbers of every rank to all, while they compute: posted now, read later. */
#ifndef STM_MPI_TALLY_H
#define STM_MPI_TALLY_H

#include "mpi/link.h"

typedef struct stm_tally stm_tally;

/* n numbers of each rank of comm, on which no other collective is under way between post and wait. progress: called
 * while a wait lasts. No memory for it, or a failed MPI call, prints and aborts. The caller destroys. Local. */
stm_tally *stm_tally_create(MPI_Comm comm, size_t n, stm_progress_hook progress);
void stm_tally_destroy(stm_tally *tally); /* what was posted was waited for; NULL is fine */

/* Every rank of comm posts and waits alike. numbers [n]: copied. The result, [n_ranks, n], is there until the next
 * post. Only wait waits for others. */
void stm_tally_post(stm_tally *tally, const int64_t *numbers);
const int64_t *stm_tally_wait(stm_tally *tally);

/* Moves what can move. Cheap where nothing is under way. NULL is fine. */
void stm_tally_drive(stm_tally *tally);

#endif
