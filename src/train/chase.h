/* src/train/chase.h: OFS-DPO, two policies that chase each other on the same batches: arXiv:2406.05534, which does it
 * with adapters.
 *
 * The policy is the fast one: it samples, and its loss (objective/dpo.c, chase_coef) has a term for leading the twin.
 * The twin is the slow one: it learns with a lower rate, and its term closes the gap. Each sees the other's log-probs:
 * the twin's from before the step, the policy's from after its update. Every objective.chase_interval steps the one
 * whose loss is lower without that term is the policy from then on. */
#ifndef STM_TRAIN_CHASE_H
#define STM_TRAIN_CHASE_H

#include "train/trainer_state.h"

/* The twin's part of a step, after the policy's update. Collective over the grid's world; same status everywhere. */
stm_status stm_step_chase(stm_trainer *trainer, stm_step *step, stm_batch *batch);

#endif
