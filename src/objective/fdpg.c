/* Distributional policy gradients for a family of divergences: f-DPG, arXiv:2302.08215. The target p(y) = a(y) / Z,
 *
 *   log a = S^ref + r / target_beta,  or  S^ref where r is above target_threshold and -infinity elsewhere,
 *   log Z given, or of the group: logsumexp(log a - S^old) - log n, or the same of all samples of the prompt so far
 *
 *   L = -mean over responses of sg(rho A) S,   rho = exp(S - S^old),   A = -f'(e^t) - baseline,   t = S - log a + log Z
 *
 * The baseline is a number, or the mean of the latest -f'(e^t): objective/target.h, train/targets.h.
 * A group in which nothing meets the constraint has no target and is left out. */
#include <math.h>

#include "objective/preference.h"
#include "objective/target.h"

static unsigned needs(const stm_objective_options *o)
{
    const bool old = o->normaliser != STM_NORMALISER_GIVEN || o->baseline_window > 0;
    return STM_NEEDS_REWARDS | STM_NEEDS_REFERENCE | (old ? STM_NEEDS_OLD : 0) |
           (o->normaliser == STM_NORMALISER_RUNNING ? STM_NEEDS_LOG_Z : 0);
}

static stm_status check(const stm_objective_options *o)
{
    if (o->baseline != 0.0 && o->baseline_window > 0)
        return stm_fail(STM_ERR_INPUT, "objective.baseline: found %g, expected 0 with objective.baseline_window=%lld",
                        o->baseline, (long long)o->baseline_window);
    const bool bounded = o->divergence != STM_DIVERGENCE_REVERSE_KL && o->divergence != STM_DIVERGENCE_REVERSE_CHI2;
    if (bounded || o->target == STM_TARGET_EXPONENTIAL)
        return STM_OK;
    return stm_fail(STM_ERR_INPUT,
                    "objective.divergence: found %s, expected js, kl, tv or chi2 with objective.target=constraint",
                    o->divergence == STM_DIVERGENCE_REVERSE_KL ? "reverse_kl" : "reverse_chi2");
}

/* advantages: log a - log Z of each response; infinity where the group has no target. */
static void prepare(stm_objective_batch *b)
{
    const stm_objective_options *o = b->options;
    for (size_t g = 0; g < b->batch->n_groups; g++) {
        const stm_group *group = &b->batch->groups[g];
        const double log_z = stm_target_log_z(o, group);
        for (size_t i = 0; i < group->n_responses; i++)
            b->advantages[b->response_0[g] + i] =
                log_z == -INFINITY ? INFINITY : stm_target_log_a(o, &group->responses[i]) - log_z;
    }
}

static void tokens(const stm_objective_options *o, const stm_totals *totals, const stm_tokens *t,
                   stm_objective_sums *sums)
{
    double unused;
    bool held;
    if (t->n_masked == 0)
        return;
    stm_observe_response(t, sums);
    if (*t->advantages == INFINITY)
        return;
    const double S = stm_sum_of(t, t->logp);
    const double A = stm_target_pseudo_reward(o->divergence, S - *t->advantages, &held) - o->baseline;
    sums->n_clamped += held;
    const double factor = -exp(stm_sequence_log_ratio(t, &unused, sums)) * A / (double)totals->n_active;
    sums->loss += factor * S;
    stm_add_to_tokens(t, factor);
}

const stm_objective stm_objective_fdpg = {
    .name = "fdpg",
    .summary = "towards a target distribution, start model times reward or a constraint, by one of six divergences",
    .reads = STM_KEYS("divergence", "target", "target_beta", "target_threshold", "normaliser", "log_z", "baseline",
                      "baseline_window"),
    .needs_rewards = true,
    .needs = needs,
    .check = check,
    .scope = STM_SCOPE_RESPONSE,
    .prepare = prepare,
    .tokens = tokens,
};
