/* src/train/reference.h: the model that the policy is held to: the start model, or a copy of an earlier policy.
 *
 * It is a set of the policy's parameters, in shards: the policy's engine computes with them while they stand in the
 * model, so that its memory serves both. */
#ifndef STM_TRAIN_REFERENCE_H
#define STM_TRAIN_REFERENCE_H

#include "group/score.h"
#include "train/parameter_set.h"
#include "train/policy.h"

/* Fills what `row` names of every response, ref_logprobs (STM_ROW_REF), target_logprobs or twin_logprobs; the policy's
 * weights are as before, bit for bit. Collective over the grid's world; same status everywhere. Fails: STM_ERR_NUMERIC,
 * what the engine says, and what the exchange does. */
stm_status stm_reference_score(stm_parameter_set *reference, const stm_policy *policy, stm_row row, stm_batch *batch);

/* Fills it with these log-probs of the batch. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_reference_keep(const stm_scores *scores, stm_row row, stm_batch *batch);

#endif
