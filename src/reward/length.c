/* Length in tokens: 1 from min_tokens to max_tokens. Shorter: n / min_tokens, 0 for an empty response. Longer: falls in
 * a straight line from 1 at max_tokens to 0 at twice that, and stays there. max_tokens 0: no upper end. */
#include "reward/kinds.h"

static stm_status check(const stm_reward_item *item)
{
    const int64_t low = item->options.min_tokens, high = item->options.max_tokens;
    if (low <= 0 && high <= 0)
        return stm_fail(STM_ERR_INPUT, "%s: the reward \"length\" needs min_tokens, max_tokens or both", item->where);
    if (high > 0 && low > high)
        return stm_fail(STM_ERR_INPUT, "%s.min_tokens: found %lld, expected at most max_tokens, %lld", item->where,
                        (long long)low, (long long)high);
    return STM_OK;
}

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    (void)complaint;
    const double n = (double)input->n_tokens;
    const double low = (double)item->options.min_tokens, high = (double)item->options.max_tokens;
    if (n < low)
        return n / low;
    if (high <= 0.0 || n <= high)
        return 1.0;
    return STM_MAX(0.0, 1.0 - (n - high) / high);
}

const stm_reward_kind stm_reward_length = {
    .name = "length",
    .reads = STM_READS_LENGTHS,
    .needs_answer = stm_reward_never,
    .check = check,
    .one = score,
};
