/* A verdict on an action before it is done, with a better one. The answer's first line is the right verdict, such as
 * Correct or Incorrect, its second, if there is one, the action to suggest. 0 to 3:
 *
 *   form         1: <thought>..</thought> <score>..</score> <suggestion>..</suggestion>
 *   verdict      1: the text between the last <score> and </score> is the answer's, white space apart
 *   suggestion   words in both suggestions to words in either, without case; 1 where the answer has none
 *
 * GUI-Critic-R1 (arXiv:2506.04614) adds these three; there a model compares the suggestions. Weights and the tags
 * beside <score> are ours. */
#include <stdlib.h>
#include <string.h>

#include "reward/blocks.h"
#include "reward/kinds.h"
#include "reward/ngrams.h"

static bool fits(stm_span text)
{
    static const char *const pieces[] = {"<thought>", "</thought>~<score>", "</score>~<suggestion>", "</suggestion>"};
    return stm_blocks_fit(text, pieces, 4);
}

/* Between the last `open` and the first `close` behind it, without white space at its ends. */
static bool last_between(stm_span text, const char *open, const char *close, stm_span *inside)
{
    size_t last = STM_NOWHERE;
    for (size_t at = 0; (at = stm_span_find(text, open, at)) != STM_NOWHERE; at++)
        last = at;
    if (last == STM_NOWHERE || !stm_span_between(stm_span_cut(text, last, text.n), open, close, inside))
        return false;
    *inside = stm_span_strip(*inside);
    return true;
}

/* Cuts the answer at its first line's end. */
static void parts_of(const char *answer, stm_span *verdict, stm_span *suggestion)
{
    const stm_span text = stm_span_strip(stm_span_of(answer));
    const size_t end = stm_span_find(text, "\n", 0);
    *verdict = stm_span_strip(stm_span_cut(text, 0, end == STM_NOWHERE ? text.n : end));
    *suggestion = stm_span_strip(stm_span_cut(text, end == STM_NOWHERE ? text.n : end, text.n));
}

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    stm_span verdict, suggestion, mine;
    const stm_span text = stm_span_of(input->text);
    double value = fits(text) ? 1.0 : 0.0, shared = 0.0;
    parts_of(input->answer, &verdict, &suggestion);
    if (last_between(text, "<score>", "</score>", &mine) && stm_span_same(mine, verdict))
        value += 1.0;
    if (suggestion.n == 0)
        return value + 1.0;
    if (last_between(text, "<suggestion>", "</suggestion>", &mine) &&
        stm_ngrams_shared(mine, suggestion, 1, &shared) != STM_OK)
        return stm_complain(complaint, "%s: %s", item->where, stm_failure());
    return value + shared;
}

const stm_reward_kind stm_reward_gui_critic = {
    .name = "gui_critic",
    .reads = 0,
    .needs_answer = stm_reward_always,
    .one = score,
};
