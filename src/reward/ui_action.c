/* An action on a screen against the prompt's answer, an object {"action", "box": [x1, y1, x2, y2], "scale": [sx, sy]}.
 * The response's action is the first 'action': word and its place the first [x, y] within <answer>. 0 to 3: the right
 * action, the place (of a click: scaled, cut to integers, in the box or on its edge; of others: always right, if the
 * action is), and "<think>..</think> <answer>..</answer>" (UI-R1, arXiv:2503.21620). */
#include <math.h>
#include <string.h>

#include "reward/blocks.h"
#include "reward/screen.h"

static double judge(const json_t *answer, const char *text, const double box[4], const double scale[2])
{
    stm_span inside;
    double place[2] = {0.0, 0.0}, points = stm_blocks_think_answer(stm_span_of(text)) ? 1.0 : 0.0;
    const char *wanted = json_string_value(json_object_get(answer, "action"));
    if (!stm_span_between(stm_span_of(text), "<answer>", "</answer>", &inside))
        return points;
    if (!stm_span_is(stm_screen_action(inside), wanted))
        return points;
    points += 1.0;
    if (strcmp(wanted, "click") != 0)
        return points + 1.0;
    (void)stm_screen_place(inside, place); /* none is (0, 0) */
    const double x = trunc(place[0] * scale[0]), y = trunc(place[1] * scale[1]);
    return points + (x >= box[0] && x <= box[2] && y >= box[1] && y <= box[3] ? 1.0 : 0.0);
}

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    double box[4] = {0.0, 0.0, -1.0, -1.0}, scale[2] = {1.0, 1.0}, value;
    json_t *answer = stm_screen_answer(input);
    if (answer && stm_screen_numbers(answer, "box", 4, box) && stm_screen_numbers(answer, "scale", 2, scale))
        value = judge(answer, input->text, box, scale);
    else
        value = stm_complain(
            complaint, "%s: answer: expected an object {\"action\", \"box\": [x1, y1, x2, y2], \"scale\": [sx, sy]}",
            item->where);
    json_decref(answer);
    return value;
}

const stm_reward_kind stm_reward_ui_action = {
    .name = "ui_action",
    .reads = 0,
    .needs_answer = stm_reward_never, /* an object is no text: it is read from the line */
    .one = score,
};
