/* The memory of a run, before it starts: its first step, were all responses of full length. */
#include <stdlib.h>
#include <string.h>

#include "group/memory.h"
#include "group/token_weights.h"
#include "rollout/rollout.h"
#include "train/batch.h"
#include "train/expect.h"
#include "train/others.h"
#include "train/refine.h"
#include "train/trainer_state.h"

/* Tokens that no two responses have in one place: nothing of them is shared. */
static stm_status add_response(size_t n, size_t number, stm_group *group)
{
    stm_response *r = &group->responses[group->n_responses++];
    r->n = n;
    STM_TRY(stm_alloc(n, sizeof *r->ids, &r->ids));
    STM_TRY(stm_alloc(n, 1, &r->mask));
    memset(r->mask, 1, n);
    stm_unlike_tokens(number, n, r->ids);
    return STM_OK;
}

static stm_status add_responses(size_t group_size, size_t n_tokens, stm_batch *batch)
{
    for (size_t g = 0; g < batch->n_groups; g++) {
        stm_group *group = &batch->groups[g];
        group->temperature = 1;
        STM_TRY(stm_alloc(group_size, sizeof *group->responses, &group->responses));
        for (size_t i = 0; i < group_size; i++)
            STM_TRY(add_response(n_tokens, 1 + g * group_size + i, group));
    }
    return STM_OK;
}

/* Of thinking that is cut: the batch has its longest responses afterwards. */
static stm_status expect_budgets(const stm_policy *p, const stm_sampling *sampling, stm_batch *batch)
{
    stm_batch cuts = {0};
    stm_status status = stm_budgets_expect(p->budgets, p->engine, p->model, p->grid, sampling, batch, &cuts);
    if (status == STM_OK)
        status = stm_agree(p->grid, stm_budgets_join(p->budgets, sampling->use == STM_RANDOM_TRAIN, &cuts, batch));
    stm_batch_clear(&cuts);
    return status;
}

static stm_status expect_rollouts(const stm_policy *p, stm_random_use use, size_t group_size, stm_batch *batch)
{
    stm_sampling sampling;
    stm_sampling_init(p->options, p->model, p->tokenizer, use, 0, &sampling);
    sampling.group_size = group_size;
    return p->budgets ? expect_budgets(p, &sampling, batch)
                      : stm_rollout_expect(p->engine, p->model, p->grid, &sampling, batch);
}

/* Of responses that two models sample. */
static stm_status expect_mixture(const stm_policy *p, stm_batch *batch)
{
    static const stm_mixture both = {0};
    stm_sampling sampling;
    stm_sampling_init(p->options, p->model, p->tokenizer, STM_RANDOM_OTHERS, 0, &sampling);
    sampling.group_size = (size_t)p->options->reference.samples;
    sampling.mixture = &both;
    return stm_rollout_expect(p->engine, p->model, p->grid, &sampling, batch);
}

/* Below first answers, which the batch need not have. */
static stm_status expect_refinements(const stm_policy *p, size_t n_first, const stm_batch *batch)
{
    stm_sampling sampling;
    stm_sampling_init(p->options, p->model, p->tokenizer, STM_RANDOM_TRAIN, 0, &sampling);
    sampling.group_size = n_first;
    return stm_refine_expect(p, &sampling, batch);
}

stm_status stm_expect_rollouts(const stm_policy *policy, stm_batch *batch)
{
    const stm_options *o = policy->options;
    const size_t size = (size_t)o->rollout.group_size;
    const size_t aside = (size_t)o->rollout.refine + (size_t)o->reference.samples; /* sampled after the others */
    const size_t n_first = size > aside ? size - aside : 1;
    STM_TRY(expect_rollouts(policy, STM_RANDOM_TRAIN, n_first, batch));
    if (stm_others_mix(o))
        STM_TRY(expect_mixture(policy, batch));
    else if (o->reference.samples > 0)
        STM_TRY(expect_rollouts(policy, STM_RANDOM_OTHERS, (size_t)o->reference.samples, batch));
    return o->rollout.refine ? expect_refinements(policy, n_first, batch) : STM_OK;
}

stm_status stm_expect_updates(const stm_policy *policy, const stm_batch *batch)
{
    const stm_options *o = policy->options;
    const size_t asked = (size_t)o->update.minibatch_groups;
    const stm_objective *objective = stm_objective_find(o->objective.name);
    const stm_batch first = stm_batch_slice(batch, 0, asked > 0 ? STM_MIN(asked, batch->n_groups) : batch->n_groups);
    if (stm_objective_has_reference(&o->objective) || stm_copies_n_scores(o) > 0)
        STM_TRY(stm_engine_expect(policy->engine, batch, STM_PASS_SCORE));
    if (stm_objective_scope(objective, &o->objective) != STM_SCOPE_TOKEN) /* f-DPG's where ranks share a response */
        STM_TRY(stm_engine_expect(policy->engine, &first, STM_PASS_SCORE));
    if (stm_objective_weighs_tokens(objective, &o->objective))
        STM_TRY(stm_token_weights_expect(policy->engine, policy->grid, &first));
    return stm_engine_expect(policy->engine, &first, STM_PASS_GRADIENT);
}

stm_status stm_expect_evaluation(const stm_policy *policy, const stm_prompts *prompts)
{
    const size_t n = STM_MIN((size_t)policy->options->rollout.prompts_per_step, prompts->n);
    stm_batch batch = {0};
    size_t *which;
    stm_status status = stm_alloc(n, sizeof *which, &which);
    for (size_t i = 0; status == STM_OK && i < n; i++)
        which[i] = i;
    if (status == STM_OK)
        status = stm_batch_of_prompts(prompts, which, n, &batch);
    status = stm_agree(policy->grid, status);
    if (status == STM_OK)
        status = expect_rollouts(policy, STM_RANDOM_EVAL, (size_t)policy->options->eval.samples, &batch);
    stm_batch_clear(&batch);
    free(which);
    return status;
}

static stm_status make_batch(const stm_trainer *t, const size_t *which, size_t n, stm_batch *batch)
{
    static const stm_thought_dropout none = {0};
    size_t n_dropped;
    if (t->recorded)
        return stm_batch_of_groups(&t->train->groups, which, n, batch);
    return t->supervised ? stm_batch_of_demonstrations(&t->train->prompts, which, n, &none, batch, &n_dropped)
                         : stm_batch_of_prompts(&t->train->prompts, which, n, batch);
}

static stm_status expect_step(stm_trainer *t, const size_t *which, size_t n)
{
    const stm_options *o = t->options;
    stm_batch batch = {0};
    stm_status status = stm_agree(t->policy.grid, make_batch(t, which, n, &batch));
    if (status == STM_OK && !t->supervised) {
        STM_GOTO_OUT(stm_expect_rollouts(&t->policy, &batch));
        if (!t->policy.budgets)
            STM_GOTO_OUT(stm_agree(t->policy.grid,
                                   add_responses((size_t)o->rollout.group_size, stm_sampling_longest(o), &batch)));
    }
    if (status == STM_OK)
        status = stm_agree(t->policy.grid, stm_expect_updates(&t->policy, &batch));
out:
    stm_batch_clear(&batch);
    return status;
}

/* Of the first step of all, also where a run goes on later: what is chosen by it must not change between starts. */
stm_status stm_trainer_expect(stm_trainer *t)
{
    const stm_options *o = t->options;
    const stm_policy *policy = &t->policy;
    const size_t n = (size_t)o->rollout.prompts_per_step;
    size_t *which;
    stm_status status;
    STM_TRY(stm_agree(policy->grid, stm_alloc(n, sizeof *which, &which)));
    for (size_t i = 0; i < n; i++)
        which[i] = stm_prompt_at(&t->train->prompts, (uint64_t)o->run.seed, o->data.shuffle, i);
    do
        status = expect_step(t, which, n);
    while (status == STM_OK && stm_memory_spare(policy->engine, policy->grid, o));
    free(which);
    if (status == STM_OK && t->eval)
        status = stm_expect_evaluation(policy, &t->eval->prompts);
    return status == STM_OK ? stm_memory_check(policy->engine, policy->grid, o) : status;
}
