/* src/text/regex.h: the patterns of tokenizer.json, which are in Oniguruma's spelling (Ruby's), run by PCRE2.
 *
 * The two engines differ in \s, \w, \b, \h, in {n,m}+ and in the version of Unicode; a pattern is rewritten before it
 * is compiled. What cannot be rewritten (class intersection, nested classes) is refused. A regex may be used by several
 * threads at once. Local, all of it. */
#ifndef STM_TEXT_REGEX_H
#define STM_TEXT_REGEX_H

#include "text/utf8.h"

typedef struct stm_regex stm_regex;

/* The caller destroys *out. Fails: STM_ERR_INPUT (with the pattern and the reason), STM_ERR_MEMORY. */
stm_status stm_regex_create(const char *pattern, size_t n, stm_regex **out);
/* The pattern is in PCRE2's own spelling. */
stm_status stm_regex_create_pcre2(const char *pattern, stm_regex **out);
/* Finds exactly the text. */
stm_status stm_regex_create_literal(const char *text, size_t n, stm_regex **out);
void stm_regex_destroy(stm_regex *regex); /* NULL is fine */

/* Searches over well-formed UTF-8, one text after the other. */
typedef struct {
    const stm_regex *regex;
    const char *text;
    size_t n, at; /* at: where the next search starts */
    void *state;
} stm_search;

/* stm_search_end must follow, also after a failure. Fails: STM_ERR_MEMORY. */
stm_status stm_search_begin(stm_search *search, const stm_regex *regex);
void stm_search_text(stm_search *search, const char *text, size_t n);
/* The next match that does not overlap; *found false: none. After an empty match the search goes on a character later.
 * Fails: STM_ERR_INPUT (too much backtracking). */
stm_status stm_search_next(stm_search *search, bool *found, size_t *start, size_t *end);
void stm_search_end(stm_search *search);

#endif
