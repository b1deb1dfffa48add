/* BLEU of a response against the prompt's answer and the texts in its field "references" (Papineni et al. 2002), 0 to
 * 1, over tokens of mteval-v13a up to order 4. `style` sacrebleu: a sentence's score of sacreBLEU 2 (Post 2018,
 * arXiv:1804.08771) divided by 100: the k-th order without a match counts 1/2^k of a match, orders that the response is
 * too short for do not count, the reference nearest in length gives the brevity penalty. bleuberi: as BLEUBERI
 * (arXiv:2505.11080) has it: one match more everywhere, the shortest reference, and only what stands behind
 * "<answer>". */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "reward/kinds.h"
#include "reward/ngrams.h"
#include "reward/tokenize_13a.h"

enum { ORDERS = 4 };
enum { SACREBLEU, BLEUBERI }; /* in the order of the styles */

typedef struct {
    size_t matches[ORDERS], possible[ORDERS];
    size_t length; /* of the response, in tokens */
} counts;

/* The same n-gram matches as often as the reference has it that has it most. */
static stm_status count_order(const stm_words *words, size_t order, counts *c)
{
    stm_status status = STM_OK;
    stm_ngrams mine, reference = {.n = 0};
    size_t *most = NULL; /* [mine.n_distinct] */
    STM_GOTO_OUT(stm_ngrams_create(words->ids, words->first[1], order, &mine));
    STM_GOTO_OUT(stm_alloc(mine.n_distinct, sizeof *most, &most));
    for (size_t t = 1; t < words->n_texts; t++) {
        const size_t first = words->first[t];
        STM_GOTO_OUT(stm_ngrams_create(words->ids + first, words->first[t + 1] - first, order, &reference));
        for (size_t i = 0; i < mine.n_distinct; i++)
            most[i] = STM_MAX(most[i], stm_ngrams_find(&reference, &mine.items[i]));
        stm_ngrams_destroy(&reference);
    }
    c->possible[order - 1] = mine.n;
    c->matches[order - 1] = 0;
    for (size_t i = 0; i < mine.n_distinct; i++)
        c->matches[order - 1] += STM_MIN(most[i], mine.items[i].count);
out:
    free(most);
    stm_ngrams_destroy(&reference);
    stm_ngrams_destroy(&mine);
    return status;
}

static double sacrebleu(const stm_words *words, const counts *c)
{
    size_t nearest = 0, n_orders = 0;
    double sum = 0.0, smooth = 1.0;
    bool any = false;
    for (size_t t = 1; t < words->n_texts; t++) {
        const size_t length = words->first[t + 1] - words->first[t];
        const size_t far = length > c->length ? length - c->length : c->length - length;
        const size_t best = nearest > c->length ? nearest - c->length : c->length - nearest;
        if (t == 1 || far < best || (far == best && length < nearest))
            nearest = length;
    }
    for (; n_orders < ORDERS && c->possible[n_orders] > 0; n_orders++) {
        any = any || c->matches[n_orders] > 0;
        if (c->matches[n_orders] == 0)
            smooth *= 0.5;
        const double matches = c->matches[n_orders] > 0 ? (double)c->matches[n_orders] : smooth;
        sum += log(matches / (double)c->possible[n_orders]);
    }
    if (!any)
        return 0.0;
    const double brevity = STM_MIN(0.0, 1.0 - (double)nearest / (double)c->length);
    return exp(brevity + sum / (double)n_orders);
}

static double bleuberi(const stm_words *words, const counts *c)
{
    size_t shortest = words->first[2] - words->first[1];
    double sum = 0.0;
    if (c->length == 0)
        return 0.0;
    for (size_t t = 2; t < words->n_texts; t++)
        shortest = STM_MIN(shortest, words->first[t + 1] - words->first[t]);
    for (size_t k = 0; k < ORDERS; k++)
        sum += log(((double)c->matches[k] + 1.0) / ((double)c->possible[k] + 1.0));
    return exp(STM_MIN(0.0, 1.0 - (double)shortest / (double)c->length) + sum / ORDERS);
}

static bool is_bleuberi(const stm_reward_item *item)
{
    return item->style == BLEUBERI;
}

/* texts[0]: the response's tokens; [1 .. n - 1]: those of the references. */
static stm_status measure(const stm_reward_item *item, char *const *texts, size_t n, double *score)
{
    stm_status status = STM_OK;
    stm_span *spans = NULL;
    stm_words words = {.n_texts = 0};
    counts c;
    STM_GOTO_OUT(stm_alloc(n, sizeof *spans, &spans));
    for (size_t t = 0; t < n; t++)
        spans[t] = stm_span_of(texts[t]);
    STM_GOTO_OUT(stm_words_create(spans, n, &words));
    c.length = words.first[1];
    for (size_t order = 1; order <= ORDERS; order++)
        STM_GOTO_OUT(count_order(&words, order, &c));
    *score = is_bleuberi(item) ? bleuberi(&words, &c) : sacrebleu(&words, &c);
out:
    stm_words_destroy(&words);
    free(spans);
    return status;
}

/* Behind "<answer>", up to "</answer>" or the end; all of it without a tag. */
static stm_span answer_part(stm_span text)
{
    static const char open[] = "<answer>", close[] = "</answer>";
    const size_t first = stm_span_find(text, open, 0);
    if (first != STM_NOWHERE)
        text = stm_span_cut(text, first + strlen(open), text.n);
    const size_t end = stm_span_find(text, close, 0);
    return first == STM_NOWHERE || end == STM_NOWHERE ? text : stm_span_cut(text, 0, end);
}

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    stm_status status = STM_OK;
    size_t start, n, n_texts = 0;
    double value = 0.0;
    bool failed;
    char **texts = NULL; /* [2 + n_references] */
    if (!stm_reward_extract(item, input->text, &start, &n, complaint, &failed))
        return failed ? NAN : 0.0;
    stm_span text = {input->text + start, n};
    if (is_bleuberi(item))
        text = answer_part(text);
    json_t *fields = input->fields_json ? json_loads(input->fields_json, 0, NULL) : NULL, *reference;
    const json_t *references = json_object_get(fields, "references");
    size_t i;
    STM_GOTO_OUT(stm_alloc(2 + json_array_size(references), sizeof *texts, &texts));
    STM_GOTO_OUT(stm_tokenize_13a(text, &texts[n_texts++]));
    STM_GOTO_OUT(stm_tokenize_13a(stm_span_of(input->answer), &texts[n_texts++]));
    json_array_foreach(references, i, reference)
    {
        if (!json_is_string(reference)) {
            status = stm_fail(STM_ERR_INPUT, "references[%zu]: expected a text", i);
            goto out;
        }
        STM_GOTO_OUT(stm_tokenize_13a(stm_span_of(json_string_value(reference)), &texts[n_texts++]));
    }
    STM_GOTO_OUT(measure(item, texts, n_texts, &value));
out:
    for (size_t t = 0; texts && t < n_texts; t++)
        free(texts[t]);
    free(texts);
    json_decref(fields);
    return status == STM_OK ? value : stm_complain(complaint, "%s: %s", item->where, stm_failure());
}

const stm_reward_kind stm_reward_bleu = {
    .name = "bleu",
    .reads = STM_READS_EXTRACT | STM_READS_STYLE,
    .styles = (const char *const[]){"sacrebleu", "bleuberi", NULL},
    .needs_answer = stm_reward_always,
    .one = score,
};
