/* The form of a response: 1 or 0. think-answer: "<think>..</think> <answer>..</answer>" and nothing else; think-action:
 * the same with <action> (TON, arXiv:2505.16854); end-think: the line "</think>" exactly once (open-rs); tool: as
 * ToolRL (arXiv:2504.13958) asks, the blocks <tool_call> and <response> that the prompt's answer has, once each, behind
 * <think>..</think>. */
#include "reward/blocks.h"
#include "reward/kinds.h"

enum { THINK_ANSWER, THINK_ACTION, END_THINK, TOOL }; /* in the order of the styles */

static bool once(stm_span text, const char *open, const char *close)
{
    return stm_span_count(text, open) == 1 && stm_span_count(text, close) == 1;
}

static bool fits_tool(stm_span text, stm_span answer)
{
    static const char *const neither[] = {"<think>", "</think>"},
                             *const call[] = {"<think>", "</think>\n<tool_call>\n", "\n</tool_call>"},
                             *const response[] = {"<think>", "</think>\n<response>", "</response>"},
                             *const both[] = {"<think>", "</think>\n<tool_call>\n", "\n</tool_call>\n<response>",
                                              "</response>"};
    const bool has_call = stm_span_count(answer, "<tool_call>") > 0;
    const bool has_response = stm_span_count(answer, "<response>") > 0;
    if ((has_call && !once(text, "<tool_call>", "</tool_call>")) ||
        (has_response && !once(text, "<response>", "</response>")))
        return false;
    if (has_call)
        return has_response ? stm_blocks_fit(text, both, 4) : stm_blocks_fit(text, call, 3);
    return has_response ? stm_blocks_fit(text, response, 3) : stm_blocks_fit(text, neither, 2);
}

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    const stm_span text = stm_span_of(input->text);
    bool fits;
    if (item->style == TOOL && !input->answer)
        return stm_complain(complaint, "%s: the prompt has no \"answer\", which the style \"tool\" reads", item->where);
    if (item->style == THINK_ANSWER)
        fits = stm_blocks_think_answer(text);
    else if (item->style == THINK_ACTION)
        fits = stm_blocks_think_action(text);
    else if (item->style == END_THINK)
        fits = stm_span_count(text, "\n</think>\n") == 1;
    else
        fits = fits_tool(text, stm_span_of(input->answer));
    return fits ? 1.0 : 0.0;
}

const stm_reward_kind stm_reward_tags = {
    .name = "tags",
    .reads = STM_READS_STYLE,
    .styles = (const char *const[]){"think-answer", "think-action", "end-think", "tool", NULL},
    .needs_answer = stm_reward_never,
    .one = score,
};
