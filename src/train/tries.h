/* src/train/tries.h: which checkpoints runs have gone on from in vain.
 *
 * A job that dies before its first step would, started again, die in the same way for ever. So each one that goes on
 * from a checkpoint notes it in `tries` of the run folder ("step-00000040.h5 1") before it is read, and the note goes
 * with the first step. Local, all of it; rank 0 calls, holding the folder's lock. */
#ifndef STM_TRAIN_TRIES_H
#define STM_TRAIN_TRIES_H

#include "base/base.h"

enum { STM_MOST_TRIES = 2 }; /* then the checkpoint before is taken, where there is one */

/* The names that were tried STM_MOST_TRIES times or more, a line each, which the caller frees. Fails: STM_ERR_MEMORY;
 * a file that is missing or says nothing sensible counts for none. */
stm_status stm_tries_tired(const char *run_folder, char **names);

/* One more try from the checkpoint at `path`. Fails: STM_ERR_IO, STM_ERR_MEMORY. */
stm_status stm_tries_add(const char *run_folder, const char *path);

/* A step was made, or the run ended in order. Fails: STM_ERR_IO, STM_ERR_MEMORY. */
stm_status stm_tries_clear(const char *run_folder);

#endif
