/* Rewards of thinking that was cut (train/budgets.h): the summaries below the cuts are judged, and the batch becomes
 * one of thinking and summaries. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/judge.h"

/* Prompts of the cuts, which come group by group. */
static stm_status list_prompts(const size_t *which, const stm_batch *batch, const stm_batch *cuts, size_t **of_cut)
{
    const size_t each = cuts->n_groups / batch->n_groups;
    STM_TRY(stm_alloc(cuts->n_groups, sizeof **of_cut, of_cut));
    for (size_t c = 0; c < cuts->n_groups; c++)
        (*of_cut)[c] = which[c / each];
    return STM_OK;
}

/* Number `at` of the joined batch, with what was said of n responses from `from` on: one, or all below its thinking. */
static void take_verdict(const stm_verdicts *of_cuts, size_t from, size_t n, double reward, size_t at, stm_verdicts *v)
{
    v->total[at] = reward;
    for (size_t k = 0; k < v->n_rewards; k++) {
        double *part = &v->parts[at * v->n_rewards + k];
        for (size_t i = 0; i < n; i++)
            *part += of_cuts->parts[(from + i) * v->n_rewards + k] / (double)n;
    }
}

/* each: summaries of a member; with_thinking: which stands before them. */
static void take_verdicts(const stm_verdicts *of_cuts, size_t each, bool with_thinking, const stm_batch *joined,
                          stm_verdicts *v)
{
    size_t at = 0, from = 0;
    for (size_t g = 0; g < joined->n_groups; g++) {
        const stm_group *group = &joined->groups[g];
        for (size_t i = 0; i < group->n_responses; i++, at++) {
            const stm_response *r = &group->responses[i];
            const bool thinks = with_thinking && i % (each + 1) == 0;
            take_verdict(of_cuts, from, thinks ? each : 1, r->has_reward ? r->reward : NAN, at, v);
            from += !thinks;
        }
        v->n_failed += !stm_group_is_judged(group);
    }
    memcpy(v->complaint, of_cuts->complaint, sizeof v->complaint);
}

static stm_status make_texts(const stm_policy *policy, const stm_batch *joined, stm_verdicts *v)
{
    size_t at = 0;
    STM_TRY(stm_alloc(v->n, sizeof *v->texts, &v->texts));
    for (size_t g = 0; g < joined->n_groups; g++)
        for (size_t i = 0; i < joined->groups[g].n_responses; i++, at++)
            STM_TRY(stm_verdicts_text(policy, &joined->groups[g].responses[i], &v->texts[at]));
    return STM_OK;
}

static stm_status join(const stm_policy *policy, bool practice, const stm_batch *cuts, const stm_verdicts *of_cuts,
                       stm_batch *batch, stm_verdicts *v)
{
    const size_t each = of_cuts->n / (batch->n_groups * batch->groups[0].n_responses);
    STM_TRY(stm_budgets_join(policy->budgets, practice, cuts, batch));
    *v = (stm_verdicts){.n_rewards = of_cuts->n_rewards};
    for (size_t g = 0; g < batch->n_groups; g++)
        v->n += batch->groups[g].n_responses;
    STM_TRY(stm_alloc(v->n, sizeof *v->total, &v->total));
    STM_TRY(stm_alloc(v->n * v->n_rewards, sizeof *v->parts, &v->parts));
    take_verdicts(of_cuts, each, practice, batch, v);
    return policy->grid->rank == 0 ? make_texts(policy, batch, v) : STM_OK;
}

stm_status stm_judge_cuts(const stm_policy *policy, stm_reward_set *rewards, const stm_prompt_set *set,
                          const size_t *which, stm_batch *batch, stm_batch *cuts, bool practice, stm_verdicts *v)
{
    stm_verdicts of_cuts = {0};
    size_t *of_cut = NULL;
    stm_status status;
    STM_GOTO_OUT(stm_agree(policy->grid, list_prompts(which, batch, cuts, &of_cut)));
    STM_GOTO_OUT(stm_judge(policy, rewards, set, of_cut, cuts, practice, &of_cuts));
    status = stm_agree(policy->grid, join(policy, practice, cuts, &of_cuts, batch, v));
out:
    stm_verdicts_clear(&of_cuts);
    free(of_cut);
    return status;
}
