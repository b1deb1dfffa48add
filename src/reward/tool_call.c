/* Calls of tools against those of the prompt's answer (ToolRL, arXiv:2504.13958), -3 to 3. A call is a JSON object
 * {"name", "parameters" or "arguments"} on a line of its own within <tool_call>..</tool_call>. 3 for the same calls in
 * the same order, -3 for none or what cannot be read; between them 6 score / top - 3: the score is the overlap of the
 * names, and for every right call, against the best call of its name not yet used, the overlap of the keys and the
 * number of keys with the right value; top is the score of equal calls. An answer without calls: 0. */
#include <jansson.h>
#include <string.h>

#include "reward/kinds.h"
#include "reward/span.h"

static const json_t *parameters_of(const json_t *call)
{
    const json_t *parameters = json_object_get(call, "parameters");
    return parameters ? parameters : json_object_get(call, "arguments");
}

/* An array of the calls, or NULL: there is no block, or something else stands in it. The caller frees it. */
static json_t *read_calls(const char *text)
{
    stm_span inside;
    if (!stm_span_between(stm_span_of(text), "<tool_call>", "</tool_call>", &inside))
        return NULL;
    json_t *calls = json_array();
    for (size_t first = 0; calls && first < inside.n;) {
        size_t end = stm_span_find(inside, "\n", first);
        end = end == STM_NOWHERE ? inside.n : end;
        const stm_span line = stm_span_strip(stm_span_cut(inside, first, end));
        first = end + 1;
        if (line.n == 0)
            continue;
        json_t *call = json_loadb(line.at, line.n, 0, NULL);
        if (!json_is_string(json_object_get(call, "name")) || !json_is_object(parameters_of(call))) {
            json_decref(call);
            json_decref(calls);
            return NULL;
        }
        json_array_append_new(calls, call);
    }
    return calls;
}

static size_t count_name(const json_t *calls, const char *name)
{
    size_t i, n = 0;
    json_t *call;
    json_array_foreach(calls, i, call)
    {
        n += strcmp(json_string_value(json_object_get(call, "name")), name) == 0;
    }
    return n;
}

static double overlap(size_t shared, size_t a, size_t b)
{
    return a + b == 0 ? 1.0 : (double)shared / (double)(a + b - shared);
}

/* Of two lists of names: those in both, as often as both have them, to those in either. */
static double names_overlap(const json_t *mine, const json_t *right)
{
    size_t shared = 0, i, j;
    json_t *call;
    json_array_foreach(mine, i, call)
    {
        const char *name = json_string_value(json_object_get(call, "name"));
        size_t before = 0;
        for (j = 0; j < i; j++)
            before += strcmp(json_string_value(json_object_get(json_array_get(mine, j), "name")), name) == 0;
        shared += before < count_name(right, name);
    }
    return overlap(shared, json_array_size(mine), json_array_size(right));
}

static double parameters_score(const json_t *mine, json_t *right)
{
    size_t shared = 0, equal = 0;
    const char *key;
    json_t *value;
    json_object_foreach(right, key, value)
    {
        const json_t *other = json_object_get(mine, key);
        shared += other != NULL;
        equal += other && json_equal(other, value);
    }
    return overlap(shared, json_object_size(mine), json_object_size(right)) + (double)equal;
}

/* The best of the calls for a right one; taken out of `unused` if it is worth anything. */
static double best_match(json_t *unused, const json_t *right)
{
    size_t i, best_at = 0;
    double best = 0.0;
    json_t *call;
    const char *name = json_string_value(json_object_get(right, "name"));
    json_array_foreach(unused, i, call)
    {
        if (strcmp(json_string_value(json_object_get(call, "name")), name) != 0)
            continue;
        const double score = parameters_score(parameters_of(call), (json_t *)parameters_of(right));
        if (score > best) {
            best = score;
            best_at = i;
        }
    }
    if (best > 0.0)
        json_array_remove(unused, best_at);
    return best;
}

static bool equal_calls(const json_t *mine, const json_t *right)
{
    bool equal = json_array_size(mine) == json_array_size(right);
    size_t i;
    json_t *call;
    json_array_foreach(mine, i, call)
    {
        const json_t *other = json_array_get(right, i);
        equal = equal && json_equal(json_object_get(call, "name"), json_object_get(other, "name")) &&
                json_equal(parameters_of(call), parameters_of(other));
    }
    return equal;
}

static double compare(json_t *mine, const json_t *right)
{
    if (equal_calls(mine, right))
        return 3.0;
    double score = names_overlap(mine, right), top = 1.0;
    size_t i;
    json_t *call;
    json_array_foreach(right, i, call)
    {
        top += 1.0 + (double)json_object_size(parameters_of(call));
        score += best_match(mine, call);
    }
    return 6.0 * score / top - 3.0;
}

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    double value = 0.0;
    json_t *mine = read_calls(input->text), *right = read_calls(input->answer);
    if (!right && stm_span_count(stm_span_of(input->answer), "<tool_call>") > 0)
        value = stm_complain(complaint, "%s: answer: expected lines of {\"name\", \"parameters\"} within <tool_call>",
                             item->where);
    else if (right)
        value = mine ? compare(mine, right) : -3.0;
    json_decref(mine);
    json_decref(right);
    return value;
}

const stm_reward_kind stm_reward_tool_call = {
    .name = "tool_call",
    .reads = 0,
    .needs_answer = stm_reward_always,
    .one = score,
};
