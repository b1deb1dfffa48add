/* Right answers without thought first (Thinkless, arXiv:2505.13379): right behind "<short>" 1, right behind "<think>"
 * 1/2; wrong, or neither of the two: -1. The answer stands behind "</think>" where both tags of it are there, else
 * behind "<short>". */
#include <math.h>
#include <string.h>

#include "reward/kinds.h"
#include "reward/span.h"

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    const stm_span text = stm_span_of(input->text);
    const size_t think = stm_span_find(text, "<think>", 0), end = stm_span_find(text, "</think>", 0);
    const size_t brief = stm_span_find(text, "<short>", 0);
    const bool thought = think != STM_NOWHERE && end != STM_NOWHERE;
    bool failed;
    if (!thought && brief == STM_NOWHERE)
        return -1.0;
    stm_reward_input part = *input;
    part.text += thought ? end + strlen("</think>") : brief + strlen("<short>");
    const bool right = stm_reward_is_right(item, &part, complaint, &failed);
    if (failed)
        return NAN;
    return !right ? -1.0 : thought ? 0.5 : 1.0;
}

const stm_reward_kind stm_reward_thinkless = {
    .name = "thinkless",
    .reads = STM_READS_RIGHT,
    .needs_answer = stm_reward_always,
    .one = score,
};
