/* src/train/reference.h: the start model, which the KL term holds the policy to.
 *
 * It is a set of the policy's parameters, in shards: the policy's engine computes with them while they stand in the
 * model, so that its memory serves both. */
#ifndef STM_TRAIN_REFERENCE_H
#define STM_TRAIN_REFERENCE_H

#include "train/parameter_set.h"
#include "train/policy.h"

/* Fills ref_logprobs of every response; the policy's weights are as before, bit for bit. Collective over the grid's
 * world; same status everywhere. Fails: STM_ERR_NUMERIC, what the engine says, and what the exchange does. */
stm_status stm_reference_score(stm_parameter_set *reference, const stm_policy *policy, stm_batch *batch);

#endif
