/* src/text/words.h: the patterns by which GPT-2, Llama 3 and Qwen2 cut text into words, matched by hand.
 *
 *   GPT-2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *   Llama 3  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|
 *            \s+(?!\S)|\s+
 *   Qwen2    as Llama 3, with \p{N} alone
 *
 * Each of these matches at every position, so words follow each other without a gap. A pattern is known by its exact
 * text; the same text run by regex.h is the plain twin, and decides what \p{L}, \p{N} and \s are. Local, all of it. */
#ifndef STM_TEXT_WORDS_H
#define STM_TEXT_WORDS_H

#include "base/base.h"

typedef enum { STM_WORDS_UNKNOWN, STM_WORDS_GPT2, STM_WORDS_LLAMA3, STM_WORDS_QWEN2 } stm_words;

/* Which pattern this is; STM_WORDS_UNKNOWN: none of them. Fails when the classes of characters cannot be found, which
 * happens once for all: STM_ERR_MEMORY. */
stm_status stm_words_find(const char *pattern, size_t n, stm_words *out);

extern const char stm_words_gpt2_pattern[];

/* Where the word that begins at text[at] ends; at < n, the text well-formed UTF-8. Several threads may call. */
size_t stm_words_end(stm_words words, const char *text, size_t n, size_t at);

#endif
