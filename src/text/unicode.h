/* src/text/unicode.h: where the versions of Unicode differ.
 *
 * Hugging Face's tokenizers looks characters up in several tables: patterns know Unicode 16, normalization and marks
 * Unicode 9, the punctuation pre-tokenizer Unicode 8. PCRE2 and utf8proc know 14 and 15. Each table here is the
 * difference, found by asking tokenizers 0.23 about every code point. Local, all of it. */
#ifndef STM_TEXT_UNICODE_H
#define STM_TEXT_UNICODE_H

#include "base/base.h"

/* General categories of characters that came after Unicode 14: members for a character class of PCRE2. */
typedef struct {
    const char *category, *members;
} stm_new_members;
extern const stm_new_members stm_unicode_new[];
extern const size_t stm_n_unicode_new;

/* Members of classes. */
extern const char *const stm_unicode_new_word;        /* word characters after Unicode 14 */
extern const char *const stm_unicode_new_number;      /* numbers */
extern const char *const stm_unicode_new_punctuation; /* punctuation after Unicode 8 */

/* Marks and compatibility characters after Unicode 9: normalization leaves them alone. */
bool stm_is_after_unicode_9(uint32_t point);

/* Lower case of one character (U+0130 aside, which has two), Unicode 16. */
uint32_t stm_lower_case(uint32_t point);

#endif
