/* Advantages of the policy gradients, from what is recorded. Per response, r_i its reward:
 *
 *   A_i = r_i - (mean of the group | mean of the others | 0), over the group's or the batch's deviation + eps
 *
 * Mean and deviation: GRPO, arXiv:2402.03300; the others: RLOO, arXiv:2402.14740; whitened over all tokens, KL to go:
 * REINFORCE++, arXiv:2501.03262; scaled down by the entropy of the answers: SEED-GRPO, arXiv:2505.12346. */
#include <math.h>

#include "objective/preference.h"

double stm_reward_of(const stm_objective_options *o, const stm_group *group, const stm_response *response)
{
    const stm_response_notes *notes = response->notes;
    double reward = stm_score_of(o, group, (size_t)(response - group->responses));
    if (notes && notes->reward_parts && o->reward_weights.n > 0 && o->reward_combine == STM_REWARDS_SUM) {
        reward = 0;
        for (size_t k = 0; k < notes->n_parts; k++)
            reward += o->reward_weights.items[k] * notes->reward_parts[k];
    }
    if (o->kl_in != STM_KL_IN_REWARD || o->kl_coef == 0.0)
        return reward;
    double kl = 0;
    for (size_t k = 0; k < response->n; k++)
        kl += response->mask[k] ? response->old_logprobs[k] - response->ref_logprobs[k] : 0.0;
    return reward - o->kl_coef * kl;
}

/* Sample standard deviation of n values; 0 for one. */
static double deviation(size_t n, const double *x)
{
    double mean = 0, squares = 0;
    bool equal = true;
    for (size_t i = 0; i < n; i++) {
        equal = equal && x[i] == x[0];
        mean += x[i] / (double)n;
    }
    if (equal || n < 2)
        return 0;
    for (size_t i = 0; i < n; i++)
        squares += (x[i] - mean) * (x[i] - mean);
    return sqrt(squares / (double)(n - 1));
}

static void center(stm_baseline baseline, size_t n, const double *x, double *out)
{
    bool equal = true;
    double mean = 0;
    for (size_t i = 0; i < n; i++) {
        equal = equal && x[i] == x[0]; /* false for NaN, which must be seen */
        mean += x[i] / (double)n;
    }
    const double factor = baseline == STM_BASELINE_LEAVE_ONE_OUT && n > 1 ? (double)n / (double)(n - 1) : 1.0;
    for (size_t i = 0; i < n; i++)
        out[i] = baseline == STM_BASELINE_NONE ? x[i] : equal ? 0.0 : (x[i] - mean) * factor;
}

void stm_center_and_scale(const stm_objective_options *o, size_t n, const double *x, double *advantage)
{
    const double scale = o->advantage_scale == STM_SCALE_STD ? deviation(n, x) + o->advantage_eps : 1.0;
    center(o->advantage_baseline, n, x, advantage);
    for (size_t i = 0; i < n; i++)
        advantage[i] = scale == 0.0 ? 0.0 : advantage[i] / scale;
}

/* advantage [G]; work [2 G]. */
static void of_group(const stm_objective_batch *b, const stm_group *group, double *work, double *advantage)
{
    const stm_objective_options *o = b->options;
    const size_t n = group->n_responses;
    double *x = work, *part = work + n;
    if (o->reward_combine == STM_REWARDS_SUM) {
        for (size_t i = 0; i < n; i++)
            x[i] = stm_reward_of(o, group, &group->responses[i]);
        stm_center_and_scale(o, n, x, advantage);
    } else {
        for (size_t i = 0; i < n; i++)
            advantage[i] = 0;
        for (size_t k = 0; k < group->responses[0].notes->n_parts; k++) {
            for (size_t i = 0; i < n; i++)
                x[i] = group->responses[i].notes->reward_parts[k];
            stm_center_and_scale(o, n, x, part);
            for (size_t i = 0; i < n; i++)
                advantage[i] += (o->reward_weights.n > 0 ? o->reward_weights.items[k] : 1.0) * part[i];
        }
    }
    if (o->advantage_scale == STM_SCALE_BATCH_STD) {
        const double scale = b->totals.reward_std + o->advantage_eps;
        for (size_t i = 0; i < n; i++)
            advantage[i] = scale == 0.0 ? 0.0 : advantage[i] / scale;
    }
}

static double seed_factor(const stm_objective_options *o, const stm_group *group, double *work)
{
    if (o->seed_alpha == 0.0 || group->n_responses < 2)
        return 1.0;
    const double u = stm_semantic_entropy(group, work), a = o->seed_alpha;
    switch (o->seed_scale) {
    case STM_SEED_EXPONENTIAL:
        return exp(-a * u);
    case STM_SEED_RECIPROCAL:
        return 1.0 / (1.0 + a * u);
    case STM_SEED_LINEAR:
        break;
    }
    return 1.0 - a * u;
}

/* A response's advantage at each of its tokens; with kl_in=reward-to-go less the divergence of the tokens from it on.
 */
static void lay_out_tokens(const stm_objective_options *o, const stm_response *response, double advantage, double *out)
{
    double to_go = 0;
    for (size_t k = response->n; k-- > 0;) {
        if (o->kl_in == STM_KL_IN_REWARD_TO_GO && o->kl_coef != 0.0 && response->mask[k])
            to_go += response->old_logprobs[k] - response->ref_logprobs[k];
        out[k] = advantage - o->kl_coef * to_go;
    }
}

static void prepare_group(stm_objective_batch *b, size_t g)
{
    const stm_group *group = &b->batch->groups[g];
    const size_t n = group->n_responses, first = b->response_0[g];
    if (b->options->advantage_baseline == STM_BASELINE_BRPO) {
        stm_brpo_advantages(b->options, group, b->work, b->advantages + b->first_token[first]);
        return;
    }
    double *advantage = b->by_token ? b->work : b->advantages + first;
    of_group(b, group, b->work + n, advantage);
    const double factor = seed_factor(b->options, group, b->work + n);
    for (size_t i = 0; i < n; i++)
        advantage[i] *= factor;
    for (size_t i = 0; b->by_token && i < n; i++)
        lay_out_tokens(b->options, &group->responses[i], advantage[i], b->advantages + b->first_token[first + i]);
}

/* Deviation of all rewards of the batch. */
static double reward_std(const stm_objective_batch *b)
{
    double mean = 0, squares = 0;
    for (int pass = 0; pass < 2; pass++)
        for (size_t g = 0; g < b->batch->n_groups; g++)
            for (size_t i = 0; i < b->batch->groups[g].n_responses; i++) {
                const stm_group *group = &b->batch->groups[g];
                const double reward = stm_reward_of(b->options, group, &group->responses[i]);
                if (pass == 0)
                    mean += reward / (double)b->n_responses;
                else
                    squares += (reward - mean) * (reward - mean);
            }
    return b->n_responses > 1 ? sqrt(squares / (double)(b->n_responses - 1)) : 0.0;
}

/* Mean 0 and variance 1 over the batch's tokens with loss. */
static void whiten(stm_objective_batch *b)
{
    const double n = (double)b->totals.n_tokens;
    double mean = 0, squares = 0;
    for (int pass = 0; pass < 2; pass++)
        for (size_t g = 0, r = 0; g < b->batch->n_groups; g++)
            for (size_t i = 0; i < b->batch->groups[g].n_responses; i++, r++)
                for (size_t k = 0; k < b->batch->groups[g].responses[i].n; k++) {
                    if (!b->batch->groups[g].responses[i].mask[k])
                        continue;
                    const double a = b->advantages[b->by_token ? b->first_token[r] + k : r];
                    if (pass == 0)
                        mean += a / n;
                    else
                        squares += (a - mean) * (a - mean);
                }
    b->totals.whiten_mean = mean;
    b->totals.whiten_var = n > 1 ? squares / (n - 1) : 0.0;
    const double scale = sqrt(b->totals.whiten_var + b->options->whiten_eps);
    for (size_t i = 0; i < (b->by_token ? b->n_tokens : b->n_responses); i++)
        b->advantages[i] = scale == 0.0 ? 0.0 : (b->advantages[i] - mean) / scale;
}

void stm_prepare_advantages(stm_objective_batch *b)
{
    const bool brpo = b->options->advantage_baseline == STM_BASELINE_BRPO;
    if (b->options->advantage_scale == STM_SCALE_BATCH_STD && !brpo)
        b->totals.reward_std = reward_std(b);
    for (size_t g = 0; g < b->batch->n_groups; g++)
        prepare_group(b, g);
    if (b->options->advantage_scale == STM_SCALE_WHITEN && !brpo)
        whiten(b);
}

size_t stm_advantages_n_work(const stm_group *group)
{
    return STM_MAX(3 * group->n_responses, stm_brpo_n_work(group));
}

bool stm_advantages_by_token(const stm_objective_options *o)
{
    return o->advantage_baseline == STM_BASELINE_BRPO || (o->kl_in == STM_KL_IN_REWARD_TO_GO && o->kl_coef != 0.0);
}

unsigned stm_advantages_needs(const stm_objective_options *o)
{
    unsigned needs = o->advantage_baseline == STM_BASELINE_BRPO            ? STM_NEEDS_BUDGETS
                     : o->reward_combine == STM_REWARDS_NORMALIZE_THEN_SUM ? STM_NEEDS_PARTS
                     : o->score == STM_SCORE_WIN_RATE                      ? stm_oracle_needs(o)
                                                                           : STM_NEEDS_REWARDS;
    if (o->kl_coef != 0.0)
        needs |= STM_NEEDS_REFERENCE | (o->kl_in != STM_KL_IN_LOSS ? STM_NEEDS_OLD : 0);
    if (o->seed_alpha != 0.0)
        needs |= STM_NEEDS_CLUSTERS | STM_NEEDS_OLD;
    if (o->is_correction != STM_CORRECTION_NONE)
        needs |= STM_NEEDS_OLD;
    return needs;
}
