/* tests/support/tiny_tokenizer.h: a byte-level tokenizer of 100 ids, for tests that want to know each id beforehand.
 *
 * A printable ASCII character c has the id c - 30, a space 97, a newline 98, "<s>" 1, "</s>" 2; there are no merges.
 * The tokenizer's own special token is a "<s>" in front. */
#ifndef STM_TESTS_TINY_TOKENIZER_H
#define STM_TESTS_TINY_TOKENIZER_H

#include "text/tokenizer.h"

enum { TINY_VOCAB = 100, TINY_BOS = 1, TINY_EOS = 2 };

/* The caller destroys it. A failure ends the test. */
stm_tokenizer *tiny_tokenizer(void);

#endif
