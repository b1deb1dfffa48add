/* Form and accuracy, as DianJin-R1 (arXiv:2504.15716) adds them: 1 for "<think>..</think> <answer>..</answer>" and
 * nothing else, and 1 for a right answer between the tags. */
#include <math.h>
#include <stdlib.h>

#include "reward/blocks.h"
#include "reward/kinds.h"

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    stm_span inside;
    bool failed, right = false;
    char *answer;
    const stm_span text = stm_span_of(input->text);
    if (stm_span_between(text, "<answer>", "</answer>", &inside)) {
        if (stm_format(&answer, "%.*s", (int)inside.n, inside.at) != STM_OK)
            return stm_complain(complaint, "%s: %s", item->where, stm_failure());
        stm_reward_input part = *input;
        part.text = answer;
        right = stm_reward_is_right(item, &part, complaint, &failed);
        free(answer);
        if (failed)
            return NAN;
    }
    return (stm_blocks_think_answer(text) ? 1.0 : 0.0) + (right ? 1.0 : 0.0);
}

const stm_reward_kind stm_reward_dianjin = {
    .name = "dianjin",
    .reads = STM_READS_RIGHT,
    .needs_answer = stm_reward_always,
    .one = score,
};
