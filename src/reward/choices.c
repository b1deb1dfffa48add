/* Several choices, as TW-GRPO (arXiv:2505.24718) counts them: response and answer are sets of words between commas;
 * the share of the right ones that was given, and 0 as soon as one is wrong. */
#include <math.h>
#include <string.h>

#include "reward/kinds.h"
#include "reward/span.h"

/* Takes the next choice off the front of *rest. */
static bool next(stm_span *rest, stm_span *choice)
{
    while (rest->n > 0) {
        size_t end = stm_span_find(*rest, ",", 0);
        end = end == STM_NOWHERE ? rest->n : end;
        *choice = stm_span_strip(stm_span_cut(*rest, 0, end));
        *rest = stm_span_cut(*rest, STM_MIN(end + 1, rest->n), rest->n);
        if (choice->n > 0)
            return true;
    }
    return false;
}

static bool holds(stm_span list, stm_span choice)
{
    stm_span other;
    while (next(&list, &other))
        if (stm_span_same(other, choice))
            return true;
    return false;
}

/* The number of different choices; *all_in: each of them is in `other`. */
static size_t count(stm_span list, stm_span other, bool *all_in)
{
    size_t n = 0;
    stm_span rest = list, choice;
    *all_in = true;
    while (next(&rest, &choice)) {
        n += !holds(rest, choice); /* the last of equal ones counts */
        *all_in = *all_in && holds(other, choice);
    }
    return n;
}

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    size_t start, n;
    bool failed, subset, ignored;
    if (!stm_reward_extract(item, input->text, &start, &n, complaint, &failed))
        return failed ? NAN : 0.0;
    const stm_span mine = {input->text + start, n}, right = stm_span_of(input->answer);
    const size_t given = count(mine, right, &subset), wanted = count(right, right, &ignored);
    return subset && wanted > 0 ? (double)given / (double)wanted : 0.0;
}

const stm_reward_kind stm_reward_choices = {
    .name = "choices",
    .reads = STM_READS_EXTRACT,
    .needs_answer = stm_reward_always,
    .one = score,
};
