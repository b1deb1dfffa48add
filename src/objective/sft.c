/* Supervised fine-tuning: the negative log-likelihood of the given responses. L = -weight logp per token with loss;
 * rewards play no part. */
#include "objective/registry.h"

static unsigned needs(const stm_objective_options *o)
{
    (void)o;
    return 0;
}

static void tokens(const stm_objective_options *o, const stm_totals *totals, const stm_tokens *t,
                   stm_objective_sums *sums)
{
    (void)totals;
    for (size_t k = 0; k < t->n; k++) {
        if (!t->mask[k])
            continue;
        const double weight = stm_weight_at(t, o, k);
        t->dlogp[k] -= weight;
        sums->loss -= weight * t->logp[k];
        sums->n_tokens += 1.0;
        sums->entropy += t->entropy ? t->entropy[k] : 0.0;
    }
}

const stm_objective stm_objective_sft = {
    .name = "sft",
    .summary = "supervised fine-tuning: negative log-likelihood of each line's response",
    .reads = STM_KEYS(STM_READS_WEIGHTS),
    .needs_rewards = false,
    .needs = needs,
    .scope = STM_SCOPE_TOKEN,
    .tokens = tokens,
};
