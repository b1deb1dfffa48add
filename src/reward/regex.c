/* 1 if `pattern` is found somewhere in the response, else 0. `format` is the same under the name that people give it
 * when the pattern describes the form of a response. */
#include <string.h>

#include "reward/kinds.h"

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    bool found;
    if (stm_pattern_search(item->pattern, input->text, strlen(input->text), &found) != STM_OK)
        return stm_complain(complaint, "%s.pattern: %s", item->where, stm_failure());
    return found ? 1.0 : 0.0;
}

const stm_reward_kind stm_reward_regex = {
    .name = "regex",
    .reads = STM_READS_PATTERN,
    .needs_answer = stm_reward_never,
    .one = score,
};

const stm_reward_kind stm_reward_format = {
    .name = "format",
    .reads = STM_READS_PATTERN,
    .needs_answer = stm_reward_never,
    .one = score,
};
