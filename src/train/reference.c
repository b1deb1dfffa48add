#include "train/reference.h"

#include <string.h>

/* Where the log-probs of a response go. */
static stm_status place_of(stm_response *response, stm_row row, double ***out)
{
    if (row != STM_ROW_REF)
        STM_TRY(stm_response_take_notes(response));
    *out = row == STM_ROW_TARGET ? &response->notes->target_logprobs
           : row == STM_ROW_TWIN ? &response->notes->twin_logprobs
                                 : &response->ref_logprobs;
    return STM_OK;
}

stm_status stm_reference_keep(const stm_scores *scores, stm_row row, stm_batch *batch)
{
    double **logprobs;
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++) {
            stm_response *response = &batch->groups[g].responses[i];
            STM_TRY(place_of(response, row, &logprobs));
            if (!*logprobs)
                STM_TRY(stm_alloc(response->n, sizeof **logprobs, logprobs));
            if (response->n > 0)
                memcpy(*logprobs, scores->logp + scores->first[scores->response_0[g] + i],
                       response->n * sizeof **logprobs);
        }
    return STM_OK;
}

static stm_status exchange(stm_parameter_set *reference, const stm_policy *policy)
{
    stm_timers_push(policy->timers, STM_PHASE_GATHER);
    const stm_status status = stm_parameter_set_exchange(reference);
    stm_timers_pop(policy->timers, STM_PHASE_GATHER);
    return status;
}

stm_status stm_reference_score(stm_parameter_set *reference, const stm_policy *policy, stm_row row, stm_batch *batch)
{
    stm_scores scores;
    STM_TRY(exchange(reference, policy));
    stm_status status = stm_score_batch(policy->engine, policy->grid, batch, &scores);
    const stm_status restored = exchange(reference, policy);
    if (restored != STM_OK)
        status = restored; /* worse than a number that is not finite */
    if (status == STM_OK)
        status = stm_agree(policy->grid, stm_reference_keep(&scores, row, batch));
    stm_scores_clear(&scores);
    return status;
}
