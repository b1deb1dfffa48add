#include "reward/ngrams.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    stm_span word;
    size_t place;
} placed_word;

static int compare_words(const void *a, const void *b)
{
    const stm_span x = ((const placed_word *)a)->word, y = ((const placed_word *)b)->word;
    const int order = memcmp(x.at, y.at, STM_MIN(x.n, y.n));
    return order != 0 ? order : (x.n > y.n) - (x.n < y.n);
}

static int compare_ngrams(const void *a, const void *b)
{
    return memcmp(((const stm_ngram *)a)->ids, ((const stm_ngram *)b)->ids, sizeof((const stm_ngram *)a)->ids);
}

stm_status stm_words_create(const stm_span *texts, size_t n_texts, stm_words *out)
{
    stm_status status = STM_OK;
    placed_word *words = NULL;
    size_t n = 0, capacity = 0;
    *out = (stm_words){.n_texts = n_texts};
    STM_GOTO_OUT(stm_alloc(n_texts + 1, sizeof *out->first, &out->first));
    for (size_t t = 0; t < n_texts; t++) {
        stm_span rest = texts[t], word;
        while (stm_span_word(&rest, &word)) {
            STM_GOTO_OUT(stm_reserve(&words, &capacity, n + 1, sizeof *words));
            words[n] = (placed_word){word, n};
            n++;
        }
        out->first[t + 1] = n;
    }
    STM_GOTO_OUT(stm_alloc(n, sizeof *out->ids, &out->ids));
    if (n > 0)
        qsort(words, n, sizeof *words, compare_words);
    uint32_t id = 0;
    for (size_t i = 0; i < n; i++) {
        id += i == 0 || !stm_span_same(words[i].word, words[i - 1].word);
        out->ids[words[i].place] = id;
    }
out:
    free(words);
    return status;
}

void stm_words_destroy(stm_words *words)
{
    free(words->first);
    free(words->ids);
    *words = (stm_words){.n_texts = 0};
}

stm_status stm_ngrams_create(const uint32_t *ids, size_t n, size_t order, stm_ngrams *out)
{
    *out = (stm_ngrams){.n = n >= order ? n - order + 1 : 0};
    STM_TRY(stm_alloc(out->n, sizeof *out->items, &out->items));
    for (size_t i = 0; i < out->n; i++)
        memcpy(out->items[i].ids, ids + i, order * sizeof *ids);
    if (out->n > 0)
        qsort(out->items, out->n, sizeof *out->items, compare_ngrams);
    for (size_t i = 0; i < out->n; i++) {
        if (i == 0 || compare_ngrams(&out->items[i], &out->items[out->n_distinct - 1]) != 0)
            out->items[out->n_distinct++] = out->items[i];
        out->items[out->n_distinct - 1].count++;
    }
    return STM_OK;
}

void stm_ngrams_destroy(stm_ngrams *ngrams)
{
    free(ngrams->items);
    *ngrams = (stm_ngrams){.n = 0};
}

size_t stm_ngrams_find(const stm_ngrams *ngrams, const stm_ngram *ngram)
{
    const stm_ngram *found = ngrams->n_distinct == 0 ? NULL
                                                     : bsearch(ngram, ngrams->items, ngrams->n_distinct,
                                                               sizeof *ngrams->items, compare_ngrams);
    return found ? found->count : 0;
}

stm_status stm_ngrams_shared(stm_span a, stm_span b, size_t order, double *share)
{
    stm_status status = STM_OK;
    char *texts[2] = {NULL, NULL};
    stm_words words = {.n_texts = 0};
    stm_ngrams mine = {.n = 0}, right = {.n = 0};
    stm_span spans[2] = {a, b};
    size_t shared = 0;
    for (size_t i = 0; i < 2; i++) {
        STM_GOTO_OUT(stm_format(&texts[i], "%.*s", (int)spans[i].n, spans[i].at));
        for (char *c = texts[i]; *c; c++)
            *c = (char)(*c >= 'A' && *c <= 'Z' ? *c - 'A' + 'a' : *c);
        spans[i] = stm_span_of(texts[i]);
    }
    STM_GOTO_OUT(stm_words_create(spans, 2, &words));
    STM_GOTO_OUT(stm_ngrams_create(words.ids, words.first[1], order, &mine));
    STM_GOTO_OUT(stm_ngrams_create(words.ids + words.first[1], words.first[2] - words.first[1], order, &right));
    for (size_t i = 0; i < mine.n_distinct; i++)
        shared += stm_ngrams_find(&right, &mine.items[i]) > 0;
    const size_t either = mine.n_distinct + right.n_distinct - shared;
    *share = either > 0 ? (double)shared / (double)either : 0.0;
out:
    stm_ngrams_destroy(&mine);
    stm_ngrams_destroy(&right);
    stm_words_destroy(&words);
    free(texts[0]);
    free(texts[1]);
    return status;
}
