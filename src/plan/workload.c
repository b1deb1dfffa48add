#include "plan/workload.h"

#include <math.h>
#include <string.h>

#include "base/random.h"

static stm_random_key key_of(const stm_workload *w, size_t group, size_t rollout)
{
    return (stm_random_key){
        .seed = w->seed, .use = STM_RANDOM_SHUFFLE, .slot = (uint32_t)group, .rollout = (uint32_t)rollout};
}

stm_status stm_workload_ids(size_t number, size_t n, int32_t **ids)
{
    enum { MOST = 0x3fffffff };
    STM_TRY(stm_alloc(n, sizeof **ids, ids));
    for (size_t i = 0; i < n; i++)
        (*ids)[i] = (int32_t)((number * 7919 + i) % MOST);
    return STM_OK;
}

size_t stm_workload_n_ids(const stm_workload *w)
{
    return 1 + w->n_groups * (1 + w->group_size);
}

/* Box and Muller 1958; a log-normal number of mean 1 and standard deviation `spread`. */
static double draw_scale(stm_random_key key, double spread)
{
    static const double two_pi = 6.283185307179586;
    const double variance = log1p(spread * spread);
    key.token = 1;
    const double radius = sqrt(-2 * log(1 - stm_random_uniform(&key)));
    key.token = 2;
    return exp(sqrt(variance) * radius * cos(two_pi * stm_random_uniform(&key)) - variance / 2);
}

size_t stm_workload_length(const stm_workload *w, size_t group, size_t rollout)
{
    const double n = round((double)w->n_answer * draw_scale(key_of(w, group, rollout), w->spread));
    return (size_t)fmin(fmax(n, 1), (double)w->most_answer);
}

stm_status stm_workload_add_response(size_t n, size_t number, stm_group *group)
{
    stm_response *r = &group->responses[group->n_responses++];
    *r = (stm_response){.n = n};
    STM_TRY(stm_workload_ids(number, n, &r->ids));
    STM_TRY(stm_alloc(n, 1, &r->mask));
    memset(r->mask, 1, n);
    return STM_OK;
}

static stm_status add_prompt(const stm_workload *w, size_t g, const stm_prompt *prompt, stm_group *group)
{
    group->temperature = 1;
    group->n_prompt = prompt ? prompt->n : w->n_prompt;
    if (!prompt)
        return stm_workload_ids(g + 1, w->n_prompt, &group->prompt);
    STM_TRY(stm_alloc(prompt->n, sizeof *group->prompt, &group->prompt));
    memcpy(group->prompt, prompt->ids, prompt->n * sizeof *group->prompt);
    return STM_OK;
}

stm_status stm_workload_draw(const stm_workload *w, const stm_prompts *prompts, bool shuffle, bool supervised,
                             stm_batch *batch)
{
    *batch = (stm_batch){0};
    STM_TRY(stm_alloc(w->n_groups, sizeof *batch->groups, &batch->groups));
    for (size_t g = 0; g < w->n_groups; g++) {
        stm_group *group = &batch->groups[batch->n_groups++];
        const stm_prompt *prompt = prompts ? &prompts->items[stm_prompt_at(prompts, w->seed, shuffle, g)] : NULL;
        STM_TRY(add_prompt(w, g, prompt, group));
        STM_TRY(stm_alloc(w->group_size, sizeof *group->responses, &group->responses));
        for (size_t i = 0; i < w->group_size; i++) {
            const bool given = supervised && prompt && prompt->has_response;
            const size_t n = given ? prompt->n_response : stm_workload_length(w, g, i);
            STM_TRY(stm_workload_add_response(n, 1 + w->n_groups + g * w->group_size + i, group));
        }
    }
    return STM_OK;
}

void stm_workload_means(const stm_batch *batch, double *n_prompt, double *n_answer)
{
    double n = 0, answers = 0;
    *n_prompt = 0;
    for (size_t g = 0; g < batch->n_groups; g++) {
        *n_prompt += (double)batch->groups[g].n_prompt / (double)batch->n_groups;
        for (size_t i = 0; i < batch->groups[g].n_responses; i++, n++)
            answers += (double)batch->groups[g].responses[i].n;
    }
    *n_answer = n > 0 ? answers / n : 0;
}
