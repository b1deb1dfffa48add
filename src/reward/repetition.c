/* Repetition: distinct n-grams / n-grams - 1, so 0 without any and near -1 where the same words come again and again;
 * 0 for fewer than n words (arXiv:2502.03373). Words are split at white space, and A to Z count as a to z. */
#include <stdlib.h>
#include <string.h>

#include "reward/kinds.h"
#include "reward/ngrams.h"

static stm_status measure(const char *text, size_t order, double *value)
{
    stm_status status = STM_OK;
    stm_words words = {.n_texts = 0};
    stm_ngrams ngrams = {.n = 0};
    char *lower;
    STM_TRY(stm_format(&lower, "%s", text));
    for (char *c = lower; *c; c++)
        if (*c >= 'A' && *c <= 'Z')
            *c = (char)(*c - 'A' + 'a');
    const stm_span span = stm_span_of(lower);
    STM_GOTO_OUT(stm_words_create(&span, 1, &words));
    STM_GOTO_OUT(stm_ngrams_create(words.ids, words.first[1], order, &ngrams));
    *value = ngrams.n > 0 ? (double)ngrams.n_distinct / (double)ngrams.n - 1.0 : 0.0;
out:
    stm_ngrams_destroy(&ngrams);
    stm_words_destroy(&words);
    free(lower);
    return status;
}

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    double value = 0.0;
    const size_t order = item->options.ngram > 0 ? (size_t)item->options.ngram : 3;
    if (measure(input->text, order, &value) != STM_OK)
        return stm_complain(complaint, "%s: %s", item->where, stm_failure());
    return value;
}

const stm_reward_kind stm_reward_repetition = {
    .name = "repetition",
    .reads = STM_READS_NGRAM,
    .needs_answer = stm_reward_never,
    .one = score,
};
