#include "train/batch.h"

#include <string.h>

#include "data/thoughts.h"

static stm_status copy_ids(const int32_t *ids, size_t n, int32_t **copy)
{
    STM_TRY(stm_alloc(n, sizeof *ids, copy));
    if (n > 0)
        memcpy(*copy, ids, n * sizeof *ids);
    return STM_OK;
}

stm_status stm_batch_of_prompts(const stm_prompts *prompts, const size_t *which, size_t n, stm_batch *batch)
{
    *batch = (stm_batch){0};
    STM_TRY(stm_alloc(n, sizeof *batch->groups, &batch->groups));
    for (; batch->n_groups < n; batch->n_groups++) {
        const stm_prompt *prompt = &prompts->items[which[batch->n_groups]];
        stm_group *group = &batch->groups[batch->n_groups];
        *group = (stm_group){.n_prompt = prompt->n, .temperature = 1.0};
        STM_TRY(copy_ids(prompt->ids, prompt->n, &group->prompt));
    }
    return STM_OK;
}

static stm_status add_demonstration(const int32_t *ids, size_t n, stm_group *group)
{
    STM_TRY(stm_alloc(1, sizeof *group->responses, &group->responses));
    group->n_responses = 1;
    stm_response *response = &group->responses[0];
    *response = (stm_response){.n = n, .finish = STM_FINISH_STOP};
    STM_TRY(copy_ids(ids, n, &response->ids));
    STM_TRY(stm_alloc(n, sizeof *response->mask, &response->mask));
    if (n > 0)
        memset(response->mask, 1, n);
    return STM_OK;
}

stm_status stm_batch_of_demonstrations(const stm_prompts *prompts, const size_t *which, size_t n,
                                       const stm_thought_dropout *dropout, stm_batch *batch, size_t *n_dropped)
{
    *n_dropped = 0;
    STM_TRY(stm_batch_of_prompts(prompts, which, n, batch));
    for (size_t g = 0; g < n; g++) {
        const stm_prompt *prompt = &prompts->items[which[g]];
        const uint64_t epoch = (dropout->position + g) / prompts->n;
        const bool drops =
            prompt->thoughtless && stm_thought_is_dropped(dropout->probability, dropout->seed, epoch, prompt->line);
        STM_TRY(add_demonstration(drops ? prompt->thoughtless : prompt->response,
                                  drops ? prompt->n_thoughtless : prompt->n_response, &batch->groups[g]));
        *n_dropped += drops;
    }
    return STM_OK;
}

stm_status stm_batch_of_groups(const stm_batch *all, const size_t *which, size_t n, stm_batch *batch)
{
    stm_status status = STM_OK;
    *batch = (stm_batch){0};
    STM_TRY(stm_alloc(n, sizeof *batch->groups, &batch->groups));
    while (status == STM_OK && batch->n_groups < n) {
        const size_t g = batch->n_groups++;
        status = stm_group_copy(&all->groups[which[g]], &batch->groups[g]);
    }
    return status;
}

stm_batch stm_batch_slice(const stm_batch *batch, size_t first, size_t n)
{
    return (stm_batch){.n_groups = n, .groups = batch->groups + first};
}
