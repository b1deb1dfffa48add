/* src/metrics/cut_back.h: what a run folder tells of steps that a resumed run takes again is taken out of the way
 * first, so that its files become those of a run that was never interrupted. (metrics.jsonl: stm_metrics_open.) Local,
 * all of it; rank 0 calls. Fails: STM_ERR_IO, STM_ERR_MEMORY. */
#ifndef STM_METRICS_CUT_BACK_H
#define STM_METRICS_CUT_BACK_H

#include "base/base.h"

/* Removes the rollouts of steps after `step` from <folder>/rollouts, and what was never finished there. */
stm_status stm_rollouts_cut_back(const char *folder, int64_t step);

/* Renames <folder>/rollouts to rollouts.old, in place of an earlier one, and makes an empty one, for a fresh start;
 * nothing where it holds none. */
stm_status stm_rollouts_put_aside(const char *folder);

/* Moves the lines of <folder>/log.txt from the first about a step after `step` up to byte `session` to the end of
 * log.old.txt. From there on the job that calls has written, whose lines stay. *cut: whether there were any; then
 * log.txt is another file, which must be opened again. */
stm_status stm_log_cut_back(const char *folder, int64_t step, size_t session, bool *cut);

#endif
