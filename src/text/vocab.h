/* src/text/vocab.h: token strings and their ids, both ways. The vocabulary owns copies of the strings. Local. */
#ifndef STM_TEXT_VOCAB_H
#define STM_TEXT_VOCAB_H

#include "text/utf8.h"

typedef struct stm_vocab stm_vocab;

enum { STM_VOCAB_LARGEST_ID = (1 << 24) - 1 }; /* ids come from files: tables of this size are bearable */

/* expected: number of strings, a hint. The caller destroys *out. Fails: STM_ERR_MEMORY. */
stm_status stm_vocab_create(size_t expected, stm_vocab **out);
void stm_vocab_destroy(stm_vocab *vocab); /* NULL is fine */

/* A string that is there already gets the new id. Fails: STM_ERR_INPUT (id out of range), STM_ERR_MEMORY. */
stm_status stm_vocab_add(stm_vocab *vocab, const char *text, size_t n, int64_t id);

int32_t stm_vocab_find(const stm_vocab *vocab, const char *text, size_t n); /* -1: none */

/* The string of an id, or NULL. Valid until the next add. */
const char *stm_vocab_text(const stm_vocab *vocab, int64_t id, size_t *n);

size_t stm_vocab_n_ids(const stm_vocab *vocab); /* largest id + 1 */
size_t stm_vocab_n_strings(const stm_vocab *vocab);

#endif
