/* What objectives share: bounded exponentials, estimates of KL, statistics. */
#include <math.h>

#include "objective/registry.h"

double stm_bounded_exp(double x, double *slope)
{
    static const double LINEAR_FROM = 20.0;
    if (x > LINEAR_FROM) {
        *slope = exp(LINEAR_FROM);
        return *slope * (1.0 + (x - LINEAR_FROM));
    }
    *slope = exp(x);
    return *slope;
}

double stm_kl_estimate(stm_kl_estimator estimator, double q, double *slope)
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
    const double value = stm_bounded_exp(q, &growth) - q - 1.0;
    *slope = 1.0 - growth;
    return value;
}

void stm_objective_observe(const stm_tokens *t, size_t k, stm_objective_sums *sums)
{
    double unused;
    const double d = stm_log_ratio(t, k);
    sums->n_tokens += 1.0;
    sums->kl_k3 += t->ref ? stm_kl_estimate(STM_KL_K3, t->ref[k] - t->logp[k], &unused) : 0.0;
    sums->entropy += t->entropy ? t->entropy[k] : 0.0;
    sums->ratio_minus_one_minus_log += stm_bounded_exp(d, &unused) - 1.0 - d;
    sums->logp_difference_max = fmax(sums->logp_difference_max, fabs(d));
}
