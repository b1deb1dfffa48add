/* src/train/others.h: responses of another model beside the policy's, in the same groups (reference.samples): of the
 * reference, or of its geometric mixture with the policy (reference.mixture, rollout/mixture.h).
 *
 *   mixture 1       the reference, which stands in the policy's place while it samples
 *   between         both: the reference has whole weights of its own, and an engine for its K and V
 *   mixture 0       the policy itself */
#ifndef STM_TRAIN_OTHERS_H
#define STM_TRAIN_OTHERS_H

#include "rollout/rollout.h"
#include "train/parameter_set.h"
#include "train/policy.h"

typedef struct stm_others stm_others;

/* Whether these options sample from both at once. Local. */
bool stm_others_mix(const stm_options *options);

/* Bytes that create takes of a rank, but for what its engine is expected to (stm_rollout_expect). Local. */
size_t stm_others_bytes(const stm_options *options, const stm_model *model);

/* mixture: the share of the reference, 0 to 1. The reference's weights are taken as they are; policy and reference must
 * outlive *out. The caller destroys it. Collective over the grid's world; same status everywhere. Fails:
 * STM_ERR_MEMORY, STM_ERR_DEVICE, STM_ERR_INPUT as stm_engine_create. */
stm_status stm_others_create(const stm_policy *policy, stm_parameter_set *reference, double mixture, stm_others **out);
void stm_others_destroy(stm_others *others); /* NULL is fine. Collective over the team */

/* So many responses to each prompt of the batch, which join the policy's as the last of their groups and say that they
 * are another model's (notes->other_origin); their old log-probs are those of the mixture. sampling: the policy's, but
 * for the size of groups and the use of random numbers, which are its own. The policy's weights are as before, bit for
 * bit. Where the watch leaves, they are worth nothing. counts: of these rollouts. Collective over the grid's world;
 * same status everywhere. Fails as stm_rollout and stm_parameter_set_exchange. */
stm_status stm_others_roll_out(stm_others *others, const stm_policy *policy, const stm_sampling *sampling, size_t n,
                               stm_batch *batch, stm_rollout_counts *counts);

#endif
