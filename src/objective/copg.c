/* Contrastive policy gradient: CoPG, arXiv:2406.19185. lambda_i = sum of (logp - ref) over the tokens of response i,
 * beta = kl_coef:
 *
 *   L = -(2 / (G (G-1) n_groups)) sum_{i<j} ((r_i - r_j) (lambda_i - lambda_j) - beta/2 (lambda_i - lambda_j)^2)
 *
 * A sum over pairs of products of differences is G times the sum of products of what is centred, so no pair is formed;
 * with S = r - beta lambda, dL/dlogp = -(2 / (G n_groups)) (S_i - mean of the other S). A group of one gives 0. */
#include "objective/registry.h"

static unsigned needs(const stm_objective_options *o)
{
    return STM_NEEDS_REWARDS | (o->kl_coef > 0 ? STM_NEEDS_REFERENCE : 0);
}

static double sum_of(const stm_tokens *t)
{
    double sum = 0;
    for (size_t k = 0; k < t->n; k++)
        sum += t->mask[k] ? t->logp[k] - (t->ref ? t->ref[k] : 0.0) : 0.0;
    return sum;
}

static void group(const stm_objective_options *o, const stm_totals *totals, const stm_group *group,
                  const stm_tokens *views, double *lambda, stm_objective_sums *sums)
{
    const double n = (double)group->n_responses, n_groups = (double)totals->n_groups;
    double reward_mean = 0, lambda_mean = 0;
    for (size_t i = 0; i < group->n_responses; i++) {
        lambda[i] = sum_of(&views[i]);
        reward_mean += group->responses[i].reward / n;
        lambda_mean += lambda[i] / n;
    }
    const double weight = n > 1 ? 2.0 / ((n - 1) * n_groups) : 0.0;
    for (size_t i = 0; i < group->n_responses; i++) {
        const double r = group->responses[i].reward - reward_mean, l = lambda[i] - lambda_mean;
        sums->loss -= weight * (r - 0.5 * o->kl_coef * l) * l;
        for (size_t k = 0; k < views[i].n; k++)
            if (views[i].mask[k]) {
                views[i].dlogp[k] -= weight * (r - o->kl_coef * l);
                stm_objective_observe(&views[i], k, sums);
            }
    }
}

const stm_objective stm_objective_copg = {
    .name = "copg",
    .summary = "contrastive policy gradient: pairs of a group, on data of any policy, with kl_coef to the reference",
    .reads = STM_KEYS(STM_READS_KL),
    .needs_rewards = true,
    .needs = needs,
    .scope = STM_SCOPE_GROUP,
    .work_per_response = 1,
    .group = group,
};
