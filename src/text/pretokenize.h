/* src/text/pretokenize.h: the "pre_tokenizer" of tokenizer.json, which cuts text into words: ByteLevel, Split,
 * Metaspace, Whitespace, WhitespaceSplit, Digits, Punctuation, CharDelimiterSplit, BertPreTokenizer and Sequences of
 * them. Local, all of it. */
#ifndef STM_TEXT_PRETOKENIZE_H
#define STM_TEXT_PRETOKENIZE_H

#include "text/json.h"
#include "text/pieces.h"
#include "text/words.h"

typedef struct stm_pretokenizer stm_pretokenizer;

typedef enum { STM_PREPEND_ALWAYS, STM_PREPEND_FIRST, STM_PREPEND_NEVER } stm_prepend_scheme;

/* json null or absent: text stays whole. The caller destroys *out. Fails: STM_ERR_INPUT, STM_ERR_MEMORY. */
stm_status stm_pretokenizer_create(const json_t *json, stm_pretokenizer **out);
void stm_pretokenizer_destroy(stm_pretokenizer *pretokenizer); /* NULL is fine */

/* Cuts the pieces in place. plain: no pattern is matched by hand, with the same result. Fails: STM_ERR_MEMORY,
 * STM_ERR_INPUT. */
stm_status stm_pretokenizer_apply(const stm_pretokenizer *pretokenizer, bool plain, stm_pieces *pieces);

/* True where all it does is to cut at `words`, and, with *bytes, to spell the words' bytes in GPT-2's alphabet. */
bool stm_pretokenizer_is_words(const stm_pretokenizer *pretokenizer, stm_words *words, bool *bytes);

/* "replacement" (a character) and "prepend_scheme" or the older "add_prefix_space" of a Metaspace. */
stm_status stm_metaspace_read(const json_t *json, stm_string *replacement, stm_prepend_scheme *scheme);

#endif
