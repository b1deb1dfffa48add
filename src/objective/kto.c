/* Kahneman-Tversky optimisation, without pairs: arXiv:2402.01306. h = S - S^ref of a response, k = kl_point:
 *
 *   L = mean over responses of  desirable_weight s(-beta (h - k))     where the reward is above desirable_threshold,
 *                               undesirable_weight s(-beta (k - h))   elsewhere */
#include "objective/preference.h"

static unsigned needs(const stm_objective_options *o)
{
    (void)o;
    return STM_NEEDS_REWARDS | STM_NEEDS_REFERENCE;
}

static void tokens(const stm_objective_options *o, const stm_totals *totals, const stm_tokens *t,
                   stm_objective_sums *sums)
{
    if (t->n_masked == 0)
        return;
    const bool desirable = t->response->reward > o->desirable_threshold;
    const double sign = desirable ? 1.0 : -1.0;
    const double weight = (desirable ? o->desirable_weight : o->undesirable_weight) / (double)totals->n_active;
    const double x = sign * o->beta * (stm_sum_of(t, t->logp) - stm_sum_of(t, t->ref) - o->kl_point);
    sums->loss += weight * stm_sigmoid(-x);
    stm_add_to_tokens(t, -sign * weight * o->beta * stm_sigmoid(-x) * stm_sigmoid(x));
    stm_observe_response(t, sums);
}

const stm_objective stm_objective_kto = {
    .name = "kto",
    .summary = "responses above a reward likelier than under the reference, the others less; no pairs",
    .reads =
        STM_KEYS("beta", "desirable_weight", "undesirable_weight", "desirable_threshold", "kl_point", "kl_point_from"),
    .needs_rewards = true,
    .needs = needs,
    .check = stm_check_beta,
    .scope = STM_SCOPE_RESPONSE,
    .tokens = tokens,
};
