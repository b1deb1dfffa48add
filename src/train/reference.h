/* src/train/reference.h: the start model, which the KL term holds the policy to.
 *
 * Its weights are a second array of the policy's layout: the policy's engine computes with them while they stand in the
 * model, so that its memory serves both. */
#ifndef STM_TRAIN_REFERENCE_H
#define STM_TRAIN_REFERENCE_H

#include "train/policy.h"

typedef struct stm_reference stm_reference;

/* A copy of the model's weights as they are now, which needs the model until it is destroyed. The caller destroys *out.
 * Local. Fails: STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_reference_create(const stm_model *model, stm_reference **out);
void stm_reference_destroy(stm_reference *reference); /* NULL is fine */

/* Fills ref_logprobs of every response. Collective over the grid's world; same status everywhere. Fails:
 * STM_ERR_NUMERIC and what the engine says. */
stm_status stm_reference_score(stm_reference *reference, const stm_policy *policy, stm_batch *batch);

#endif
