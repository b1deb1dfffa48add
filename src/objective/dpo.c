/* Direct preference optimisation and its kin: arXiv:2305.18290. Of a pair (w, l), S a response's log-prob (length: sum,
 * or mean over its tokens), S^k that of a copy of the model:
 *
 *   z = S_w - S_l - sum_k reference_k (S^k_w - S^k_l),   x = beta z - target_margin,   p = q (1-eps) + (1-q) eps
 *   sigmoid  p sp(-x) + (1-p) sp(x)                           DPO; cDPO with eps = label_smoothing
 *   robust   ((1-eps) sp(-x) - eps sp(x)) / (1-2 eps)         rDPO, arXiv:2403.00409; unbounded below
 *   hinge    max(0, 1 - x)                                    SLiC, arXiv:2305.10425
 *   ipo      (z - (q - 1/2) / beta)^2                         IPO, arXiv:2310.12036
 *
 * The loss is the weighted sum of these over pairs. Other methods add, each with its coefficient:
 *
 *   sft_coef      -S_w of the pair (RPO), or -(sum of S_w over pairs) / their tokens (sft_form)
 *   chase_coef    d = z against the twin: sp(-beta d) in the fast role, -sp(beta d) in the slow one (OFS-DPO)
 *   explore_coef  mean S over the responses of other models (XPO)
 *   kl_coef       mean K over the policy's (HyPO; preference.h)
 *
 * S is of all tokens in these four. Statistics have the entropy of weights exp(h) over the group, h = log(policy /
 * reference), since preferences are explained by losers from a policy of that density (DID). */
#include <math.h>

#include "objective/preference.h"

static unsigned needs(const stm_objective_options *o)
{
    static const unsigned of_row[STM_N_ROWS] = {STM_NEEDS_REFERENCE, STM_NEEDS_OLD, STM_NEEDS_TWIN, STM_NEEDS_TARGET};
    unsigned needs = stm_pairs_needs(o, STM_PAIRING_BEST_WORST);
    for (size_t row = 0; row < STM_N_ROWS; row++)
        needs |= o->reference[row] != 0 ? of_row[row] : 0;
    needs |= o->kl_coef > 0 ? STM_NEEDS_REFERENCE : 0;
    needs |= o->chase_coef > 0 ? STM_NEEDS_TWIN : 0;
    return needs | (o->explore_coef > 0 ? STM_NEEDS_ORIGINS : 0);
}

static stm_status check(const stm_objective_options *o)
{
    const bool smooth = o->loss == STM_LOSS_SIGMOID || o->loss == STM_LOSS_ROBUST;
    STM_TRY(stm_check_beta(o));
    STM_TRY(stm_check_pairs(o, STM_PAIRING_BEST_WORST, o->loss == STM_LOSS_SIGMOID || o->loss == STM_LOSS_IPO));
    if (o->loss == STM_LOSS_ROBUST && o->label_smoothing >= 0.5)
        return stm_fail(STM_ERR_INPUT,
                        "objective.label_smoothing: found %g, expected less than 0.5 with objective.loss=robust",
                        o->label_smoothing);
    if (!smooth && o->label_smoothing > 0)
        return stm_fail(STM_ERR_INPUT,
                        "objective.label_smoothing: found %g, expected 0, or objective.loss=sigmoid or robust",
                        o->label_smoothing);
    return STM_OK;
}

static double length_of(const stm_objective_options *o, const stm_tokens *t)
{
    return o->length == STM_LENGTH_MEAN && t->n_masked > 0 ? (double)t->n_masked : 1.0;
}

/* S less what the copies give. */
static double against_references(const stm_objective_options *o, const stm_tokens *t)
{
    double sum = stm_sum_of(t, t->logp);
    for (int row = 0; row < STM_N_ROWS; row++)
        if (o->reference[row] != 0)
            sum -= o->reference[row] * stm_sum_of(t, stm_row_of(t, (stm_row)row));
    return sum / length_of(o, t);
}

static double pair_value(const stm_objective_options *o, double q, double z, double *dz)
{
    const double x = o->beta * z - o->target_margin, eps = o->label_smoothing;
    const double lose = stm_sigmoid(-x), win = stm_sigmoid(x), p = q * (1 - eps) + (1 - q) * eps;
    const double miss = z - (q - 0.5) / o->beta;
    switch (o->loss) {
    case STM_LOSS_ROBUST:
        *dz = -o->beta * ((1 - eps) * lose + eps * win) / (1 - 2 * eps);
        return ((1 - eps) * stm_softplus(-x) - eps * stm_softplus(x)) / (1 - 2 * eps);
    case STM_LOSS_HINGE:
        *dz = x < 1 ? -o->beta : 0.0;
        return x < 1 ? 1 - x : 0.0;
    case STM_LOSS_IPO:
        *dz = 2 * miss;
        return miss * miss;
    case STM_LOSS_SIGMOID:
        break;
    }
    *dz = o->beta * ((1 - p) * win - p * lose);
    return p * stm_softplus(-x) + (1 - p) * stm_softplus(x);
}

static double chase(const stm_objective_options *o, double d, double *dd)
{
    const double b = o->beta, sign = o->chase_role == STM_CHASE_FAST ? -1.0 : 1.0;
    *dd = -o->chase_coef * b * stm_sigmoid(sign * b * d);
    return -sign * o->chase_coef * stm_softplus(sign * b * d);
}

static void add_pair(const stm_objective_options *o, const stm_totals *totals, const stm_tokens *views, size_t n,
                     const stm_pair *pair, double weight, double *work, stm_objective_sums *sums)
{
    const double *z = work, *d = work + n;
    double *c = work + 2 * n, slope, imitation = 0;
    const size_t w = pair->winner, l = pair->loser;
    stm_observe_pair(&views[w], &views[l], z[w] - z[l], sums);
    sums->loss += weight * pair_value(o, pair->q, z[w] - z[l], &slope);
    c[w] += weight * slope / length_of(o, &views[w]);
    c[l] -= weight * slope / length_of(o, &views[l]);
    if (o->sft_coef > 0) {
        imitation = o->sft_coef * (o->sft_form == STM_SFT_SUM ? weight : 1.0 / (double)totals->n_chosen_tokens);
        sums->loss -= imitation * stm_sum_of(&views[w], views[w].logp);
        c[w] -= imitation;
    }
    if (o->chase_coef > 0) {
        sums->loss += weight * chase(o, d[w] - d[l], &slope);
        c[w] += weight * slope;
        c[l] -= weight * slope;
    }
}

/* The terms of responses that are in no pair, too. */
static void add_response(const stm_objective_options *o, const stm_totals *totals, const stm_tokens *t,
                         double mean_of_others, stm_objective_sums *sums)
{
    const bool other = stm_is_other(t->response);
    if (o->explore_coef > 0 && other) {
        const double factor = o->explore_coef / (double)totals->n_other;
        sums->loss += factor * stm_sum_of(t, t->logp);
        stm_add_to_tokens(t, factor);
    }
    if (o->kl_coef > 0 && !other)
        sums->loss += stm_add_kl_term(o->kl_form, t, t->ref, mean_of_others, o->kl_coef / (double)totals->n_policy);
}

/* Entropy of the weights exp(h) / sum over the group's responses; x [n] is room. */
static void observe_spread(size_t n, const stm_tokens *views, double *x, stm_objective_sums *sums)
{
    double highest = -INFINITY, sum = 0, mean = 0;
    for (size_t i = 0; i < n; i++) {
        x[i] = views[i].n_masked > 0 ? stm_h_of(&views[i]) : -INFINITY;
        highest = fmax(highest, x[i]);
    }
    if (!isfinite(highest))
        return;
    for (size_t i = 0; i < n; i++)
        sum += exp(x[i] - highest);
    for (size_t i = 0; i < n; i++)
        mean += x[i] > -INFINITY ? exp(x[i] - highest) / sum * (x[i] - highest) : 0.0;
    sums->n_spread += 1;
    sums->spread += log(sum) - mean;
}

/* work, of each response: S less the references', the same of all tokens against the twin or h of the others, dL/dlogp;
 * then the pairs. */
static void group(const stm_objective_options *o, const stm_totals *totals, const stm_group *group,
                  const stm_tokens *views, double *work, stm_objective_sums *sums)
{
    const size_t n = group->n_responses;
    double *z = work, *d = work + n, *c = work + 2 * n;
    const stm_pair *pairs;
    const size_t n_pairs = stm_make_pairs(o, STM_PAIRING_BEST_WORST, group, work + 3 * n, &pairs);
    for (size_t i = 0; i < n; i++) {
        z[i] = against_references(o, &views[i]);
        d[i] = stm_sum_of(&views[i], views[i].logp) - stm_sum_of(&views[i], stm_row_of(&views[i], STM_ROW_TWIN));
        c[i] = 0;
    }
    for (size_t k = 0; k < n_pairs; k++)
        add_pair(o, totals, views, n, &pairs[k], stm_pair_weight(o, totals, n_pairs), work, sums);
    observe_spread(n, views, d, sums);
    for (size_t i = 0; i < n; i++)
        d[i] = 0;
    if (o->kl_coef > 0 && o->kl_form == STM_KL_FORM_SEQUENCE_LOO)
        stm_mean_h_of_others(n, views, STM_ROW_REF, d);
    for (size_t i = 0; i < n; i++) {
        if (views[i].n_masked == 0)
            continue;
        stm_add_to_tokens(&views[i], c[i]);
        add_response(o, totals, &views[i], d[i], sums);
        stm_observe_response(&views[i], sums);
    }
}

const stm_objective stm_objective_dpo = {
    .name = "dpo",
    .summary = "pairs of a group: the better response's log-ratio to the reference above the other's",
    .reads = STM_KEYS(STM_READS_PAIRS, STM_READS_KL, "kl_form", "beta", "loss", "reference", "length", "target_margin",
                      "label_smoothing", "sft_coef", "sft_form", "chase_coef", "chase_role", "chase_interval",
                      "chase_lr_ratio", "explore_coef"),
    .needs_rewards = true,
    .needs = needs,
    .check = check,
    .scope = STM_SCOPE_GROUP,
    .usual_pairing = STM_PAIRING_BEST_WORST,
    .work_per_response = 3,
    .n_work = stm_pairs_n_work,
    .prepare = stm_count_pairs,
    .group = group,
};
