/* Thinking where it is needed and only there: right or wrong, less `penalties` for what the prompt's line asks for with
 * "needs_thought": true or false:
 *
 *   1 if right, else 0
 *   - penalties[0]   a thought was needed, and <think> .. </think> holds white space alone or is missing
 *   - penalties[1]   none was needed, and there is one
 *   - penalties[2]   the response does not begin with <think> .. </think>, or has one of these tags again
 *
 * The answer stands behind </think>, without it anywhere. AdaCoT (arXiv:2505.11896) subtracts these three; its values
 * are not known, those here by default are ours. */
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "reward/kinds.h"
#include "reward/span.h"

enum { MISSING, NEEDLESS, FORM, N_PENALTIES };

static double penalty(const stm_reward_item *item, size_t which)
{
    static const double usual[N_PENALTIES] = {0.5, 0.5, 1.0};
    return item->options.penalties.n == 0 ? usual[which] : item->options.penalties.items[which];
}

static stm_status check(const stm_reward_item *item)
{
    const size_t n = item->options.penalties.n;
    if (n == 0 || n == N_PENALTIES)
        return STM_OK;
    return stm_fail(STM_ERR_INPUT,
                    "%s.penalties: found %zu number%s, expected 3: a thought missing, a needless one, another form",
                    item->where, n, n == 1 ? "" : "s");
}

/* The line's label; false and a complaint without one. */
static bool read_label(const stm_reward_item *item, const stm_reward_input *input, bool *needed,
                       stm_complaint *complaint)
{
    json_t *fields = input->fields_json ? json_loads(input->fields_json, 0, NULL) : NULL;
    const json_t *label = json_object_get(fields, "needs_thought");
    const bool found = json_is_boolean(label);
    *needed = json_is_true(label);
    json_decref(fields);
    if (!found)
        stm_complain(complaint, "%s: needs_thought: expected true or false in the prompt's line", item->where);
    return found;
}

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    const stm_span text = stm_span_of(input->text);
    stm_span inside;
    stm_reward_input part = *input;
    bool needed, failed, thought = false;
    if (!read_label(item, input, &needed, complaint))
        return NAN;
    const bool closed = stm_span_between(text, "<think>", "</think>", &inside);
    if (closed) {
        thought = stm_span_strip(inside).n > 0;
        part.text = inside.at + inside.n + strlen("</think>");
    }
    const bool fits = closed && stm_span_starts(text, "<think>") && stm_span_count(text, "<think>") == 1 &&
                      stm_span_count(text, "</think>") == 1;
    const bool right = stm_reward_is_right(item, &part, complaint, &failed);
    if (failed)
        return NAN;
    double value = right ? 1.0 : 0.0;
    if (needed != thought)
        value -= penalty(item, needed ? MISSING : NEEDLESS);
    return fits ? value : value - penalty(item, FORM);
}

const stm_reward_kind stm_reward_adacot = {
    .name = "adacot",
    .reads = STM_READS_RIGHT | STM_READS_PENALTIES,
    .needs_answer = stm_reward_always,
    .check = check,
    .one = score,
};
