/* src/reward/ngrams.h: texts as rows of numbers, the same number for the same word, and the n-grams of such rows.
 * Local. Fails: STM_ERR_MEMORY. */
#ifndef STM_REWARD_NGRAMS_H
#define STM_REWARD_NGRAMS_H

#include "base/base.h"
#include "reward/span.h"

enum { STM_NGRAM_ORDERS = 8 };

/* Words of text t: ids[first[t]] .. ids[first[t + 1] - 1]. */
typedef struct {
    size_t n_texts;
    size_t *first; /* [n_texts + 1] */
    uint32_t *ids; /* from 1 on */
} stm_words;

/* Splits each text at white space. The caller destroys *out, also after a failure. */
stm_status stm_words_create(const stm_span *texts, size_t n_texts, stm_words *out);
void stm_words_destroy(stm_words *words);

typedef struct {
    uint32_t ids[STM_NGRAM_ORDERS]; /* zeros behind the order */
    size_t count;
} stm_ngram;

typedef struct {
    size_t n, n_distinct;
    stm_ngram *items; /* [n_distinct], in the order of their ids */
} stm_ngrams;

/* The n-grams of one order, 1 .. STM_NGRAM_ORDERS, of ids[0..n). The caller destroys *out, also after a failure. */
stm_status stm_ngrams_create(const uint32_t *ids, size_t n, size_t order, stm_ngrams *out);
void stm_ngrams_destroy(stm_ngrams *ngrams);

/* How often `ngram` occurs; 0: not there. */
size_t stm_ngrams_find(const stm_ngrams *ngrams, const stm_ngram *ngram);

/* Distinct n-grams of words in both texts to those in either, 0 to 1; upper and lower case letters of ASCII are the
 * same. *share: 0 where neither has any. */
stm_status stm_ngrams_shared(stm_span a, stm_span b, size_t order, double *share);

#endif
