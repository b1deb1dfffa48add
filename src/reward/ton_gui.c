/* An action on a screen against the prompt's answer, an object {"action", "position": [x, y]}, the screen being 1 wide
 * and high. The response's action is the first 'action': word within <action>, its place the first [x, y] behind
 * "position" there. 0 to 3: the right action, whatever the case of its letters; a click where a click is right, at most
 * 0.14 from its place; "<think>..</think> <action>..</action>" (TON, arXiv:2505.16854). */
#include <math.h>
#include <string.h>
#include <strings.h>

#include "reward/blocks.h"
#include "reward/screen.h"

static const double NEAR = 0.14;

static double judge(const char *wanted, const double position[2], const char *text)
{
    stm_span inside;
    double place[2], points = stm_blocks_think_action(stm_span_of(text)) ? 1.0 : 0.0;
    if (!stm_span_between(stm_span_of(text), "<action>", "</action>", &inside))
        return points;
    const stm_span action = stm_screen_action(inside);
    if (action.n != strlen(wanted) || strncasecmp(action.at, wanted, action.n) != 0)
        return points;
    points += 1.0;
    const size_t at = stm_span_find(inside, "position", 0);
    if (strcasecmp(wanted, "click") != 0 || at == STM_NOWHERE ||
        !stm_screen_place(stm_span_cut(inside, at, inside.n), place))
        return points;
    return points + (hypot(place[0] - position[0], place[1] - position[1]) <= NEAR ? 1.0 : 0.0);
}

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    double position[2] = {NAN, NAN}, value; /* without a place none is near */
    json_t *answer = stm_screen_answer(input);
    if (answer && stm_screen_numbers(answer, "position", 2, position))
        value = judge(json_string_value(json_object_get(answer, "action")), position, input->text);
    else
        value =
            stm_complain(complaint, "%s: answer: expected an object {\"action\", \"position\": [x, y]}", item->where);
    json_decref(answer);
    return value;
}

const stm_reward_kind stm_reward_ton_gui = {
    .name = "ton_gui",
    .reads = 0,
    .needs_answer = stm_reward_never, /* an object is no text: it is read from the line */
    .one = score,
};
