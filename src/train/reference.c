#include "train/reference.h"

#include <stdlib.h>
#include <string.h>

#include "group/score.h"
#include "model/stages.h"

struct stm_reference {
    const stm_model *model;
    void *weights; /* laid out as the model's (model/stages.h) */
};

stm_status stm_reference_create(const stm_model *model, stm_reference **out)
{
    stm_reference *reference;
    stm_status status;
    STM_TRY(stm_alloc(1, sizeof *reference, &reference));
    reference->model = model;
    STM_GOTO_OUT(stm_model_array_create(model, &reference->weights));
    STM_GOTO_OUT(stm_model_array_copy(model, reference->weights, model->weights));
    STM_GOTO_OUT(stm_model_round(model, reference->weights));
    *out = reference;
    return STM_OK;
out:
    stm_reference_destroy(reference);
    return status;
}

void stm_reference_destroy(stm_reference *reference)
{
    if (!reference)
        return;
    if (reference->weights) {
        stm_model_round_end(reference->model, reference->weights);
        stm_model_array_destroy(reference->model, reference->weights);
    }
    free(reference);
}

static void exchange(stm_model *model, stm_reference *reference)
{
    void *weights = model->weights;
    model->weights = reference->weights;
    reference->weights = weights;
}

static stm_status copy_scores(const stm_scores *scores, stm_batch *batch)
{
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++) {
            stm_response *response = &batch->groups[g].responses[i];
            if (!response->ref_logprobs)
                STM_TRY(stm_alloc(response->n, sizeof *response->ref_logprobs, &response->ref_logprobs));
            if (response->n > 0)
                memcpy(response->ref_logprobs, scores->logp + scores->first[scores->response_0[g] + i],
                       response->n * sizeof *response->ref_logprobs);
        }
    return STM_OK;
}

stm_status stm_reference_score(stm_reference *reference, const stm_policy *policy, stm_batch *batch)
{
    stm_scores scores;
    exchange(policy->model, reference);
    stm_status status = stm_score_batch(policy->engine, policy->grid, batch, &scores);
    exchange(policy->model, reference);
    if (status == STM_OK)
        status = stm_agree(policy->grid, copy_scores(&scores, batch));
    stm_scores_clear(&scores);
    return status;
}
