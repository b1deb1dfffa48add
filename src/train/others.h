/* src/train/others.h: responses of the reference beside the policy's, in the same groups (reference.samples). */
#ifndef STM_TRAIN_OTHERS_H
#define STM_TRAIN_OTHERS_H

#include "rollout/rollout.h"
#include "train/parameter_set.h"
#include "train/policy.h"

/* The reference stands in the policy's place while it samples so many responses to each prompt of the batch, which join
 * the policy's as the last of their groups and say that they are another model's (notes->other_origin). sampling: the
 * policy's, but for the size of groups and the use of random numbers, which are its own. The policy's weights are as
 * before, bit for bit. Where the watch leaves, they are worth nothing. counts: of these rollouts. Collective over the
 * grid's world; same status everywhere. Fails as stm_rollout and stm_parameter_set_exchange. */
stm_status stm_others_roll_out(stm_parameter_set *reference, const stm_policy *policy, const stm_sampling *sampling,
                               size_t n, stm_batch *batch, stm_rollout_counts *counts);

#endif
