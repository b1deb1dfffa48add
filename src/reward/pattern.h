/* src/reward/pattern.h: PCRE2 patterns over UTF-8 text. `.` matches newlines too, since answers run over lines; `^` and
 * `$` are the ends of the text
 * ((?m) in the pattern changes that). Bytes that are not UTF-8 match nothing. A search is bounded: one that would run
 * for ever fails. Local. */
#ifndef STM_REWARD_PATTERN_H
#define STM_REWARD_PATTERN_H

#include "base/base.h"

typedef struct stm_pattern stm_pattern;

/* The caller destroys *out. Fails: STM_ERR_INPUT with what is wrong with the pattern and where, STM_ERR_MEMORY. */
stm_status stm_pattern_create(const char *pattern, stm_pattern **out);

/* The same for a text to be found as it stands, in any case of letters; whole: the text must be all of it. */
stm_status stm_pattern_create_caseless(const char *text, size_t n, bool whole, stm_pattern **out);
void stm_pattern_destroy(stm_pattern *pattern); /* NULL is fine */

/* *found: whether there is a match. Fails: STM_ERR_NUMERIC when the search went beyond its bounds. */
stm_status stm_pattern_search(const stm_pattern *pattern, const char *text, size_t n, bool *found);

/* Last match: [*start, *start + *length) of its first group, or of the whole match when the pattern has no group or
 * that group took no part. */
stm_status stm_pattern_last(const stm_pattern *pattern, const char *text, size_t n, bool *found, size_t *start,
                            size_t *length);

#endif
