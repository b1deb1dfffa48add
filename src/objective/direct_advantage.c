/* Direct advantage policy optimisation, offline: arXiv:2412.18279. Responses are cut into steps k with advantages a_k
 * of a critic; Lambda_k = sum of (logp - old) over the step's tokens:
 *
 *   L = (1 / n_steps) sum_k (a_k / beta - Lambda_k)^2 / 2 */
#include "objective/preference.h"

static unsigned needs(const stm_objective_options *o)
{
    (void)o;
    return STM_NEEDS_STEPS;
}

static void prepare(stm_objective_batch *b)
{
    for (size_t g = 0; g < b->batch->n_groups; g++)
        for (size_t i = 0; i < b->batch->groups[g].n_responses; i++)
            b->totals.n_steps += b->batch->groups[g].responses[i].notes->n_steps;
}

static void tokens(const stm_objective_options *o, const stm_totals *totals, const stm_tokens *t,
                   stm_objective_sums *sums)
{
    const stm_response_notes *notes = t->response->notes;
    const double n = (double)totals->n_steps;
    for (size_t s = 0; s < notes->n_steps; s++) {
        double lambda = 0;
        for (size_t k = 0; k < t->n; k++)
            lambda += t->mask[k] && notes->step[k] == (int64_t)s ? stm_log_ratio(t, k) : 0.0;
        const double miss = notes->step_advantages[s] / o->beta - lambda;
        sums->loss += 0.5 * miss * miss / n;
        for (size_t k = 0; k < t->n; k++)
            if (t->mask[k] && notes->step[k] == (int64_t)s)
                t->dlogp[k] -= miss / n;
    }
    for (size_t k = 0; k < t->n; k++)
        if (t->mask[k])
            stm_objective_observe(t, k, sums);
}

const stm_objective stm_objective_direct_advantage = {
    .name = "direct_advantage",
    .summary = "regression of each step's log-ratio on the advantage that a critic gave it; offline",
    .reads = STM_KEYS("beta"),
    .needs_rewards = true,
    .needs = needs,
    .check = stm_check_beta,
    .scope = STM_SCOPE_RESPONSE,
    .prepare = prepare,
    .tokens = tokens,
};
