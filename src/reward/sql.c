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

static stm_status compare_schemas(stm_span mine, stm_span right, double *value)
{
    stm_status status = STM_OK;
    char *texts[2] = {NULL, NULL};
    STM_GOTO_OUT(stm_sql_schema(mine, &texts[0]));
    STM_GOTO_OUT(stm_sql_schema(right, &texts[1]));
    STM_GOTO_OUT(stm_ngrams_shared(stm_span_of(texts[0]), stm_span_of(texts[1]), 1, value));
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
    const stm_span mine = last_block((stm_span){input->text + start, n}),
                   right = last_block(stm_span_of(input->answer));
    if ((item->style == SCHEMA ? compare_schemas(mine, right, &value) : stm_ngrams_shared(mine, right, 2, &value)) !=
        STM_OK)
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
