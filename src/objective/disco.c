/* Discriminative constrained optimisation: DisCO, arXiv:2505.12366. P: responses with a reward above
 * positive_threshold, N: the others; s_i: mean over the tokens of logp, or of the ratio rho; responses without tokens
 * are left out:
 *
 *   L = -(mean_P s - B) / n_groups + sg(penalty_coef max(0, kl_mean - kl_bound)) mean over all tokens of (old - logp)
 *   B = tau log(mean_N exp(s / tau)), or mean_N s with tau 0 (DisCO-b)
 *
 * Without P or without N the first term is 0. */
#include <math.h>

#include "objective/registry.h"

static unsigned needs(const stm_objective_options *o)
{
    (void)o;
    return STM_NEEDS_REWARDS;
}

static stm_status check(const stm_objective_options *o)
{
    if (o->score != STM_SCORE_REWARD && o->score != STM_SCORE_WIN_RATE)
        return STM_OK;
    return stm_fail(STM_ERR_INPUT, "objective.score: found %s, expected auto, logl or lratio with objective.name=disco",
                    o->score == STM_SCORE_REWARD ? "reward" : "win_rate");
}

static stm_scope scope(const stm_objective_options *o)
{
    return o->penalty_coef > 0 ? STM_SCOPE_BATCH : STM_SCOPE_GROUP;
}

static void collect(const stm_objective_batch *b, const double *logp, stm_totals *totals)
{
    double sum = 0;
    for (size_t g = 0; g < b->batch->n_groups; g++)
        for (size_t i = 0; i < b->batch->groups[g].n_responses; i++) {
            const stm_response *response = &b->batch->groups[g].responses[i];
            const double *now = logp + b->first_token[b->response_0[g] + i];
            for (size_t k = 0; response->old_logprobs && k < response->n; k++)
                sum += response->mask[k] ? response->old_logprobs[k] - now[k] : 0.0;
        }
    totals->kl_mean = totals->n_tokens > 0 ? sum / (double)totals->n_tokens : 0.0;
}

static double score(const stm_objective_options *o, const stm_tokens *t)
{
    double sum = 0, unused;
    for (size_t k = 0; k < t->n; k++)
        if (t->mask[k])
            sum += o->score == STM_SCORE_LRATIO ? stm_bounded_exp(stm_log_ratio(t, k), &unused) : t->logp[k];
    return sum / (double)t->n_masked;
}

/* dlogp += factor ds/dlogp. */
static void add_gradient(const stm_objective_options *o, const stm_tokens *t, double factor)
{
    for (size_t k = 0; k < t->n; k++) {
        double slope = 1.0;
        if (!t->mask[k])
            continue;
        if (o->score == STM_SCORE_LRATIO)
            stm_bounded_exp(stm_log_ratio(t, k), &slope);
        t->dlogp[k] += factor * slope / (double)t->n_masked;
    }
}

typedef struct {
    double n_positive, n_negative, positive, negative; /* means of scores; negative: B */
    double highest, mass;                              /* of negatives: exp((s - highest) / tau) and its sum */
} sides;

static bool is_positive(const stm_objective_options *o, const stm_tokens *t)
{
    return t->response->reward > o->positive_threshold;
}

static sides compare(const stm_objective_options *o, size_t n, const stm_tokens *views, double *scores)
{
    sides s = {.highest = -INFINITY};
    for (size_t i = 0; i < n; i++) {
        if (views[i].n_masked == 0)
            continue;
        scores[i] = score(o, &views[i]);
        if (is_positive(o, &views[i])) {
            s.n_positive += 1;
            s.positive += scores[i];
            continue;
        }
        s.n_negative += 1;
        s.negative += scores[i];
        s.highest = scores[i] > s.highest ? scores[i] : s.highest;
    }
    s.positive /= s.n_positive;
    s.negative /= s.n_negative;
    if (o->tau == 0 || s.n_negative == 0)
        return s;
    for (size_t i = 0; i < n; i++)
        if (views[i].n_masked > 0 && !is_positive(o, &views[i]))
            s.mass += exp((scores[i] - s.highest) / o->tau);
    s.negative = s.highest + o->tau * log(s.mass / s.n_negative);
    return s;
}

static void group(const stm_objective_options *o, const stm_totals *totals, const stm_group *group,
                  const stm_tokens *views, double *scores, stm_objective_sums *sums)
{
    const double over = totals->kl_mean - o->kl_bound;
    const double penalty = over > 0 ? o->penalty_coef * over / (double)totals->n_tokens : 0.0;
    const sides s = compare(o, group->n_responses, views, scores);
    const double weight = s.n_positive > 0 && s.n_negative > 0 ? 1.0 / (double)totals->n_groups : 0.0;
    if (weight > 0)
        sums->loss -= weight * (s.positive - s.negative);
    for (size_t i = 0; i < group->n_responses; i++) {
        const stm_tokens *t = &views[i];
        if (t->n_masked == 0)
            continue;
        const double share = is_positive(o, t) ? -1.0 / s.n_positive
                             : o->tau == 0     ? 1.0 / s.n_negative
                                               : exp((scores[i] - s.highest) / o->tau) / s.mass;
        if (weight > 0)
            add_gradient(o, t, weight * share);
        for (size_t k = 0; k < t->n; k++) {
            if (!t->mask[k])
                continue;
            sums->loss -= penalty * stm_log_ratio(t, k);
            t->dlogp[k] -= penalty;
            stm_objective_observe(t, k, sums);
        }
    }
}

const stm_objective stm_objective_disco = {
    .name = "disco",
    .summary = "discriminates responses with a reward from those without, within a divergence from the sampling policy",
    .reads = STM_KEYS("score", "tau", "positive_threshold", "penalty_coef", "kl_bound"),
    .needs_rewards = true,
    .needs = needs,
    .check = check,
    .scope_by = scope,
    .work_per_response = 1,
    .collect = collect,
    .group = group,
};
