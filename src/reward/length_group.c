/* Length within the group (Kimi k1.5, arXiv:2501.12599): y = 1/2 - (length - shortest) / (longest - shortest), for
 * right responses y, for wrong ones min(0, y); 0 for all where all are of one length. */
#include <math.h>

#include "reward/text_length.h"

static void score_group(const stm_reward_item *item, size_t n, const stm_reward_input *inputs, double *out,
                        stm_complaint *complaint)
{
    double shortest = INFINITY, longest = 0.0;
    for (size_t r = 0; r < n; r++) {
        out[r] = stm_text_length(item, &inputs[r]);
        shortest = STM_MIN(shortest, out[r]);
        longest = STM_MAX(longest, out[r]);
    }
    for (size_t r = 0; r < n; r++) {
        bool failed;
        const bool right = stm_reward_is_right(item, &inputs[r], complaint, &failed);
        const double y = longest > shortest ? 0.5 - (out[r] - shortest) / (longest - shortest) : 0.0;
        out[r] = failed ? NAN : right ? y : STM_MIN(0.0, y);
    }
}

static stm_status score(const stm_reward_item *item, size_t n, const stm_reward_input *inputs, double *out,
                        stm_complaint *complaint)
{
    for (size_t first = 0, end; first < n; first = end) {
        end = stm_group_end(inputs, n, first);
        score_group(item, end - first, inputs + first, out + first, complaint);
    }
    return STM_OK;
}

const stm_reward_kind stm_reward_length_group = {
    .name = "length_group",
    .reads = STM_READS_RIGHT | STM_READS_STYLE,
    .styles = stm_text_lengths,
    .needs_answer = stm_reward_always,
    .all = score,
};
