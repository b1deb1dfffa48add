#include "train/copies.h"

#include "objective/objective.h"
#include "train/optimizer.h"
#include "train/reference.h"

/* Recorded groups bring the target's log-probs along. */
static bool needs_target(const stm_options *o)
{
    return !*o->data.groups && (stm_objective_find(o->objective.name)->needs(&o->objective) & STM_NEEDS_TARGET);
}

size_t stm_copies_count(const stm_options *options)
{
    return needs_target(options);
}

size_t stm_copies_bytes(const stm_options *options, const stm_model *model, int n_ranks)
{
    return stm_copies_count(options) * stm_parameter_set_bytes(model, n_ranks, stm_optimizer_bucket(n_ranks));
}

stm_status stm_copies_create(const stm_policy *policy, stm_copies *copies)
{
    const size_t bucket_n = stm_optimizer_bucket(policy->grid->stage_size);
    *copies = (stm_copies){0};
    if (needs_target(policy->options))
        STM_TRY(stm_parameter_set_create(policy->model, policy->grid, bucket_n, &copies->target));
    return STM_OK;
}

void stm_copies_clear(stm_copies *copies)
{
    stm_parameter_set_destroy(copies->target);
    *copies = (stm_copies){0};
}

stm_status stm_copies_renew(const stm_copies *copies, const stm_options *options, int64_t step)
{
    return copies->target && step % options->objective.prox_every == 0 ? stm_parameter_set_renew(copies->target)
                                                                       : STM_OK;
}

void stm_copies_place(const stm_copies *copies, stm_checkpoint_state *state)
{
    state->copies[STM_COPY_TARGET] = copies->target ? stm_parameter_set_shard(copies->target) : NULL;
}

stm_status stm_copies_score(const stm_copies *copies, const stm_policy *policy, stm_batch *batch)
{
    return copies->target ? stm_reference_score(copies->target, policy, STM_ROW_TARGET, batch) : STM_OK;
}
