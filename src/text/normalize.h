/* src/text/normalize.h: the "normalizer" of tokenizer.json: NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Nmt,
 * Prepend, Replace, ByteLevel and Sequences of them. Local, all of it. */
#ifndef STM_TEXT_NORMALIZE_H
#define STM_TEXT_NORMALIZE_H

#include "text/json.h"
#include "text/regex.h"

typedef struct stm_normalizer stm_normalizer;

/* json null or absent: a normalizer that does nothing. The caller destroys *out. Fails: STM_ERR_INPUT, STM_ERR_MEMORY.
 */
stm_status stm_normalizer_create(const json_t *json, stm_normalizer **out);
void stm_normalizer_destroy(stm_normalizer *normalizer); /* NULL is fine */

/* Normalizes well-formed UTF-8 in place. Fails: STM_ERR_MEMORY, STM_ERR_INPUT. */
stm_status stm_normalizer_apply(const stm_normalizer *normalizer, stm_string *text);
bool stm_normalizer_is_empty(const stm_normalizer *normalizer);

/* "pattern": {"String": ..} or {"Regex": ..}, as Replace and Split have it. The caller destroys *out. */
stm_status stm_pattern_of(const json_t *object, stm_regex **out);

/* Appends text[0..n) with each match replaced. */
stm_status stm_replace_matches(const stm_regex *regex, const stm_string *content, const char *text, size_t n,
                               stm_string *out);

/* Appends the bytes in GPT-2's alphabet. */
stm_status stm_add_byte_level(stm_string *out, const char *text, size_t n);

#endif
