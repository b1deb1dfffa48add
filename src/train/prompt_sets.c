#include "train/prompt_sets.h"

#include <stdlib.h>
#include <string.h>

#include "mpi/grid.h"
#include "objective/objective.h"
#include "reward/reward.h"
#include "rollout/rollout.h"
#include "train/environment.h"
#include "train/recorded.h"
#include "train/refine.h"

void stm_prompt_set_clear(stm_prompt_set *set)
{
    stm_prompts_clear(&set->prompts);
    stm_batch_clear(&set->groups);
    *set = (stm_prompt_set){0};
}

bool stm_is_supervised(const stm_options *options)
{
    return !stm_objective_find(options->objective.name)->needs_rewards;
}

/* The token that ends a demonstration: what a sampled response would end with. Chat models name it in
 * tokenizer_config.json, beside further end ids in their configuration. */
static int32_t end_token(const stm_options *options, const stm_model *model, const stm_text_context *text)
{
    if (options->rollout.ignore_eos)
        return -1;
    const int32_t named = text->tokenizer ? stm_tokenizer_eos(text->tokenizer) : -1;
    if (named >= 0)
        return named;
    return model->config.n_eos > 0 ? model->config.eos[0] : -1;
}

/* Rewards judge text, all but those of the number of tokens. */
static stm_status check_rewards_have_text(const stm_options *options, const stm_text_context *text)
{
    for (size_t i = 0; i < options->reward.n && !text->tokenizer; i++)
        if (strcmp(options->reward.items[i].name, "length") != 0 &&
            strcmp(options->reward.items[i].name, "overlong") != 0)
            return stm_fail(
                STM_ERR_INPUT,
                "reward[%zu].name: found %s, expected length or overlong: the model has no tokenizer.json, so that its "
                "responses have no text",
                i, options->reward.items[i].name);
    return STM_OK;
}

/* Each answer is one that the rewards can compare with. */
static stm_status check_answers(const stm_reward_set *rewards, const stm_prompt_set *set)
{
    for (size_t i = 0; i < set->prompts.n; i++) {
        const stm_prompt *prompt = &set->prompts.items[i];
        const stm_status status = stm_reward_set_check_prompt(rewards, prompt->answer, prompt->fields_json);
        if (status != STM_OK)
            return stm_fail_context(status, "%s:%zu", set->path, prompt->line);
    }
    return STM_OK;
}

typedef enum { FOR_ROLLOUTS, FOR_DEMONSTRATIONS } purpose;

static stm_status read_set(MPI_Comm comm, const stm_options *options, const stm_model *model,
                           const stm_text_context *text, const char *path, purpose what, stm_prompt_set *set)
{
    stm_prompts_use use = {.overlong = options->data.overlong,
                           .max_prompt_tokens = (size_t)options->data.max_prompt_tokens,
                           .max_new_tokens = stm_sampling_longest(options),
                           .has_environment = *options->rollout.environment,
                           .needs_response = what == FOR_DEMONSTRATIONS,
                           .end_token = end_token(options, model, text)};
    if (options->data.thought_dropout > 0) {
        use.thought_begin = options->data.thought_begin;
        use.thought_end = options->data.thought_end;
    }
    stm_reward_set *rewards = NULL;
    stm_status status;
    char *bytes;
    size_t n;
    set->path = path;
    set->present = true;
    if (what == FOR_ROLLOUTS) {
        STM_TRY(check_rewards_have_text(options, text));
        if (options->rollout.stop.n > 0 && !text->tokenizer)
            return stm_fail(STM_ERR_INPUT,
                            "rollout.stop: found %zu texts, expected none for a model without tokenizer.json",
                            options->rollout.stop.n);
        if (*options->objective.mask_after && !text->tokenizer)
            return stm_fail(STM_ERR_INPUT,
                            "objective.mask_after: found \"%s\", expected no text for a model without tokenizer.json",
                            options->objective.mask_after);
        STM_TRY(stm_environment_check(options, text));
        STM_TRY(stm_refine_check(options, text));
    }
    STM_TRY(stm_broadcast_file(comm, path, &bytes, &n));
    if (what == FOR_ROLLOUTS) {
        STM_GOTO_OUT(stm_reward_set_create(options->reward.items, options->reward.n, &rewards));
        use.needs_answer = stm_reward_set_needs_answer(rewards);
    }
    STM_GOTO_OUT(stm_prompts_read(path, bytes, n, text, &use, &set->prompts));
    if (rewards)
        STM_GOTO_OUT(check_answers(rewards, set));
out:
    stm_reward_set_destroy(rewards);
    free(bytes);
    return stm_agree_on(comm, status);
}

stm_status stm_prompt_sets_read(MPI_Comm comm, const stm_options *options, const stm_model *model,
                                const stm_text_context *text, stm_prompt_set *train, stm_prompt_set *eval)
{
    if (*options->data.groups)
        STM_TRY(stm_recorded_groups_read(comm, options, text, train));
    else
        STM_TRY(read_set(comm, options, model, text, options->data.prompts,
                         stm_is_supervised(options) ? FOR_DEMONSTRATIONS : FOR_ROLLOUTS, train));
    if (!*options->eval.prompts || options->eval.every == 0)
        return STM_OK;
    if (options->reward.n == 0)
        return stm_fail(STM_ERR_INPUT, "reward: found an empty list, expected at least one reward, by which "
                                       "eval.prompts is judged (eval.every=0: no evaluation)");
    return read_set(comm, options, model, text, options->eval.prompts, FOR_ROLLOUTS, eval);
}

stm_status stm_prompt_set_read_eval(MPI_Comm comm, const stm_options *options, const stm_model *model,
                                    const stm_text_context *text, stm_prompt_set *eval)
{
    return read_set(comm, options, model, text, *options->eval.prompts ? options->eval.prompts : options->data.prompts,
                    FOR_ROLLOUTS, eval);
}
