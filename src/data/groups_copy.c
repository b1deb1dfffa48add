#include <string.h>

#include "data/groups.h"

/* *to is NULL where `from` is. */
static stm_status copy(const void *from, size_t n, size_t element_bytes, void *to)
{
    void *memory;
    if (!from)
        return STM_OK;
    STM_TRY(stm_alloc(n, element_bytes, &memory));
    if (n > 0)
        memcpy(memory, from, n * element_bytes);
    memcpy(to, &memory, sizeof memory);
    return STM_OK;
}

#define COPY(from, to, field, n) STM_TRY(copy((from)->field, n, sizeof *(from)->field, &(to)->field))

static stm_status copy_notes(const stm_response *response, stm_response *to)
{
    const stm_response_notes *from = response->notes;
    const size_t n = response->n;
    if (!from)
        return STM_OK;
    STM_TRY(stm_response_take_notes(to));
    stm_response_notes *notes = to->notes;
    *notes = (stm_response_notes){.n_parts = from->n_parts,
                                  .off_policy = from->off_policy,
                                  .has_cluster = from->has_cluster,
                                  .other_origin = from->other_origin,
                                  .cluster = from->cluster,
                                  .member = from->member,
                                  .n_steps = from->n_steps};
    COPY(from, notes, sampler_logprobs, n);
    COPY(from, notes, twin_logprobs, n);
    COPY(from, notes, target_logprobs, n);
    COPY(from, notes, token_weights, n);
    COPY(from, notes, reward_parts, from->n_parts);
    COPY(from, notes, segment, n);
    COPY(from, notes, answer, n);
    COPY(from, notes, step, n);
    COPY(from, notes, step_advantages, from->n_steps);
    return STM_OK;
}

static stm_status copy_response(const stm_response *from, stm_response *to)
{
    const size_t n = from->n;
    *to = (stm_response){.n = n,
                         .reward = from->reward,
                         .has_reward = from->has_reward,
                         .finish = from->finish,
                         .outcome = from->outcome};
    COPY(from, to, ids, n);
    COPY(from, to, mask, n);
    COPY(from, to, old_logprobs, n);
    COPY(from, to, ref_logprobs, n);
    COPY(from, to, kept_mass, n);
    return copy_notes(from, to);
}

stm_status stm_group_copy(const stm_group *from, stm_group *to)
{
    const size_t n = from->n_responses, n_scores = (from->n_members > 0 ? from->n_members : n) * from->n_budgets;
    *to = (stm_group){.n_prompt = from->n_prompt,
                      .temperature = from->temperature,
                      .n_members = from->n_members,
                      .n_budgets = from->n_budgets,
                      .n_summaries = from->n_summaries};
    COPY(from, to, prompt, from->n_prompt);
    COPY(from, to, scores, n_scores * from->n_summaries);
    COPY(from, to, preferences, n * n);
    STM_TRY(stm_alloc(n, sizeof *to->responses, &to->responses));
    for (; to->n_responses < n; to->n_responses++) {
        const stm_status status = copy_response(&from->responses[to->n_responses], &to->responses[to->n_responses]);
        if (status != STM_OK) {
            to->n_responses++; /* what it has is freed with the group */
            return status;
        }
    }
    return STM_OK;
}

stm_status stm_batch_copy_prompts(const stm_batch *from, stm_batch *to)
{
    *to = (stm_batch){0};
    STM_TRY(stm_alloc(from->n_groups, sizeof *to->groups, &to->groups));
    for (; to->n_groups < from->n_groups; to->n_groups++) {
        const stm_group *group = &from->groups[to->n_groups];
        stm_group *copied = &to->groups[to->n_groups];
        *copied = (stm_group){.n_prompt = group->n_prompt, .temperature = group->temperature};
        COPY(group, copied, prompt, group->n_prompt);
    }
    return STM_OK;
}

stm_status stm_batch_continue_prompts(const stm_batch *from, size_t n_each, size_t n_tokens, size_t most, stm_batch *to)
{
    const size_t n = from->n_groups * n_each;
    *to = (stm_batch){0};
    STM_TRY(stm_alloc(n, sizeof *to->groups, &to->groups));
    for (; to->n_groups < n; to->n_groups++) {
        const stm_group *group = &from->groups[to->n_groups / n_each];
        stm_group *longer = &to->groups[to->n_groups];
        const size_t n_prompt = group->n_prompt, n_more = most > n_prompt ? STM_MIN(n_tokens, most - n_prompt) : 0;
        *longer = (stm_group){.n_prompt = n_prompt + n_more, .temperature = 1.0};
        STM_TRY(stm_alloc(longer->n_prompt, sizeof *longer->prompt, &longer->prompt));
        memcpy(longer->prompt, group->prompt, n_prompt * sizeof *longer->prompt);
        stm_unlike_tokens(1 + to->n_groups, n_more, longer->prompt + n_prompt);
    }
    return STM_OK;
}
