/* Distributional policy gradients for a family of divergences: f-DPG, arXiv:2302.08215. The target p(y) = a(y) / Z,
 *
 *   log a = S^ref + r / target_beta,  or  S^ref where r is above target_threshold and -infinity elsewhere,
 *   log Z given, or of the group: logsumexp(log a - S^old) - log n
 *
 *   L = -mean over responses of sg(rho A) S,   rho = exp(S - S^old),   A = -f'(e^t) - baseline,   t = S - log a + log Z
 *
 * A group in which nothing meets the constraint has no target and is left out. */
#include <math.h>

#include "objective/preference.h"

static unsigned needs(const stm_objective_options *o)
{
    return STM_NEEDS_REWARDS | STM_NEEDS_REFERENCE | (o->normaliser == STM_NORMALISER_GROUP ? STM_NEEDS_OLD : 0);
}

static stm_status check(const stm_objective_options *o)
{
    const bool bounded = o->divergence != STM_DIVERGENCE_REVERSE_KL && o->divergence != STM_DIVERGENCE_REVERSE_CHI2;
    if (bounded || o->target == STM_TARGET_EXPONENTIAL)
        return STM_OK;
    return stm_fail(STM_ERR_INPUT,
                    "objective.divergence: found %s, expected js, kl, tv or chi2 with objective.target=constraint",
                    o->divergence == STM_DIVERGENCE_REVERSE_KL ? "reverse_kl" : "reverse_chi2");
}

static double recorded_sum(const stm_response *response, const double *row)
{
    double sum = 0;
    for (size_t k = 0; k < response->n; k++)
        sum += response->mask[k] ? row[k] : 0.0;
    return sum;
}

static double log_a(const stm_objective_options *o, const stm_response *response)
{
    const double S = recorded_sum(response, response->ref_logprobs);
    if (o->target == STM_TARGET_EXPONENTIAL)
        return S + response->reward / o->target_beta;
    return response->reward > o->target_threshold ? S : -INFINITY;
}

static double log_z_of_group(const stm_objective_options *o, const stm_group *group)
{
    double highest = -INFINITY, sum = 0, n = 0;
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < group->n_responses; i++) {
            const stm_response *response = &group->responses[i];
            if (!stm_has_loss(response))
                continue;
            const double x = log_a(o, response) - recorded_sum(response, response->old_logprobs);
            if (pass == 0)
                highest = x > highest ? x : highest;
            else if (highest > -INFINITY)
                sum += exp(x - highest);
            n += pass;
        }
    return sum > 0 ? highest + log(sum / n) : -INFINITY;
}

/* advantages: log a - log Z of each response; infinity where the group has no target. */
static void prepare(stm_objective_batch *b)
{
    const stm_objective_options *o = b->options;
    for (size_t g = 0; g < b->batch->n_groups; g++) {
        const stm_group *group = &b->batch->groups[g];
        const double log_z = o->normaliser == STM_NORMALISER_GIVEN ? o->log_z : log_z_of_group(o, group);
        for (size_t i = 0; i < group->n_responses; i++)
            b->advantages[b->response_0[g] + i] =
                log_z == -INFINITY ? INFINITY : log_a(o, &group->responses[i]) - log_z;
    }
}

/* f'(e^t); t may be infinite where the divergence is bounded. */
static double f_prime(stm_divergence divergence, double t)
{
    switch (divergence) {
    case STM_DIVERGENCE_KL:
        return -exp(-t);
    case STM_DIVERGENCE_REVERSE_KL:
        return t + 1;
    case STM_DIVERGENCE_TV:
        return t > 0 ? 0.5 : t < 0 ? -0.5 : 0.0;
    case STM_DIVERGENCE_CHI2:
        return -expm1(-2 * t);
    case STM_DIVERGENCE_REVERSE_CHI2:
        return 2 * expm1(t);
    case STM_DIVERGENCE_JS:
        break;
    }
    return log(2.0) - stm_softplus(-t);
}

static void tokens(const stm_objective_options *o, const stm_totals *totals, const stm_tokens *t,
                   stm_objective_sums *sums)
{
    static const double LARGEST = 50.0; /* of t: e^t would be huge for long responses */
    double unused;
    if (t->n_masked == 0)
        return;
    stm_observe_response(t, sums);
    if (*t->advantages == INFINITY)
        return;
    const double S = stm_sum_of(t, t->logp), x = S - *t->advantages;
    const bool held = fabs(x) > LARGEST && x < INFINITY;
    sums->n_clamped += held;
    const double A = -f_prime(o->divergence, held ? copysign(LARGEST, x) : x) - o->baseline;
    const double factor = -exp(stm_sequence_log_ratio(t, &unused, sums)) * A / (double)totals->n_active;
    sums->loss += factor * S;
    stm_add_to_tokens(t, factor);
}

const stm_objective stm_objective_fdpg = {
    .name = "fdpg",
    .summary = "towards a target distribution, start model times reward or a constraint, by one of six divergences",
    .reads = STM_KEYS("divergence", "target", "target_beta", "target_threshold", "normaliser", "log_z", "baseline"),
    .needs_rewards = true,
    .needs = needs,
    .check = check,
    .scope = STM_SCOPE_RESPONSE,
    .prepare = prepare,
    .tokens = tokens,
};
