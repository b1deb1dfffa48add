/* src/data/text_lines.h: the two lines of `stemma tokenize`, {"text": ..} in and {"ids": [..], "decoded": ..} out,
 * without a tree of JSON values between, which costs more than encoding. Local, all of it. */
#ifndef STM_DATA_TEXT_LINES_H
#define STM_DATA_TEXT_LINES_H

#include "text/utf8.h"

/* Whether the line is {"text": ".."} and nothing else; then *text is that text. false: anything else, right or wrong,
 * of which data/json_lines.h tells, and *text is then undefined. Running out of memory counts as such. */
bool stm_text_line_read(const char *line, size_t n, stm_string *text);

/* Appends {"ids": [ids [n]], "decoded": text [n_bytes]} and the end of the line, as jansson would. text: well-formed
 * UTF-8. Fails: STM_ERR_MEMORY. */
stm_status stm_text_line_write(const int32_t *ids, size_t n, const char *text, size_t n_bytes, stm_string *out);

#endif
