/* src/train/mismatched.h: how far the policy is from the reference on responses to other prompts than their own, which
 * KTO takes as neutral (arXiv:2402.01306, section 4.1). */
#ifndef STM_TRAIN_MISMATCHED_H
#define STM_TRAIN_MISMATCHED_H

#include "train/reference.h"

/* *kl_point = max(0, mean of S - S^ref), S the log-prob of a response's tokens with loss: each response stands below
 * the prompt of the group before its own, the first group's below the last's. Those without loss, and those that the
 * model has no positions for there, are left out; 0 where none is left, or there is one group alone. Two forwards
 * without gradient. Collective over the grid's world; same status everywhere. Fails as stm_reference_score. */
stm_status stm_mismatched_kl(stm_parameter_set *reference, const stm_policy *policy, const stm_batch *batch,
                             double *kl_point);

#endif
