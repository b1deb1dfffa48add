/* Overlong shaping of DAPO (arXiv:2503.14476): 0 up to max_tokens - buffer_tokens, from there in a straight line to -1
 * at max_tokens, and -1 beyond. */
#include "reward/kinds.h"

static stm_status check(const stm_reward_item *item)
{
    const stm_reward_options *o = &item->options;
    if (o->max_tokens <= 0)
        return stm_fail(STM_ERR_INPUT, "%s.max_tokens: missing; the reward \"overlong\" needs it", item->where);
    if (o->min_tokens > 0)
        return stm_fail(STM_ERR_INPUT, "%s.min_tokens: the reward \"overlong\" does not read it", item->where);
    if (o->buffer_tokens > o->max_tokens)
        return stm_fail(STM_ERR_INPUT, "%s.buffer_tokens: found %lld, expected at most max_tokens, %lld", item->where,
                        (long long)o->buffer_tokens, (long long)o->max_tokens);
    return STM_OK;
}

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    (void)complaint;
    const double n = (double)input->n_tokens, buffer = (double)item->options.buffer_tokens;
    const double from = (double)item->options.max_tokens - buffer;
    if (n <= from)
        return 0.0;
    return n - from < buffer ? (from - n) / buffer : -1.0;
}

const stm_reward_kind stm_reward_overlong = {
    .name = "overlong",
    .reads = STM_READS_LENGTHS | STM_READS_BUFFER,
    .needs_answer = stm_reward_never,
    .check = check,
    .one = score,
};
