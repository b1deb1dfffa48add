/* `stemma eval`: how good model.path, a folder or a checkpoint, is on eval.prompts (data.prompts where there are none).
 * It looks at no run folder. */
#include <stdio.h>

#include "cli/commands.h"
#include "cli/session.h"
#include "group/memory.h"
#include "train/evaluate.h"
#include "train/expect.h"

static stm_status open_all(const stm_options *options, stm_session *s, stm_prompt_set *set)
{
    STM_TRY(stm_session_open(options, options->model.path, NULL, s));
    if (s->idle)
        return STM_OK;
    STM_TRY(stm_prompt_set_read_eval(s->comm, options, s->model, &s->text, set));
    STM_TRY(stm_session_grid(s, options, STM_MIN((size_t)options->rollout.prompts_per_step, set->prompts.n)));
    return stm_session_engine(s, options);
}

static void print_evaluation(const stm_prompt_set *set, const stm_evaluation *e)
{
    printf("%s: %zu prompts, %zu sample%s each\n", set->path, e->n_prompts, e->n_samples, e->n_samples == 1 ? "" : "s");
    if (e->n_failed > 0)
        printf("%zu prompts could not be judged and are left out: %s\n", e->n_failed, e->complaint);
    printf("mean reward %.6f\n", e->mean_reward);
    printf("mean length %.1f tokens, %.1f%% ran out of length\n", e->mean_tokens, 100 * e->truncated_share);
    for (size_t k = 1; k < e->n_samples; k *= 2)
        printf("pass@%zu %.6f\n", k, stm_evaluation_pass_at(e, k));
    printf("pass@%zu %.6f\n", e->n_samples, stm_evaluation_pass_at(e, e->n_samples));
}

/* What it samples with, beside the session. */
typedef struct {
    stm_environment *environment;
    stm_budgets *budgets;
} manner;

static stm_status open_manner(const stm_options *options, const stm_session *s, manner *m)
{
    STM_TRY(stm_agree(&s->grid, stm_environment_create(options, &s->text, &m->environment)));
    return stm_agree(&s->grid, stm_budgets_create(options, &s->text, &m->budgets));
}

static stm_policy policy_of(const stm_options *options, const stm_session *s, const manner *m)
{
    return (stm_policy){.options = options,
                        .model = s->model,
                        .tokenizer = s->tokenizer,
                        .text = &s->text,
                        .grid = &s->grid,
                        .engine = s->engine,
                        .environment = m->environment,
                        .budgets = m->budgets};
}

/* For the memory that is planned. */
static stm_status expect(const stm_policy *policy, const stm_session *s, const stm_prompt_set *set)
{
    do
        STM_TRY(stm_expect_evaluation(policy, &set->prompts));
    while (stm_memory_spare(s->engine, &s->grid, policy->options));
    return stm_memory_check(s->engine, &s->grid, policy->options);
}

static stm_status evaluate(const stm_policy *policy, const stm_session *s, const stm_prompt_set *set)
{
    const stm_options *options = policy->options;
    stm_reward_set *rewards = NULL;
    stm_evaluation evaluation = {0};
    stm_status status;
    STM_GOTO_OUT(stm_agree(&s->grid, stm_reward_set_create(options->reward.items, options->reward.n, &rewards)));
    status = stm_evaluate(policy, rewards, set, 0, NULL, &evaluation);
    if (status == STM_OK && evaluation.n_failed == set->prompts.n)
        status = stm_agree(&s->grid, s->grid.rank == 0 ? stm_fail(STM_ERR_NUMERIC, "no prompt could be judged: %s",
                                                                  evaluation.complaint)
                                                       : STM_OK);
    if (status == STM_OK && s->grid.rank == 0)
        print_evaluation(set, &evaluation);
out:
    stm_evaluation_clear(&evaluation);
    stm_reward_set_destroy(rewards);
    return status;
}

stm_status stm_cli_eval(const stm_options *options)
{
    stm_session session = {0};
    stm_prompt_set set = {0};
    manner m = {0};
    stm_status status = open_all(options, &session, &set);
    if (status == STM_OK && !session.idle)
        status = open_manner(options, &session, &m);
    const stm_policy policy = policy_of(options, &session, &m);
    if (status == STM_OK && !session.idle)
        status = expect(&policy, &session, &set);
    const bool works = status == STM_OK && !session.idle;
    if (works && options->check)
        stm_session_print_layout(&session);
    else if (works)
        status = evaluate(&policy, &session, &set);
    stm_environment_destroy(m.environment);
    stm_budgets_destroy(m.budgets);
    stm_prompt_set_clear(&set);
    stm_session_close(&session);
    return status;
}
