/* src/train/targets.h: what f-DPG keeps from step to step (objective/target.h; arXiv:2302.08215, as in its authors'
 * code, naver/disco): of each prompt the estimate of its target's Z, and the latest pseudo-rewards.
 *
 * log Z of a prompt, a line of the data: log of the mean of a(y) / probability of being sampled, over all samples of
 * all steps, those of the present step included before it is used. Baseline: mean of the pseudo-rewards of the latest
 * objective.baseline_window responses of earlier steps.
 *
 * Every rank holds the same, from the same numbers in the same order: that of the batch. It takes 16 bytes a prompt and
 * 8 a response of the window, less than the prompts themselves. Local, all of it. */
#ifndef STM_TRAIN_TARGETS_H
#define STM_TRAIN_TARGETS_H

#include "base/kept.h"
#include "config/options.h"
#include "data/groups.h"

typedef struct stm_targets stm_targets;

/* Whether the options ask for any of it. */
bool stm_targets_are_needed(const stm_objective_options *options);

/* For prompts 0 .. n_prompts - 1. The options must outlive it. The caller destroys *out. Fails: STM_ERR_MEMORY. */
stm_status stm_targets_create(const stm_objective_options *options, size_t n_prompts, stm_targets **out);
void stm_targets_destroy(stm_targets *targets); /* NULL is fine */

/* Takes a step's responses in, which have old and reference log-probs and rewards: group g answers prompt which[g]. Of
 * what the options ask for, sets log_z of each group, and *baseline to that of this step. */
void stm_targets_take(stm_targets *targets, const size_t *which, stm_batch *batch, double *baseline);

/* As bytes, appended to *out; and back: nothing where nothing was saved, the latest of a longer window. where: for the
 * message. Fails: STM_ERR_MEMORY; STM_ERR_INPUT for other bytes, or another number of prompts. */
stm_status stm_targets_save(const stm_targets *targets, stm_kept *out);
stm_status stm_targets_restore(stm_targets *targets, const char *where, const stm_kept *kept);

#endif
