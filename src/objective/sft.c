/* Supervised fine-tuning: the negative log-likelihood of the given responses. L = -weight logp per token with loss;
 * rewards play no part. */
#include "objective/registry.h"

static void advantages(const stm_objective_options *options, size_t n, const double *rewards, double *advantage)
{
    (void)options, (void)rewards;
    for (size_t i = 0; i < n; i++)
        advantage[i] = 1.0;
}

static void tokens(const stm_objective_options *options, double advantage, double weight, const stm_tokens *t,
                   stm_objective_sums *sums)
{
    (void)options, (void)advantage;
    for (size_t k = 0; k < t->n; k++) {
        if (!t->mask[k])
            continue;
        t->dlogp[k] -= weight;
        sums->loss -= weight * t->logp[k];
        sums->n_tokens += 1.0;
        sums->entropy += t->entropy ? t->entropy[k] : 0.0;
    }
}

const stm_objective stm_objective_sft = {
    .name = "sft",
    .summary = "supervised fine-tuning: negative log-likelihood of each line's response",
    .scope = STM_SCOPE_TOKEN,
    .needs_rewards = false,
    .advantages = advantages,
    .tokens = tokens,
};
