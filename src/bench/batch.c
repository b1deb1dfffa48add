#include "bench/batch.h"

#include <string.h>

#include "base/random.h"

static stm_status draw_ids(stm_random_key key, size_t n, size_t vocab, int32_t **out)
{
    int32_t *ids;
    STM_TRY(stm_alloc(n, sizeof *ids, &ids));
    for (size_t i = 0; i < n; i++) {
        key.token = (uint32_t)i;
        ids[i] = (int32_t)(stm_random_uniform(&key) * (double)vocab);
    }
    *out = ids;
    return STM_OK;
}

static double reward_of(size_t response)
{
    return (double)(response % 2);
}

static stm_status make_group(const stm_bench_shape *shape, size_t vocab, stm_random_key key, stm_group *group)
{
    const size_t n_answer = (size_t)shape->n_answer;
    *group = (stm_group){.n_prompt = (size_t)shape->n_prompt, .temperature = 1};
    STM_TRY(draw_ids(key, group->n_prompt, vocab, &group->prompt));
    STM_TRY(stm_alloc((size_t)shape->group_size, sizeof *group->responses, &group->responses));
    for (; group->n_responses < (size_t)shape->group_size; group->n_responses++) {
        stm_response *r = &group->responses[group->n_responses];
        key.rollout = (uint32_t)group->n_responses + 1;
        STM_TRY(draw_ids(key, n_answer, vocab, &r->ids));
        STM_TRY(stm_alloc(n_answer, 1, &r->mask));
        memset(r->mask, 1, n_answer);
        r->n = n_answer;
        r->reward = reward_of(group->n_responses);
        r->has_reward = true;
    }
    return STM_OK;
}

stm_status stm_bench_random_batch(const stm_bench_shape *shape, size_t vocab, uint64_t seed, stm_batch *batch)
{
    *batch = (stm_batch){0};
    STM_TRY(stm_alloc((size_t)shape->n_groups, sizeof *batch->groups, &batch->groups));
    batch->n_groups = (size_t)shape->n_groups;
    for (size_t g = 0; g < batch->n_groups; g++) {
        const stm_random_key key = {.seed = seed, .use = STM_RANDOM_SHUFFLE, .slot = (uint32_t)g};
        STM_TRY(make_group(shape, vocab, key, &batch->groups[g]));
    }
    return STM_OK;
}

stm_bench_shape stm_bench_shape_of(stm_batch *batch)
{
    stm_bench_shape shape = {.n_groups = (double)batch->n_groups};
    double n_responses = 0;
    for (size_t g = 0; g < batch->n_groups; g++) {
        const stm_group *group = &batch->groups[g];
        shape.n_prompt += (double)group->n_prompt / shape.n_groups;
        shape.group_size += (double)group->n_responses / shape.n_groups;
        for (size_t i = 0; i < group->n_responses; i++) {
            stm_response *r = &group->responses[i];
            n_responses++;
            shape.n_answer += (double)r->n;
            r->reward = r->has_reward ? r->reward : reward_of(i);
            r->has_reward = true;
        }
    }
    shape.n_answer /= n_responses > 0 ? n_responses : 1;
    return shape;
}

size_t stm_bench_longest(const stm_batch *batch)
{
    size_t most = 0;
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++)
            most = STM_MAX(most, batch->groups[g].responses[i].n);
    return most;
}

size_t stm_bench_largest(const stm_batch *batch)
{
    size_t most = 0;
    for (size_t g = 0; g < batch->n_groups; g++)
        most = STM_MAX(most, batch->groups[g].n_responses);
    return most;
}
