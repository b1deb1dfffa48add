#include "train/mismatched.h"

#include <stdlib.h>

#include "group/score.h"

static bool has_loss(const stm_response *response)
{
    for (size_t k = 0; k < response->n; k++)
        if (response->mask[k])
            return true;
    return false;
}

/* The arrays of prompts and responses stay the batch's own. Cleared after a failure, too. */
static stm_status pair_up(const stm_batch *batch, size_t n_positions, stm_batch *pairs)
{
    const size_t n = batch->n_groups;
    STM_TRY(stm_alloc(n, sizeof *pairs->groups, &pairs->groups));
    pairs->n_groups = n;
    for (size_t g = 0; g < n; g++) {
        const stm_group *prompt = &batch->groups[g], *from = &batch->groups[(g + 1) % n];
        stm_group *pair = &pairs->groups[g];
        *pair = (stm_group){.n_prompt = prompt->n_prompt, .prompt = prompt->prompt, .temperature = prompt->temperature};
        STM_TRY(stm_alloc(from->n_responses, sizeof *pair->responses, &pair->responses));
        for (size_t i = 0; i < from->n_responses; i++) {
            const stm_response *r = &from->responses[i];
            if (has_loss(r) && prompt->n_prompt + r->n <= n_positions)
                pair->responses[pair->n_responses++] = (stm_response){.n = r->n, .ids = r->ids, .mask = r->mask};
        }
    }
    return STM_OK;
}

static void clear_pairs(stm_batch *pairs)
{
    for (size_t g = 0; g < pairs->n_groups; g++) {
        for (size_t i = 0; i < pairs->groups[g].n_responses; i++)
            free(pairs->groups[g].responses[i].ref_logprobs);
        free(pairs->groups[g].responses);
    }
    free(pairs->groups);
}

static double mean_of(const stm_batch *pairs, const stm_scores *scores)
{
    double sum = 0;
    size_t n = 0;
    for (size_t g = 0; g < pairs->n_groups; g++)
        for (size_t i = 0; i < pairs->groups[g].n_responses; i++, n++) {
            const stm_response *response = &pairs->groups[g].responses[i];
            const double *logp = scores->logp + scores->first[scores->response_0[g] + i];
            for (size_t k = 0; k < response->n; k++)
                sum += response->mask[k] ? logp[k] - response->ref_logprobs[k] : 0.0;
        }
    return n > 0 ? sum / (double)n : 0.0;
}

stm_status stm_mismatched_kl(stm_parameter_set *reference, const stm_policy *policy, const stm_batch *batch,
                             double *kl_point)
{
    stm_batch pairs = {0};
    stm_scores scores = {0};
    stm_status status;
    *kl_point = 0;
    if (batch->n_groups < 2)
        return STM_OK;
    const size_t n_positions = policy->model->config.max_positions;
    STM_GOTO_OUT(stm_agree(policy->grid, pair_up(batch, n_positions, &pairs)));
    STM_GOTO_OUT(stm_score_batch(policy->engine, policy->grid, &pairs, &scores));
    STM_GOTO_OUT(stm_reference_score(reference, policy, STM_ROW_REF, &pairs));
    *kl_point = STM_MAX(mean_of(&pairs, &scores), 0.0);
out:
    stm_scores_clear(&scores);
    clear_pairs(&pairs);
    return status;
}
