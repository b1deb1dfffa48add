/* src/data/thoughts.h: demonstrations whose thought is left out now and then (thought dropout: TON,
 * arXiv:2505.16854), so that a model learns to answer without thinking, too. Local. */
#ifndef STM_DATA_THOUGHTS_H
#define STM_DATA_THOUGHTS_H

#include "base/base.h"

/* The text with two newlines in place of what stands between the first `begin` and the first `end` behind it. *out:
 * NULL where there is no such pair; the caller frees. Fails: STM_ERR_MEMORY. */
stm_status stm_thought_empty(const char *text, const char *begin, const char *end, char **out);

/* Whether this epoch meets the line's demonstration without its thought: a function of its arguments alone. */
bool stm_thought_is_dropped(double probability, uint64_t seed, uint64_t epoch, size_t line);

#endif
