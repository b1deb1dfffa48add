/* src/text/subwords.h: the "model" of tokenizer.json, which turns a word into ids: BPE (byte pairs, merged in order of
 * rank) or WordLevel (whole words). A word of n characters costs O(n log n). Local, all of it. */
#ifndef STM_TEXT_SUBWORDS_H
#define STM_TEXT_SUBWORDS_H

#include "text/cache.h"
#include "text/json.h"
#include "text/vocab.h"

typedef struct stm_subwords stm_subwords;

typedef struct {
    int32_t *items;
    size_t n, capacity;
} stm_ids;

stm_status stm_ids_add(stm_ids *ids, int32_t id);

/* bytes: the words of stm_subwords_encode come as they are, to be spelled in GPT-2's alphabet, in which the vocabulary
 * is. The caller destroys *out. Fails: STM_ERR_INPUT, STM_ERR_MEMORY. */
stm_status stm_subwords_create(const json_t *json, bool bytes, stm_subwords **out);
void stm_subwords_destroy(stm_subwords *subwords); /* NULL is fine */

const stm_vocab *stm_subwords_vocab(const stm_subwords *subwords);

/* Room that encoding uses again and again; {0} at first. For one thread at a time. */
typedef struct {
    void *symbols, *heap;
    size_t symbols_capacity, heap_capacity;
    stm_string spelled;
    stm_cache *cache;
} stm_subwords_room;

void stm_subwords_room_free(stm_subwords_room *room);

/* Appends the ids of a word of well-formed UTF-8. Fails: STM_ERR_INPUT (a WordLevel vocabulary has neither the word nor
 * an unknown token), STM_ERR_MEMORY. */
stm_status stm_subwords_encode(const stm_subwords *subwords, stm_subwords_room *room, const char *word, size_t n,
                               stm_ids *ids);

/* The same the plain way, without cutting the word and remembering the parts; where the vocabulary is of bytes, the
 * word must have been spelled. */
stm_status stm_subwords_encode_plain(const stm_subwords *subwords, stm_subwords_room *room, const char *word, size_t n,
                                     stm_ids *ids);

#endif
