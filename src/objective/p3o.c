/* Pairwise proximal policy optimisation: P3O, arXiv:2310.00212. R = r - kl_coef (S^old - S^ref), rho = exp(S - S^old),
 * constants in sg(); of a pair (i, j):
 *
 *   separate  -1/2 sum over (a,b) = (i,j), (j,i) of min(D g rho_a, D g clip(rho_a, 1-eps, 1+eps)),
 *             D = R_a - R_b, g = sg(rho_b)
 *   joint     -1/2 min(W d, W clip(d, -eps, +eps)),  d = log rho_i - log rho_j, W = (R_i - R_j) sg(rho_i rho_j)
 *
 * Where the clipped branch is the smaller one there is no gradient. */
#include <math.h>

#include "objective/preference.h"

static unsigned needs(const stm_objective_options *o)
{
    return stm_pairs_needs(o, STM_PAIRING_EVERY) | (o->kl_coef > 0 ? STM_NEEDS_REFERENCE | STM_NEEDS_OLD : 0);
}

static stm_status check(const stm_objective_options *o)
{
    return stm_check_pairs(o, STM_PAIRING_EVERY, false);
}

/* min(A x, A clip(x)), and its derivative by x. */
static double clipped(double A, double x, double low, double high, double *slope, stm_objective_sums *sums)
{
    const double value = fmin(A * x, A * fmin(fmax(x, low), high));
    const bool binds = value < A * x;
    sums->n_sides += 1;
    sums->n_sides_clipped += binds;
    *slope = binds ? 0.0 : A;
    return value;
}

static void add_pair(const stm_objective_options *o, size_t n, const stm_pair *pair, double weight, double *work,
                     stm_objective_sums *sums)
{
    const double *R = work, *log_rho = work + n, *slope = work + 2 * n;
    double *c = work + 3 * n, s;
    const size_t i = pair->winner, j = pair->loser;
    if (o->variant == STM_P3O_JOINT) {
        const double W = (R[i] - R[j]) * exp(log_rho[i] + log_rho[j]);
        sums->loss -= 0.5 * weight * clipped(W, log_rho[i] - log_rho[j], -o->clip, o->clip, &s, sums);
        c[i] -= 0.5 * weight * s * slope[i];
        c[j] += 0.5 * weight * s * slope[j];
        return;
    }
    for (int side = 0; side < 2; side++) {
        const size_t a = side ? j : i, b = side ? i : j;
        const double rho = exp(log_rho[a]), A = (R[a] - R[b]) * exp(log_rho[b]);
        sums->loss -= 0.5 * weight * clipped(A, rho, 1 - o->clip, 1 + o->clip, &s, sums);
        c[a] -= 0.5 * weight * s * rho * slope[a];
    }
}

/* work, of each response: R, log rho, its derivative, dL/dS; then the pairs. */
static void group(const stm_objective_options *o, const stm_totals *totals, const stm_group *group,
                  const stm_tokens *views, double *work, stm_objective_sums *sums)
{
    const size_t n = group->n_responses;
    double *R = work, *log_rho = work + n, *slope = work + 2 * n, *c = work + 3 * n;
    const stm_pair *pairs;
    const size_t n_pairs = stm_make_pairs(o, STM_PAIRING_EVERY, group, work + 4 * n, &pairs);
    for (size_t i = 0; i < n; i++) {
        const stm_tokens *t = &views[i];
        R[i] = stm_score_of(o, group, i);
        if (o->kl_coef > 0)
            R[i] -= o->kl_coef * (stm_sum_of(t, t->old) - stm_sum_of(t, t->ref));
        log_rho[i] = stm_sequence_log_ratio(t, &slope[i], sums);
        c[i] = 0;
    }
    for (size_t k = 0; k < n_pairs; k++)
        add_pair(o, n, &pairs[k], stm_pair_weight(o, totals, n_pairs), work, sums);
    for (size_t i = 0; i < n; i++) {
        stm_add_to_tokens(&views[i], c[i]);
        stm_observe_response(&views[i], sums);
    }
}

const stm_objective stm_objective_p3o = {
    .name = "p3o",
    .summary = "pairs of a group: difference of rewards times ratios of whole responses, clipped",
    .reads = STM_KEYS(STM_READS_PAIRS, STM_READS_KL, "variant", "clip"),
    .needs_rewards = true,
    .needs = needs,
    .check = check,
    .scope = STM_SCOPE_GROUP,
    .usual_pairing = STM_PAIRING_EVERY,
    .work_per_response = 4,
    .n_work = stm_pairs_n_work,
    .prepare = stm_count_pairs,
    .group = group,
};
