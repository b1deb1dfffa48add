#include "train/evaluate.h"

#include <stdlib.h>
#include <string.h>

#include "rollout/rollout.h"
#include "train/batch.h"

/* 1 - prod (1 - k / i) over i in n-c+1 .. n: no factorial, no cancellation. */
double stm_pass_at_k(size_t n, size_t c, size_t k)
{
    if (n - c < k)
        return 1.0;
    double none = 1.0;
    for (size_t i = n - c + 1; i <= n; i++)
        none *= 1.0 - (double)k / (double)i;
    return 1.0 - none;
}

void stm_evaluation_clear(stm_evaluation *evaluation)
{
    free(evaluation->n_passed);
    *evaluation = (stm_evaluation){0};
}

double stm_evaluation_pass_at(const stm_evaluation *e, size_t k)
{
    double sum = 0;
    for (size_t i = 0; i < e->n_prompts; i++)
        if (e->n_passed[i] != STM_NOT_JUDGED)
            sum += stm_pass_at_k(e->n_samples, e->n_passed[i], k);
    return sum / (double)(e->n_prompts - e->n_failed);
}

/* Adds a batch that begins at prompt `first`; means are sums until the end. */
static void count(stm_evaluation *e, size_t first, const stm_batch *batch, const stm_verdicts *verdicts)
{
    size_t at = 0;
    for (size_t g = 0; g < batch->n_groups; g++) {
        const bool judged = stm_group_is_judged(&batch->groups[g]);
        for (size_t i = 0; i < batch->groups[g].n_responses; i++, at++) {
            const stm_response *response = &batch->groups[g].responses[i];
            e->n_passed[first + g] += verdicts->parts[at * verdicts->n_rewards] > 0.5;
            e->mean_reward += judged ? verdicts->total[at] : 0.0;
            e->truncated_share += response->finish == STM_FINISH_LENGTH;
            e->mean_tokens += (double)response->n;
        }
        if (!judged)
            e->n_passed[first + g] = STM_NOT_JUDGED;
    }
    if (e->n_failed == 0)
        memcpy(e->complaint, verdicts->complaint, sizeof e->complaint);
    e->n_failed += verdicts->n_failed;
}

static stm_status roll_out(const stm_policy *p, const stm_sampling *sampling, stm_batch *batch, stm_batch *cuts)
{
    stm_rollout_counts counts;
    return p->budgets ? stm_budgets_roll_out(p->budgets, p->engine, p->model, p->grid, sampling, batch, cuts, &counts)
                      : stm_rollout(p->engine, p->model, p->grid, sampling, batch, &counts);
}

/* Prompts which[0..n), of which the first is number `first` of the set. */
static stm_status evaluate_batch(const stm_policy *policy, stm_reward_set *rewards, const stm_prompt_set *set,
                                 const size_t *which, size_t n, const stm_sampling *sampling, size_t n_lines,
                                 stm_string *lines, stm_evaluation *e)
{
    stm_batch batch = {0}, cuts = {0};
    stm_verdicts verdicts = {0};
    stm_status status;
    STM_GOTO_OUT(stm_agree(policy->grid, stm_batch_of_prompts(&set->prompts, which, n, &batch)));
    STM_GOTO_OUT(roll_out(policy, sampling, &batch, &cuts));
    if (stm_watch_leaves(policy->watch))
        goto out;
    STM_GOTO_OUT(policy->budgets ? stm_judge_cuts(policy, rewards, set, which, &batch, &cuts, false, &verdicts)
                                 : stm_judge(policy, rewards, set, which, &batch, false, &verdicts));
    if (stm_watch_leaves(policy->watch))
        goto out;
    count(e, which[0], &batch, &verdicts);
    if (lines && which[0] < n_lines)
        STM_GOTO_OUT(stm_agree(policy->grid, policy->grid->rank == 0 ? stm_verdicts_write(&verdicts, set, which, &batch,
                                                                                          n_lines - which[0], lines)
                                                                     : STM_OK));
out:
    stm_verdicts_clear(&verdicts);
    stm_batch_clear(&cuts);
    stm_batch_clear(&batch);
    return status;
}

static stm_status evaluate_all(const stm_policy *policy, stm_reward_set *rewards, const stm_prompt_set *set,
                               size_t *which, size_t n_lines, stm_string *lines, stm_evaluation *e)
{
    const stm_options *options = policy->options;
    const size_t batch_n = (size_t)options->rollout.prompts_per_step;
    stm_sampling sampling;
    for (size_t first = 0; first < e->n_prompts && !stm_watch_leaves(policy->watch); first += batch_n) {
        const size_t n = STM_MIN(batch_n, e->n_prompts - first);
        for (size_t i = 0; i < n; i++)
            which[i] = first + i;
        stm_sampling_init(options, policy->model, policy->tokenizer, STM_RANDOM_EVAL, first / batch_n, &sampling);
        sampling.group_size = e->n_samples;
        sampling.watch = policy->watch;
        sampling.temperature = options->eval.temperature;
        stm_environment_join(policy->environment, &set->prompts, which, &sampling);
        STM_TRY(evaluate_batch(policy, rewards, set, which, n, &sampling, n_lines, lines, e));
    }
    return STM_OK;
}

stm_status stm_evaluate(const stm_policy *policy, stm_reward_set *rewards, const stm_prompt_set *set, size_t n_lines,
                        stm_string *lines, stm_evaluation *e)
{
    size_t *which = NULL;
    *e = (stm_evaluation){.n_prompts = set->prompts.n, .n_samples = (size_t)policy->options->eval.samples};
    stm_status status = stm_alloc(e->n_prompts, sizeof *e->n_passed, &e->n_passed);
    if (status == STM_OK)
        status = stm_alloc((size_t)policy->options->rollout.prompts_per_step, sizeof *which, &which);
    status = stm_agree(policy->grid, status);
    if (status == STM_OK)
        status = evaluate_all(policy, rewards, set, which, n_lines, lines, e);
    free(which);
    const double n_responses = (double)(e->n_prompts * e->n_samples);
    e->mean_reward /= (double)((e->n_prompts - e->n_failed) * e->n_samples);
    e->truncated_share /= n_responses;
    e->mean_tokens /= n_responses;
    return status;
}
