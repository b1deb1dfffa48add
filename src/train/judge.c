#include "train/judge.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/groups_file.h"

void stm_verdicts_clear(stm_verdicts *verdicts)
{
    for (size_t i = 0; verdicts->texts && i < verdicts->n; i++)
        free(verdicts->texts[i]);
    for (size_t i = 0; verdicts->critiques && i < verdicts->n; i++)
        free(verdicts->critiques[i]);
    free(verdicts->texts);
    free(verdicts->critiques);
    free(verdicts->total);
    free(verdicts->parts);
    *verdicts = (stm_verdicts){0};
}

static size_t count_responses(const stm_batch *batch)
{
    size_t n = 0;
    for (size_t g = 0; g < batch->n_groups; g++)
        n += batch->groups[g].n_responses;
    return n;
}

stm_status stm_verdicts_text(const stm_policy *policy, const stm_response *response, char **text)
{
    free(*text);
    *text = NULL;
    if (!policy->tokenizer)
        return stm_format(text, "%s", "");
    return stm_tokenizer_decode(policy->tokenizer, response->ids, response->n, true, text, NULL);
}

/* Those that were sampled. */
static size_t count_tokens(const stm_response *response)
{
    size_t n = 0;
    for (size_t k = 0; k < response->n; k++)
        n += response->mask[k];
    return n;
}

static stm_status make_inputs(const stm_policy *policy, const stm_prompt_set *set, const size_t *which,
                              const stm_batch *batch, bool practice, stm_verdicts *v, stm_reward_input *inputs)
{
    size_t at = 0;
    for (size_t g = 0; g < batch->n_groups; g++) {
        const stm_prompt *prompt = &set->prompts.items[which[g]];
        for (size_t i = 0; i < batch->groups[g].n_responses; i++, at++) {
            const stm_response *response = &batch->groups[g].responses[i];
            STM_TRY(stm_verdicts_text(policy, response, &v->texts[at]));
            inputs[at] = (stm_reward_input){.prompt_text = prompt->prompt_text,
                                            .text = v->texts[at],
                                            .critique = v->critiques ? &v->critiques[at] : NULL,
                                            .n_tokens = count_tokens(response),
                                            .group = g,
                                            .practice = practice,
                                            .truncated = response->finish == STM_FINISH_LENGTH,
                                            .answer = prompt->answer,
                                            .fields_json = prompt->fields_json,
                                            .environment_reward =
                                                response->outcome.has_reward ? &response->outcome.reward : NULL};
        }
    }
    return STM_OK;
}

/* Whose environment failed has no reward, whatever a reward made of the text so far. */
static void take_failed(const stm_batch *batch, stm_verdicts *v)
{
    size_t at = 0;
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++, at++)
            if (batch->groups[g].responses[i].outcome.failed)
                v->total[at] = NAN;
}

/* The first response without a reward, with the words of the environment, or else of the reward, which are the stored
 * message. */
static void note_complaint(const stm_policy *policy, const stm_prompt_set *set, const size_t *which,
                           const stm_batch *batch, stm_verdicts *v)
{
    size_t at = 0;
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++, at++)
            if (!isfinite(v->total[at])) {
                snprintf(v->complaint, sizeof v->complaint, "%s:%zu: response %zu: %s", set->path,
                         set->prompts.items[which[g]].line, i,
                         batch->groups[g].responses[i].outcome.failed ? stm_environment_complaint(policy->environment)
                                                                      : stm_failure());
                return;
            }
}

/* Elements of the tables of stm_reward_set_preferences. */
static size_t count_preferences(const stm_batch *batch)
{
    size_t n = 0;
    for (size_t g = 0; g < batch->n_groups; g++)
        n += batch->groups[g].n_responses * batch->groups[g].n_responses;
    return n;
}

/* The tables to every rank's groups. What could not be told is 1/2: such a group is left out anyway, or another reward
 * judges it. Collective over the world. */
static stm_status hand_out_preferences(const stm_grid *grid, const stm_reward_set *rewards, stm_batch *batch)
{
    const double *told = stm_reward_set_preferences(rewards); /* of rank 0 */
    double compares = told != NULL, *all = NULL;
    stm_broadcast(grid->world, 0, &compares, sizeof compares);
    if (compares == 0.0)
        return STM_OK;
    const size_t n = count_preferences(batch);
    stm_status status = stm_agree(grid, stm_alloc(n, sizeof *all, &all));
    if (status == STM_OK && grid->rank == 0)
        for (size_t i = 0; i < n; i++)
            all[i] = isfinite(told[i]) ? told[i] : 0.5;
    if (status == STM_OK)
        stm_broadcast(grid->world, 0, all, n * sizeof *all);
    const double *at = all;
    for (size_t g = 0; status == STM_OK && g < batch->n_groups; g++) {
        stm_group *group = &batch->groups[g];
        const size_t n_pairs = group->n_responses * group->n_responses;
        free(group->preferences);
        group->preferences = NULL;
        status = stm_alloc(n_pairs, sizeof *at, &group->preferences);
        if (status == STM_OK && n_pairs > 0)
            memcpy(group->preferences, at, n_pairs * sizeof *at);
        at += n_pairs;
    }
    free(all);
    return stm_agree(grid, status);
}

static stm_status judge_here(const stm_policy *policy, stm_reward_set *rewards, const stm_prompt_set *set,
                             const size_t *which, const stm_batch *batch, bool practice, stm_verdicts *v)
{
    stm_reward_input *inputs;
    STM_TRY(stm_alloc(v->n, sizeof *v->texts, &v->texts));
    if (policy->options->rollout.refine)
        STM_TRY(stm_alloc(v->n, sizeof *v->critiques, &v->critiques));
    STM_TRY(stm_alloc(v->n, sizeof *inputs, &inputs));
    stm_status status = make_inputs(policy, set, which, batch, practice, v, inputs);
    if (status == STM_OK)
        status = stm_reward_set_run(rewards, v->n, inputs, v->total, v->parts);
    free(inputs);
    STM_TRY(status);
    take_failed(batch, v);
    note_complaint(policy, set, which, batch, v);
    return STM_OK;
}

bool stm_group_is_judged(const stm_group *group)
{
    bool all = true;
    for (size_t i = 0; i < group->n_responses; i++)
        all = all && group->responses[i].has_reward;
    return all;
}

/* What the objective may read beside the weighted sum. */
static stm_status note_parts(const double *parts, size_t n, stm_response *response)
{
    STM_TRY(stm_response_take_notes(response));
    STM_TRY(stm_alloc(n, sizeof *parts, &response->notes->reward_parts));
    memcpy(response->notes->reward_parts, parts, n * sizeof *parts);
    response->notes->n_parts = n;
    return STM_OK;
}

/* Each response gets its reward, and where the objective combines them the parts of it. */
static stm_status hand_out(stm_verdicts *v, bool with_parts, stm_batch *batch)
{
    size_t at = 0;
    for (size_t g = 0; g < batch->n_groups; g++) {
        stm_group *group = &batch->groups[g];
        for (size_t i = 0; i < group->n_responses; i++, at++) {
            group->responses[i].reward = v->total[at];
            group->responses[i].has_reward = isfinite(group->responses[i].reward);
            if (with_parts)
                STM_TRY(note_parts(v->parts + at * v->n_rewards, v->n_rewards, &group->responses[i]));
        }
        v->n_failed += !stm_group_is_judged(group);
    }
    return STM_OK;
}

stm_status stm_judge(const stm_policy *policy, stm_reward_set *rewards, const stm_prompt_set *set, const size_t *which,
                     stm_batch *batch, bool practice, stm_verdicts *v)
{
    const stm_grid *grid = policy->grid;
    *v = (stm_verdicts){.n = count_responses(batch), .n_rewards = policy->options->reward.n};
    stm_status status = stm_alloc(v->n, sizeof *v->total, &v->total);
    if (status == STM_OK)
        status = stm_alloc(v->n * v->n_rewards, sizeof *v->parts, &v->parts);
    if (status == STM_OK && grid->rank == 0)
        status = judge_here(policy, rewards, set, which, batch, practice, v);
    STM_TRY(stm_agree(grid, status));
    stm_watch_heed(policy->watch, grid->world);
    stm_broadcast(grid->world, 0, v->total, v->n * sizeof *v->total);
    stm_broadcast(grid->world, 0, v->parts, v->n * v->n_rewards * sizeof *v->parts);
    STM_TRY(hand_out_preferences(grid, rewards, batch));
    const stm_objective_options *o = &policy->options->objective;
    const bool with_parts = o->reward_combine == STM_REWARDS_NORMALIZE_THEN_SUM || o->reward_weights.n > 0;
    return stm_agree(grid, hand_out(v, with_parts, batch));
}

stm_status stm_verdicts_write(const stm_verdicts *v, const stm_prompt_set *set, const size_t *which,
                              const stm_batch *batch, size_t n, stm_string *out)
{
    size_t at = 0;
    for (size_t g = 0; g < STM_MIN(n, batch->n_groups); g++) {
        STM_TRY(stm_group_write(&batch->groups[g], set->prompts.items[which[g]].fields_json,
                                (const char *const *)(v->texts + at), out));
        at += batch->groups[g].n_responses;
    }
    return STM_OK;
}
