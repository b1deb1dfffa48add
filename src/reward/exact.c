/* The response, or what `extract` takes from it, is the answer: 1 or 0. White space at both ends of both does not
 * count. */
#include <math.h>
#include <string.h>

#include "reward/kinds.h"

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void strip(const char **text, size_t *n)
{
    while (*n > 0 && is_space(**text)) {
        (*text)++;
        (*n)--;
    }
    while (*n > 0 && is_space((*text)[*n - 1]))
        (*n)--;
}

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    size_t start, n, n_answer = strlen(input->answer);
    bool failed, same = false;
    if (!stm_reward_extract(item, input->text, &start, &n, complaint, &failed))
        return failed ? NAN : 0.0;
    const char *text = input->text + start, *answer = input->answer;
    strip(&text, &n);
    strip(&answer, &n_answer);
    if (n == n_answer && memcmp(text, answer, n) == 0)
        return 1.0;
    if (!item->options.ignore_case || n == 0 || n_answer == 0)
        return 0.0;
    stm_pattern *pattern = NULL;
    stm_status status = stm_pattern_create_caseless(answer, n_answer, true, &pattern);
    if (status == STM_OK)
        status = stm_pattern_search(pattern, text, n, &same);
    stm_pattern_destroy(pattern);
    return status != STM_OK ? stm_complain(complaint, "%s: %s", item->where, stm_failure()) : same ? 1.0 : 0.0;
}

const stm_reward_kind stm_reward_exact = {
    .name = "exact",
    .reads = STM_READS_EXTRACT | STM_READS_IGNORE_CASE,
    .needs_answer = stm_reward_always,
    .one = score,
};
