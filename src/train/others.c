#include "train/others.h"

#include <stdlib.h>
#include <string.h>

/* The same prompts without responses. */
static stm_status copy_prompts(const stm_batch *batch, stm_batch *out)
{
    STM_TRY(stm_alloc(batch->n_groups, sizeof *out->groups, &out->groups));
    for (size_t g = 0; g < batch->n_groups; g++) {
        const stm_group *from = &batch->groups[g];
        STM_TRY(stm_alloc(from->n_prompt, sizeof *from->prompt, &out->groups[g].prompt));
        memcpy(out->groups[g].prompt, from->prompt, from->n_prompt * sizeof *from->prompt);
        out->groups[g].n_prompt = from->n_prompt;
        out->n_groups++;
    }
    return STM_OK;
}

/* The responses of `others` become the last of a group. */
static stm_status join(stm_group *group, stm_group *others)
{
    stm_response *responses = realloc(group->responses, (group->n_responses + others->n_responses) * sizeof *responses);
    if (!responses)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    group->responses = responses;
    for (size_t i = 0; i < others->n_responses; i++) {
        STM_TRY(stm_response_take_notes(&others->responses[i]));
        others->responses[i].notes->other_origin = true;
    }
    memcpy(responses + group->n_responses, others->responses, others->n_responses * sizeof *responses);
    group->n_responses += others->n_responses;
    others->n_responses = 0;
    return STM_OK;
}

static stm_status join_all(stm_batch *batch, stm_batch *others)
{
    for (size_t g = 0; g < batch->n_groups; g++)
        STM_TRY(join(&batch->groups[g], &others->groups[g]));
    return STM_OK;
}

static stm_status roll_out(stm_parameter_set *reference, const stm_policy *policy, const stm_sampling *sampling,
                           stm_batch *others, stm_rollout_counts *counts)
{
    STM_TRY(stm_parameter_set_exchange(reference));
    const stm_status status = stm_rollout(policy->engine, policy->model, policy->grid, sampling, others, counts);
    const stm_status restored = stm_parameter_set_exchange(reference);
    return restored == STM_OK ? status : restored; /* worse than a number that is not finite */
}

stm_status stm_others_roll_out(stm_parameter_set *reference, const stm_policy *policy, const stm_sampling *sampling,
                               size_t n, stm_batch *batch, stm_rollout_counts *counts)
{
    stm_sampling own = *sampling;
    stm_batch others = {0};
    stm_status status;
    own.group_size = n;
    own.use = STM_RANDOM_OTHERS;
    STM_GOTO_OUT(stm_agree(policy->grid, copy_prompts(batch, &others)));
    STM_GOTO_OUT(roll_out(reference, policy, &own, &others, counts));
    STM_GOTO_OUT(stm_agree(policy->grid, join_all(batch, &others)));
out:
    stm_batch_clear(&others);
    return status;
}
