/* An action on a screen against the prompt's answer, an object {"action", "box": [x1, y1, x2, y2], "scale": [sx, sy]}.
 * The response's action is the first 'action': word and its place the first [x, y] within <answer>. 0 to 3: the right
 * action, the place (of a click: scaled, cut to integers, in the box or on its edge; of others: always right, if the
 * action is), and "<think>..</think> <answer>..</answer>" (UI-R1, arXiv:2503.21620). */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "reward/blocks.h"
#include "reward/kinds.h"

static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/* The word behind the first "action" with a colon; quotes and spaces around both do not count. */
static stm_span action_of(stm_span text)
{
    const stm_span none = {text.at, 0};
    size_t at = stm_span_find(text, "action", 0);
    if (at == STM_NOWHERE)
        return none;
    at += strlen("action");
    while (at < text.n && strchr("'\" :", text.at[at]))
        at++;
    size_t end = at;
    while (end < text.n && is_word(text.at[end]))
        end++;
    return stm_span_cut(text, at, end);
}

/* The first "[x, y]"; (0, 0) without one. */
static void place_of(stm_span text, double place[2])
{
    place[0] = place[1] = 0.0;
    for (size_t at = stm_span_find(text, "[", 0); at != STM_NOWHERE; at = stm_span_find(text, "[", at + 1)) {
        char *end;
        const double x = strtod(text.at + at + 1, &end);
        end += strspn(end, " ");
        if (*end != ',')
            continue;
        const double y = strtod(end + 1, &end);
        end += strspn(end, " ");
        if (*end != ']')
            continue;
        place[0] = x;
        place[1] = y;
        return;
    }
}

/* n numbers of a field into `out`, which keeps what it has where there is no such field. False: it is something else.
 */
static bool read_numbers(const json_t *answer, const char *key, size_t n, double *out)
{
    const json_t *list = json_object_get(answer, key);
    if (!list)
        return true;
    for (size_t i = 0; i < n; i++) {
        const json_t *number = json_array_get(list, i);
        if (!json_is_number(number))
            return false;
        out[i] = json_number_value(number);
    }
    return json_array_size(list) == n;
}

static double judge(const json_t *answer, const char *text, const double box[4], const double scale[2])
{
    stm_span inside;
    double place[2], points = stm_blocks_think_answer(stm_span_of(text)) ? 1.0 : 0.0;
    const char *wanted = json_string_value(json_object_get(answer, "action"));
    if (!stm_span_between(stm_span_of(text), "<answer>", "</answer>", &inside))
        return points;
    if (!stm_span_is(action_of(inside), wanted))
        return points;
    points += 1.0;
    if (strcmp(wanted, "click") != 0)
        return points + 1.0;
    place_of(inside, place);
    const double x = trunc(place[0] * scale[0]), y = trunc(place[1] * scale[1]);
    return points + (x >= box[0] && x <= box[2] && y >= box[1] && y <= box[3] ? 1.0 : 0.0);
}

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    double box[4] = {0.0, 0.0, -1.0, -1.0}, scale[2] = {1.0, 1.0}, value;
    json_t *fields = input->fields_json ? json_loads(input->fields_json, 0, NULL) : NULL;
    json_t *parsed = input->answer ? json_loads(input->answer, 0, NULL) : NULL;
    const json_t *answer = parsed ? parsed : json_object_get(fields, "answer");
    if (!json_is_string(json_object_get(answer, "action")) || !read_numbers(answer, "box", 4, box) ||
        !read_numbers(answer, "scale", 2, scale))
        value = stm_complain(
            complaint, "%s: answer: expected an object {\"action\", \"box\": [x1, y1, x2, y2], \"scale\": [sx, sy]}",
            item->where);
    else
        value = judge(answer, input->text, box, scale);
    json_decref(parsed);
    json_decref(fields);
    return value;
}

const stm_reward_kind stm_reward_ui_action = {
    .name = "ui_action",
    .reads = 0,
    .needs_answer = stm_reward_never, /* an object is no text: it is read from the line */
    .one = score,
};
