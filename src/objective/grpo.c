/* GRPO: a clipped ratio and a KL term to a reference. Shao et al. 2024, arXiv:2402.03300; separate clip bounds,
 * token-mean: DAPO, arXiv:2503.14476; no scale, fixed length: Dr. GRPO, arXiv:2503.20783; estimators k1, k2, k3: J.
 * Schulman, "Approximating KL divergence", 2020.
 *
 * Per token with loss, d = logp - old, rho = exp(d), q = ref - logp:
 *   L = weight (-min(rho A, clamp(rho, 1 - clip_low, 1 + clip_high) A) + kl_coef K),  K = exp(q) - q - 1 | -q | q^2
 * / 2. A clipped token has no gradient; at a tie the unclipped form counts. fmin and fmax would hide a NaN, so
 * comparisons are written out: whatever is not a number reaches the loss. */
#include <assert.h>
#include <math.h>

#include "objective/registry.h"

/* exp(x), continued as a straight line beyond LINEAR_FROM, so that a wild log-ratio gives a large finite loss and the
 * gradient of that loss. *slope: the derivative. */
static double bounded_exp(double x, double *slope)
{
    static const double LINEAR_FROM = 20.0; /* a ratio of 5e8 */
    if (x > LINEAR_FROM) {
        *slope = exp(LINEAR_FROM);
        return *slope * (1.0 + (x - LINEAR_FROM));
    }
    *slope = exp(x);
    return *slope;
}

/* Sample standard deviation over the group. Equal rewards give exactly 0, which rounding of the mean would not. */
static void advantages(const stm_objective_options *options, size_t n, const double *rewards, double *advantage)
{
    bool equal = true;
    double mean = 0.0, squares = 0.0;
    for (size_t i = 0; i < n; i++) {
        equal = equal && rewards[i] == rewards[0]; /* false for NaN, which must be seen */
        mean += rewards[i] / (double)n;
    }
    for (size_t i = 0; i < n; i++)
        squares += (rewards[i] - mean) * (rewards[i] - mean);
    const bool scaled = options->advantage_scale == STM_SCALE_STD && n > 1;
    const double scale = scaled ? sqrt(squares / (double)(n - 1)) + options->advantage_eps : 1.0;
    for (size_t i = 0; i < n; i++)
        advantage[i] = equal ? 0.0 : (rewards[i] - mean) / scale;
}

/* K and dK/dlogp. */
static double kl(stm_kl_estimator estimator, double q, double *slope)
{
    double growth;
    switch (estimator) {
    case STM_KL_K1:
        *slope = 1.0;
        return -q;
    case STM_KL_K2:
        *slope = -q;
        return 0.5 * q * q;
    case STM_KL_K3:
        break;
    }
    const double value = bounded_exp(q, &growth) - q - 1.0;
    *slope = 1.0 - growth;
    return value;
}

static void tokens(const stm_objective_options *o, double advantage, double weight, const stm_tokens *t,
                   stm_objective_sums *sums)
{
    assert(o->kl_coef == 0.0 || t->ref); /* the caller has refused this input */
    const double low = 1.0 - o->clip_low, high = 1.0 + o->clip_high;
    for (size_t k = 0; k < t->n; k++) {
        if (!t->mask[k])
            continue;
        const double logp = t->logp[k];
        const double d = logp - (t->old ? t->old[k] : logp); /* a NaN stays one */
        double growth, slope, unused;
        const double ratio = bounded_exp(d, &growth);
        const double clipped = ratio < low ? low : ratio > high ? high : ratio;
        const bool binds = clipped * advantage < ratio * advantage;
        double loss = -(binds ? clipped : ratio) * advantage;
        double gradient = binds ? 0.0 : -growth * advantage;
        if (o->kl_coef != 0.0) {
            loss += o->kl_coef * kl(o->kl_estimator, t->ref[k] - logp, &slope);
            gradient += o->kl_coef * slope;
        }
        t->dlogp[k] += weight * gradient;

        sums->loss += weight * loss;
        sums->n_tokens += 1.0;
        sums->n_clipped += binds ? 1.0 : 0.0;
        sums->kl_k3 += t->ref ? kl(STM_KL_K3, t->ref[k] - logp, &unused) : 0.0;
        sums->entropy += t->entropy ? t->entropy[k] : 0.0;
        sums->ratio_minus_one_minus_log += ratio - 1.0 - d;
        sums->logp_difference_max = fmax(sums->logp_difference_max, fabs(d));
    }
}

const stm_objective stm_objective_grpo = {
    .name = "grpo",
    .summary =
        "group-relative policy optimisation: clipped ratio, advantages from the group's rewards, KL to a reference",
    .scope = STM_SCOPE_TOKEN,
    .needs_rewards = true,
    .advantages = advantages,
    .tokens = tokens,
};
