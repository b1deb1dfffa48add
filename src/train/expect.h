/* src/train/expect.h: tells an engine of the work of a step before there is one, for the memory that it plans
 * (group/engine.h). Of the policy: options, model, tokenizer, grid and engine. Collective over the grid's world. */
#ifndef STM_TRAIN_EXPECT_H
#define STM_TRAIN_EXPECT_H

#include "data/groups.h"
#include "data/prompts.h"
#include "train/policy.h"

/* Rollouts below the batch's prompts (with budgets the batch has them afterwards); log-probs of the reference model,
 * where there is one, and the gradient of the first minibatch; samples for prompts of an evaluation. Fails:
 * STM_ERR_MEMORY. */
stm_status stm_expect_rollouts(const stm_policy *policy, stm_batch *batch);
stm_status stm_expect_updates(const stm_policy *policy, const stm_batch *batch);
stm_status stm_expect_evaluation(const stm_policy *policy, const stm_prompts *prompts);

#endif
