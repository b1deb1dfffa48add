/* Policy gradients of a group, one objective with options. A clipped ratio and a KL term to a reference: Shao et al.
 * 2024, arXiv:2402.03300; separate clip bounds, token-mean: DAPO, arXiv:2503.14476; no scale, fixed length: Dr. GRPO,
 * arXiv:2503.20783; ratio of the sequence: GSPO, arXiv:2507.18071; cispo: MiniMax-M1, arXiv:2506.13585; geometric:
 * GMPO, arXiv:2507.20673; second bound: dual clip, arXiv:1912.09729; off-policy responses: Critique-GRPO,
 * arXiv:2506.03106; control-split: Thinkless, arXiv:2505.13379; proximal term: mirror descent, arXiv:2005.09814;
 * estimators k1, k2, k3: J. Schulman, "Approximating KL divergence", 2020. Advantages: advantage.c.
 *
 * Per token with loss, l = logp, d = l - old, rho = exp(d) (or, with ratio_level, of the mean or sum of d over the
 * response), c from the aggregation, w the token's weight, u the correction of the sampler:
 *
 *   L = c w (u P + kl_coef K + proximal_coef (rho d - rho + 1))
 *   P = -min(rho A, clamp(rho, 1 - clip_low, 1 + clip_high) A) | -rho A | -l A | -sg(clamp(rho)) A l
 *       | -A exp(mean of the clipped d)
 *
 * A clipped token has no gradient; at a tie the unclipped form counts. fmin and fmax would hide a NaN, so comparisons
 * are written out: whatever is not a number reaches the loss. */
#include <assert.h>
#include <math.h>

#include "objective/registry.h"

/* One token's term and its derivatives: by its own logp, by the log-ratio of ratio_level, and by the response's mean of
 * clipped log-ratios. */
typedef struct {
    double value, by_logp, by_ratio, by_mean;
    bool clipped;
} term;

/* What is the same for all tokens of a response. */
typedef struct {
    double log_ratio;      /* of ratio_level sequence and trajectory */
    double clipped_mean;   /* surrogate geometric */
    double is_weight;      /* is_level sequence */
    const double *sampler; /* of the range; NULL: not known, or no correction */
} response_terms;

static double clamp(double x, double low, double high)
{
    return x < low ? low : x > high ? high : x;
}

static double log_ratio_at(const stm_objective_options *o, const response_terms *r, const stm_tokens *t, size_t k)
{
    return o->ratio_level == STM_RATIO_TOKEN ? stm_log_ratio(t, k) : r->log_ratio;
}

/* The log-ratio clipped on the side to which the advantage pulls. */
static double one_sided(const stm_objective_options *o, double d, double advantage)
{
    if (advantage > 0)
        return d > o->clip_high ? o->clip_high : d;
    return d < -o->clip_low ? -o->clip_low : d;
}

static void look_at_response(const stm_objective_options *o, const stm_tokens *t, response_terms *r)
{
    const stm_response_notes *notes = t->response ? t->response->notes : NULL;
    const double n = (double)t->n_masked;
    *r = (response_terms){.is_weight = 1.0};
    if (o->ratio_level != STM_RATIO_TOKEN)
        for (size_t k = 0; k < t->n; k++)
            r->log_ratio += t->mask[k] ? stm_log_ratio(t, k) : 0.0;
    if (o->ratio_level == STM_RATIO_SEQUENCE)
        r->log_ratio /= n;
    if (o->surrogate == STM_SURROGATE_GEOMETRIC)
        for (size_t k = 0; k < t->n; k++)
            r->clipped_mean += t->mask[k] ? one_sided(o, log_ratio_at(o, r, t, k), stm_advantage_at(t, k)) / n : 0.0;
    if (o->is_correction == STM_CORRECTION_NONE || !notes || !notes->sampler_logprobs)
        return;
    r->sampler = notes->sampler_logprobs + t->first;
    double sum = 0;
    for (size_t k = 0; o->is_level == STM_IS_SEQUENCE && k < t->response->n; k++)
        sum += t->response->mask[k] ? t->response->old_logprobs[k] - notes->sampler_logprobs[k] : 0.0;
    r->is_weight = exp(sum);
}

static term clipped_ratio(const stm_objective_options *o, double d, double advantage)
{
    double growth;
    const double ratio = stm_bounded_exp(d, &growth);
    const double clipped = clamp(ratio, 1.0 - o->clip_low, 1.0 + o->clip_high);
    const bool binds = clipped * advantage < ratio * advantage;
    term p = {.value = -(binds ? clipped : ratio) * advantage,
              .by_ratio = binds ? 0.0 : -growth * advantage,
              .clipped = binds};
    const double most = -o->dual_clip * advantage;
    if (o->dual_clip > 0 && advantage < 0 && most < p.value)
        p = (term){.value = most, .clipped = true};
    return p;
}

static term off_policy(const stm_objective_options *o, double logp, double advantage)
{
    const double p = exp(logp), whole = p + o->off_policy_gamma;
    return (term){.value = -advantage * p / whole, .by_logp = -advantage * p * o->off_policy_gamma / (whole * whole)};
}

static term policy(const stm_objective_options *o, const response_terms *r, const stm_tokens *t, size_t k)
{
    const double advantage = stm_advantage_at(t, k), logp = t->logp[k], d = log_ratio_at(o, r, t, k);
    double growth;
    if (t->response && t->response->notes && t->response->notes->off_policy)
        return off_policy(o, logp, advantage);
    switch (o->surrogate) {
    case STM_SURROGATE_CLIP:
        break;
    case STM_SURROGATE_NONE: {
        const double ratio = stm_bounded_exp(d, &growth);
        return (term){.value = -ratio * advantage, .by_ratio = -growth * advantage};
    }
    case STM_SURROGATE_LOG:
        return (term){.value = -logp * advantage, .by_logp = -advantage};
    case STM_SURROGATE_CISPO: {
        const double ratio = stm_bounded_exp(stm_log_ratio(t, k), &growth);
        const double weight = clamp(ratio, 1.0 - o->clip_low, 1.0 + o->clip_high);
        return (term){.value = -weight * advantage * logp, .by_logp = -weight * advantage, .clipped = weight != ratio};
    }
    case STM_SURROGATE_GEOMETRIC: {
        const double mean = stm_bounded_exp(r->clipped_mean, &growth);
        return (term){.value = -advantage * mean,
                      .by_mean = -advantage * growth,
                      .clipped = advantage != 0 && one_sided(o, d, advantage) != d};
    }
    }
    return clipped_ratio(o, d, advantage);
}

/* The weight of old over sampler, limited; constant. */
static double correction(const stm_objective_options *o, const response_terms *r, const stm_tokens *t, size_t k)
{
    if (!r->sampler)
        return 1.0;
    const double u = o->is_level == STM_IS_SEQUENCE ? r->is_weight : exp(t->old[k] - r->sampler[k]);
    if (o->is_correction == STM_CORRECTION_TRUNCATE)
        return clamp(u, o->is_min, o->is_max);
    return u < o->is_min || u > o->is_max ? 0.0 : u;
}

static void add_kl(const stm_objective_options *o, double d, double q, term *p)
{
    double slope, growth;
    const double kl = o->kl_coef * stm_kl_estimate(o->kl_estimator, q, &slope);
    const double ratio = o->kl_unbiased ? stm_bounded_exp(d, &growth) : 1.0;
    p->value += kl * ratio;
    p->by_logp += o->kl_coef * slope * ratio;
    p->by_ratio += o->kl_unbiased ? kl * growth : 0.0;
}

static void add_proximal(const stm_objective_options *o, double d, term *p)
{
    double growth;
    const double ratio = stm_bounded_exp(d, &growth);
    p->value += o->proximal_coef * (ratio * d - ratio + 1.0);
    p->by_ratio += o->proximal_coef * (ratio + growth * d - growth);
}

static term term_of(const stm_objective_options *o, const response_terms *r, const stm_tokens *t, size_t k)
{
    const double d = log_ratio_at(o, r, t, k), u = correction(o, r, t, k);
    term p = policy(o, r, t, k);
    p.value *= u;
    p.by_logp *= u;
    p.by_ratio *= u;
    p.by_mean *= u;
    if (o->kl_coef != 0.0 && o->kl_in == STM_KL_IN_LOSS)
        add_kl(o, d, t->ref[k] - t->logp[k], &p);
    if (o->proximal_coef != 0.0)
        add_proximal(o, d, &p);
    return p;
}

/* What came together through the response's log-ratio and its mean goes to all of its tokens. */
static void spread(const stm_objective_options *o, const response_terms *r, const stm_tokens *t, double by_ratio,
                   double by_mean)
{
    const double n = (double)t->n_masked, share = o->ratio_level == STM_RATIO_SEQUENCE ? 1.0 / n : 1.0;
    for (size_t k = 0; o->surrogate == STM_SURROGATE_GEOMETRIC && k < t->n; k++) {
        const double d = t->mask[k] ? log_ratio_at(o, r, t, k) : 0.0;
        if (!t->mask[k] || one_sided(o, d, stm_advantage_at(t, k)) != d)
            continue;
        if (o->ratio_level == STM_RATIO_TOKEN)
            t->dlogp[k] += by_mean / n;
        else
            by_ratio += by_mean / n;
    }
    for (size_t k = 0; o->ratio_level != STM_RATIO_TOKEN && k < t->n; k++)
        t->dlogp[k] += t->mask[k] ? by_ratio * share : 0.0;
}

static void tokens(const stm_objective_options *o, const stm_totals *totals, const stm_tokens *t,
                   stm_objective_sums *sums)
{
    (void)totals;
    response_terms r;
    double by_ratio = 0, by_mean = 0;
    if (t->n_masked == 0)
        return;
    look_at_response(o, t, &r);
    for (size_t k = 0; k < t->n; k++) {
        if (!t->mask[k])
            continue;
        const double weight = stm_weight_at(t, o, k) * (t->token_weights ? t->token_weights[k] : 1.0);
        const term p = term_of(o, &r, t, k);
        t->dlogp[k] += weight * p.by_logp;
        if (o->ratio_level == STM_RATIO_TOKEN)
            t->dlogp[k] += weight * p.by_ratio;
        else
            by_ratio += weight * p.by_ratio;
        by_mean += weight * p.by_mean;
        sums->loss += weight * p.value;
        sums->n_clipped += p.clipped ? 1.0 : 0.0;
        stm_objective_observe(t, k, sums);
    }
    spread(o, &r, t, by_ratio, by_mean);
}

static stm_scope scope(const stm_objective_options *o)
{
    const bool whole = o->ratio_level != STM_RATIO_TOKEN || o->surrogate == STM_SURROGATE_GEOMETRIC;
    return whole ? STM_SCOPE_RESPONSE : STM_SCOPE_TOKEN;
}

const stm_objective stm_objective_grpo = {
    .name = "grpo",
    .summary = "policy gradient with advantages from the group's rewards: GRPO and its relatives, by options",
    .reads = STM_KEYS(STM_READS_WEIGHTS, STM_READS_KL, STM_READS_ORACLE, "kl_estimator", "kl_in", "kl_unbiased",
                      "advantage_baseline", "advantage_scale", "advantage_eps", "whiten_eps", "min_advantage",
                      "reward_combine", "reward_weights", "score", "seed_alpha", "seed_scale", "budget_probs",
                      "token_weight_alpha", "ratio_level", "surrogate", "clip_low", "clip_high", "dual_clip",
                      "off_policy_gamma", "proximal_coef", "is_correction", "is_level", "is_min", "is_max",
                      "skip_equal_groups"),
    .needs_rewards = true,
    .needs = stm_advantages_needs,
    .scope_by = scope,
    .by_token = stm_advantages_by_token,
    .n_work = stm_advantages_n_work,
    .prepare = stm_prepare_advantages,
    .tokens = tokens,
};
