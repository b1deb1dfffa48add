/* Right responses gain by being short, wrong ones by being long: half a cosine wave between two values
 * (arXiv:2502.03373; values of open-rs, arXiv:2503.16219). With x = length / scale, no more than 1: right: b + (a - b)
 * (1 + cos pi x) / 2 for reward_right [a, b]; wrong: the same for reward_wrong. */
#include <math.h>

#include "reward/kinds.h"
#include "reward/text_length.h"

static stm_status check_pair(const stm_reward_item *item, const char *key, const stm_numbers *pair)
{
    if (pair->n == 0 || pair->n == 2)
        return STM_OK;
    return stm_fail(STM_ERR_INPUT, "%s.%s: found %zu numbers, expected two: without length, and at scale", item->where,
                    key, pair->n);
}

static stm_status check(const stm_reward_item *item)
{
    STM_TRY(check_pair(item, "reward_right", &item->options.reward_right));
    return check_pair(item, "reward_wrong", &item->options.reward_wrong);
}

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    static const double preset[2][2] = {{0.0, -0.5}, {1.0, 0.5}}; /* wrong, right */
    bool failed;
    const bool right = stm_reward_is_right(item, input, complaint, &failed);
    if (failed)
        return NAN;
    const stm_numbers *given = right ? &item->options.reward_right : &item->options.reward_wrong;
    const double *ends = given->n > 0 ? given->items : preset[right];
    const double scale = item->options.scale > 0.0 ? item->options.scale : 1000.0;
    const double x = STM_MIN(1.0, stm_text_length(item, input) / scale);
    return ends[1] + (ends[0] - ends[1]) * (1.0 + cos(3.14159265358979323846 * x)) / 2.0;
}

const stm_reward_kind stm_reward_cosine = {
    .name = "cosine",
    .reads = STM_READS_RIGHT | STM_READS_SCALE | STM_READS_STYLE,
    .styles = stm_text_lengths,
    .needs_answer = stm_reward_always,
    .check = check,
    .one = score,
};
