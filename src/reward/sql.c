/* Parts of a query in SQL against the prompt's answer, 0 to 1: the last ```sql block of the response, or the
 * last ``` block, or all of it. ngram: distinct pairs of neighbouring words (lower case, split at white space) in both
 * to those in either. schema: the same for the tables, and the columns as table.column, that a query names. Whether a
 * query runs and what it returns asks for a database: that is left to `command`. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "reward/kinds.h"
#include "reward/ngrams.h"
#include "reward/sql_schema.h"

enum { NGRAM, SCHEMA }; /* in the order of the styles */

static stm_span last_block(stm_span text)
{
    stm_span block = text;
    size_t at = 0;
    while ((at = stm_span_find(text, "```", at)) != STM_NOWHERE) {
        size_t first = at + 3, end = stm_span_find(text, "```", first);
        if (end == STM_NOWHERE)
            break;
        if (stm_span_starts(stm_span_cut(text, first, end), "sql"))
            first += 3;
        block = stm_span_cut(text, first, end);
        at = end + 3;
    }
    block = stm_span_strip(block);
    if (block.n > 0 && block.at[block.n - 1] == ';')
        block.n--;
    return stm_span_strip(block);
}

/* Distinct n-grams in both of two texts of words to those in either. */
static stm_status overlap(const stm_span *texts, size_t order, double *value)
{
    stm_status status = STM_OK;
    stm_words words = {.n_texts = 0};
    stm_ngrams mine = {.n = 0}, right = {.n = 0};
    size_t shared = 0;
    STM_GOTO_OUT(stm_words_create(texts, 2, &words));
    STM_GOTO_OUT(stm_ngrams_create(words.ids, words.first[1], order, &mine));
    STM_GOTO_OUT(stm_ngrams_create(words.ids + words.first[1], words.first[2] - words.first[1], order, &right));
    for (size_t i = 0; i < mine.n_distinct; i++)
        shared += stm_ngrams_find(&right, &mine.items[i]) > 0;
    const size_t either = mine.n_distinct + right.n_distinct - shared;
    *value = either > 0 ? (double)shared / (double)either : 0.0;
out:
    stm_ngrams_destroy(&mine);
    stm_ngrams_destroy(&right);
    stm_words_destroy(&words);
    return status;
}

static stm_status compare(size_t style, stm_span mine, stm_span right, double *value)
{
    stm_status status = STM_OK;
    char *texts[2] = {NULL, NULL};
    const stm_span queries[] = {mine, right};
    stm_span spans[2];
    for (size_t i = 0; i < 2; i++) {
        if (style == SCHEMA) {
            STM_GOTO_OUT(stm_sql_schema(queries[i], &texts[i]));
        } else {
            STM_GOTO_OUT(stm_format(&texts[i], "%.*s", (int)queries[i].n, queries[i].at));
            for (char *c = texts[i]; *c; c++)
                *c = (char)(*c >= 'A' && *c <= 'Z' ? *c - 'A' + 'a' : *c);
        }
        spans[i] = stm_span_of(texts[i]);
    }
    STM_GOTO_OUT(overlap(spans, style == SCHEMA ? 1 : 2, value));
out:
    free(texts[0]);
    free(texts[1]);
    return status;
}

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    double value = 0.0;
    size_t start, n;
    bool failed;
    if (!stm_reward_extract(item, input->text, &start, &n, complaint, &failed))
        return failed ? NAN : 0.0;
    const stm_span mine = last_block((stm_span){input->text + start, n});
    if (compare(item->style, mine, last_block(stm_span_of(input->answer)), &value) != STM_OK)
        return stm_complain(complaint, "%s: %s", item->where, stm_failure());
    return value;
}

const stm_reward_kind stm_reward_sql = {
    .name = "sql",
    .reads = STM_READS_STYLE | STM_READS_EXTRACT,
    .styles = (const char *const[]){"ngram", "schema", NULL},
    .needs_answer = stm_reward_always,
    .one = score,
};
