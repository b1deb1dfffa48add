#include "data/thoughts.h"

#include <string.h>

#include "base/random.h"

stm_status stm_thought_empty(const char *text, const char *begin, const char *end, char **out)
{
    const char *first = strstr(text, begin);
    const char *last = first ? strstr(first + strlen(begin), end) : NULL;
    *out = NULL;
    if (!last)
        return STM_OK;
    const size_t n_before = (size_t)(first - text) + strlen(begin);
    return stm_format(out, "%.*s\n\n%s", (int)n_before, text, last);
}

bool stm_thought_is_dropped(double probability, uint64_t seed, uint64_t epoch, size_t line)
{
    const stm_random_key key = {.seed = seed, .use = STM_RANDOM_THOUGHTS, .step = epoch, .slot = (uint32_t)line};
    return stm_random_uniform(&key) < probability;
}
