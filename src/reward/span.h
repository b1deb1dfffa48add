/* src/reward/span.h: stretches of a text that others own, for rewards. No function allocates or fails. Local. */
#ifndef STM_REWARD_SPAN_H
#define STM_REWARD_SPAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *at;
    size_t n;
} stm_span;

#define STM_NOWHERE SIZE_MAX /* not found */

stm_span stm_span_of(const char *text);                         /* the whole of it */
stm_span stm_span_cut(stm_span text, size_t first, size_t end); /* bytes first .. end - 1 */
bool stm_span_is(stm_span text, const char *word);
bool stm_span_same(stm_span a, stm_span b);
bool stm_span_starts(stm_span text, const char *word);

/* Where `word` begins, from byte `from` on; STM_NOWHERE: not there. */
size_t stm_span_find(stm_span text, const char *word, size_t from);
size_t stm_span_count(stm_span text, const char *word); /* how often, without overlap */

/* Between the first `open` and the first `close` after it. False: one of them is missing. */
bool stm_span_between(stm_span text, const char *open, const char *close, stm_span *inside);

/* Bytes of the white space (Unicode's, as str.split of Python has it) that text begins with; 0: it begins with none. */
size_t stm_span_space(stm_span text);
stm_span stm_span_strip(stm_span text); /* without the white space at both ends */

/* Takes the next word, which white space ends, off the front of *rest. False: there is none. */
bool stm_span_word(stm_span *rest, stm_span *word);

#endif
