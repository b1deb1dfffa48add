/* 1 if the response contains `text`, or the prompt's answer when `text` is empty; else 0. */
#include <string.h>

#include "reward/kinds.h"

static bool needs_answer(const stm_reward_options *options)
{
    return !options->text || options->text[0] == 0;
}

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    const char *wanted = needs_answer(&item->options) ? input->answer : item->options.text;
    if (strstr(input->text, wanted))
        return 1.0;
    if (!item->options.ignore_case)
        return 0.0;
    bool found = false;
    stm_pattern *pattern = NULL;
    stm_status status = stm_pattern_create_caseless(wanted, strlen(wanted), false, &pattern);
    if (status == STM_OK)
        status = stm_pattern_search(pattern, input->text, strlen(input->text), &found);
    stm_pattern_destroy(pattern);
    return status != STM_OK ? stm_complain(complaint, "%s: %s", item->where, stm_failure()) : found ? 1.0 : 0.0;
}

const stm_reward_kind stm_reward_contains = {
    .name = "contains",
    .reads = STM_READS_TEXT | STM_READS_IGNORE_CASE,
    .needs_answer = needs_answer,
    .one = score,
};
