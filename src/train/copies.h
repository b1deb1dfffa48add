/* src/train/copies.h: copies of the policy that an objective reads beside the start model, as sets of parameters in
 * shards (train/parameter_set.h), which are in checkpoints and in the plan.
 *
 * target: the policy as it was when a proximal step began (Nash-MP: objective.prox_eta), every objective.prox_every
 * steps:
 *
 *   steps done   0          1          2          3          4
 *   policy      pi_0    pi_(1/2)     pi_1    pi_(3/2)      pi_2        prox_every 2: both problems of a mirror-prox
 * step target      pi_0      pi_0       pi_1      pi_1        pi_2        are anchored where it began
 *
 * twin: a second policy, which is trained on the same batches with an optimizer of its own (OFS-DPO: train/chase.h). */
#ifndef STM_TRAIN_COPIES_H
#define STM_TRAIN_COPIES_H

#include "checkpoint/checkpoint.h"
#include "train/parameter_set.h"
#include "train/policy.h"

typedef struct {
    stm_parameter_set *target;  /* NULL: not needed */
    stm_parameter_set *twin;    /* the same */
    void *exp_avg, *exp_avg_sq; /* [stm_shards_count]: of the twin's optimizer */
    const stm_model *model;
} stm_copies;

/* Arrays of shards that these options need, and log-probs of the batch that are computed for them. Local, as all but
 * score. */
size_t stm_copies_count(const stm_options *options);
size_t stm_copies_n_scores(const stm_options *options);
bool stm_copies_have_twin(const stm_options *options);

/* Bytes that create takes on the rank that owns most, where n_ranks hold the model's stage. */
size_t stm_copies_bytes(const stm_options *options, const stm_model *model, int n_ranks);

/* The caller clears *copies, also after a failure. Fails: STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_copies_create(const stm_policy *policy, stm_copies *copies);
void stm_copies_clear(stm_copies *copies);

/* The target becomes the policy, where that is due after so many steps. Fails: STM_ERR_DEVICE. */
stm_status stm_copies_renew(const stm_copies *copies, const stm_options *options, int64_t step);

/* Where a checkpoint finds and puts them. */
void stm_copies_place(const stm_copies *copies, stm_checkpoint_state *state);

/* Their log-probs of every response. Collective over the grid's world; fails as stm_reference_score. */
stm_status stm_copies_score(const stm_copies *copies, const stm_policy *policy, stm_batch *batch);

#endif
