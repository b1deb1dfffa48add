/* Odds ratio preference optimisation, without a reference: arXiv:2403.07691. a: mean log-prob of a response's tokens,
 * S: their sum; of a pair (w, l):
 *
 *   o = a_w - a_l - (log(1 - e^a_w) - log(1 - e^a_l)),   value beta sp(-o),   d(a - log(1 - e^a))/da = 1 / (1 - e^a)
 *   L = weighted sum of values over pairs - sft_coef (sum of S_w over pairs) / (their tokens with loss) */
#include <math.h>

#include "objective/preference.h"

static unsigned needs(const stm_objective_options *o)
{
    return stm_pairs_needs(o, STM_PAIRING_BEST_WORST);
}

static stm_status check(const stm_objective_options *o)
{
    STM_TRY(stm_check_beta(o));
    return stm_check_pairs(o, STM_PAIRING_BEST_WORST, false);
}

/* log(e^a / (1 - e^a)), a < 0, and its derivative by each log-prob. A response that is certain has no odds: its a is
 * held below 0 and counted. */
static double log_odds(const stm_tokens *t, double *slope, stm_objective_sums *sums)
{
    static const double LARGEST = -1e-12;
    const double mean = stm_sum_of(t, t->logp) / (double)t->n_masked;
    const bool held = mean > LARGEST;
    const double a = held ? LARGEST : mean;
    sums->n_clamped += held;
    *slope = held ? 0.0 : -1.0 / (expm1(a) * (double)t->n_masked);
    return a - (a > -log(2.0) ? log(-expm1(a)) : log1p(-exp(a)));
}

static void group(const stm_objective_options *o, const stm_totals *totals, const stm_group *group,
                  const stm_tokens *views, double *work, stm_objective_sums *sums)
{
    const size_t n = group->n_responses;
    double *odds = work, *slope = work + n;
    const stm_pair *pairs;
    const size_t n_pairs = stm_make_pairs(o, STM_PAIRING_BEST_WORST, group, work + 2 * n, &pairs);
    for (size_t i = 0; i < n; i++) {
        if (views[i].n_masked == 0)
            continue;
        odds[i] = log_odds(&views[i], &slope[i], sums);
        stm_observe_response(&views[i], sums);
    }
    for (size_t k = 0; k < n_pairs; k++) {
        const size_t w = pairs[k].winner, l = pairs[k].loser;
        const double weight = o->beta * stm_pair_weight(o, totals, n_pairs), x = odds[w] - odds[l];
        const double imitation = o->sft_coef / (double)totals->n_chosen_tokens;
        stm_observe_pair(&views[w], &views[l], x, sums);
        sums->loss += weight * stm_softplus(-x) - imitation * stm_sum_of(&views[w], views[w].logp);
        stm_add_to_tokens(&views[w], -weight * stm_sigmoid(-x) * slope[w] - imitation);
        stm_add_to_tokens(&views[l], weight * stm_sigmoid(-x) * slope[l]);
    }
}

const stm_objective stm_objective_orpo = {
    .name = "orpo",
    .summary = "pairs of a group: the better response's odds above the other's, and imitation of it; no reference",
    .reads = STM_KEYS(STM_READS_PAIRS, "beta", "sft_coef"),
    .needs_rewards = true,
    .needs = needs,
    .check = check,
    .scope = STM_SCOPE_GROUP,
    .usual_pairing = STM_PAIRING_BEST_WORST,
    .work_per_response = 2,
    .n_work = stm_pairs_n_work,
    .prepare = stm_count_pairs,
    .group = group,
};
