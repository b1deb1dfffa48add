/* Policy mirror descent as a regression: PMD-mean, arXiv:2602.05933. Lambda_i = sum of (logp - old) over the tokens of
 * response i:
 *
 *   L = sum_i (r_i - mean r - tau Lambda_i)^2 / (2 tau n_responses) */
#include "objective/registry.h"

static unsigned needs(const stm_objective_options *o)
{
    (void)o;
    return STM_NEEDS_REWARDS;
}

static void prepare(stm_objective_batch *b)
{
    const stm_objective_options mean = {.advantage_baseline = STM_BASELINE_MEAN, .advantage_scale = STM_SCALE_NONE};
    for (size_t g = 0; g < b->batch->n_groups; g++) {
        const stm_group *group = &b->batch->groups[g];
        for (size_t i = 0; i < group->n_responses; i++)
            b->work[i] = group->responses[i].reward;
        stm_center_and_scale(&mean, group->n_responses, b->work, b->advantages + b->response_0[g]);
    }
}

static void tokens(const stm_objective_options *o, const stm_totals *totals, const stm_tokens *t,
                   stm_objective_sums *sums)
{
    const double n = (double)totals->n_responses;
    double lambda = 0;
    for (size_t k = 0; k < t->n; k++)
        lambda += t->mask[k] ? stm_log_ratio(t, k) : 0.0;
    const double miss = *t->advantages - o->tau * lambda;
    sums->loss += miss * miss / (2 * o->tau * n);
    for (size_t k = 0; k < t->n; k++)
        if (t->mask[k]) {
            t->dlogp[k] -= miss / n;
            stm_objective_observe(t, k, sums);
        }
}

const stm_objective stm_objective_mdpo_regression = {
    .name = "mdpo_regression",
    .summary = "mirror descent as a regression: log-ratio of a response times tau towards its centred reward",
    .reads = STM_KEYS("tau"),
    .needs_rewards = true,
    .needs = needs,
    .scope = STM_SCOPE_RESPONSE,
    .work_per_response = 1,
    .prepare = prepare,
    .tokens = tokens,
};
