/* src/text/utf8.h: text that grows, and the few facts about Unicode that tokenizers need.
 *
 * Functions that take a code point at a position expect well-formed UTF-8; stm_utf8_repair makes it so. Local, all of
 * it. */
#ifndef STM_TEXT_UTF8_H
#define STM_TEXT_UTF8_H

#include "base/base.h"

/* Bytes that grow; the owner frees `bytes`. {0} is empty. Not NUL-terminated unless stm_string_end was called last. */
typedef struct {
    char *bytes;
    size_t n, capacity;
} stm_string;

/* Append; fail: STM_ERR_MEMORY. `bytes` must not lie inside the string itself. */
stm_status stm_string_add(stm_string *string, const char *bytes, size_t n);
stm_status stm_string_add_text(stm_string *string, const char *text);
stm_status stm_string_add_point(stm_string *string, uint32_t point);
stm_status stm_string_end(stm_string *string); /* a NUL after the last byte, not counted in n */

/* The code point at text[0] of n > 0 bytes, and its length in bytes. */
uint32_t stm_utf8_point(const char *text, size_t n, size_t *length);

/* Writes 1 to 4 bytes; returns how many. */
size_t stm_utf8_write(uint32_t point, char *out);

/* The length of the character at text[0]; 0 when the bytes there are malformed, and *skip bytes of them stand for one
 * U+FFFD (the longest prefix of a character, as Unicode recommends). With *cut, the text only ends too early. */
size_t stm_utf8_length(const char *text, size_t n, size_t *skip, bool *cut);

/* Length of the well-formed beginning of the text. */
size_t stm_utf8_valid(const char *text, size_t n);

/* Appends the text with each malformed stretch replaced by U+FFFD. Fails: STM_ERR_MEMORY. */
stm_status stm_utf8_repair(const char *text, size_t n, stm_string *out);

bool stm_is_space(uint32_t point);          /* White_Space */
bool stm_is_word(uint32_t point);           /* \w of Unicode: letters, marks, decimal digits, connectors */
bool stm_is_combining_mark(uint32_t point); /* general category M */

/* GPT-2's alphabet: a printable character for each byte, and back (-1: none). */
uint32_t stm_byte_to_point(uint8_t byte);
int stm_point_to_byte(uint32_t point);

#endif
