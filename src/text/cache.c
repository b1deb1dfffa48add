#include "text/cache.h"

#include <stdlib.h>
#include <string.h>

/* One line of the processor's cache. */
typedef struct {
    stm_cache_key key;
    int32_t ids[STM_CACHE_IDS];
    uint32_t n; /* of ids */
} entry;

_Static_assert(sizeof(entry) == 64, "an entry fills a cache line");

enum { LOG2_ENTRIES = 15 }; /* 2 MiB: more words than most texts have */

struct stm_cache {
    entry entries[1 << LOG2_ENTRIES]; /* all zero: of the empty word, which nobody asks for */
};

stm_status stm_cache_create(stm_cache **out)
{
    return stm_alloc(1, sizeof **out, out);
}

void stm_cache_destroy(stm_cache *cache)
{
    free(cache);
}

stm_cache_key stm_cache_key_of(const char *bytes, size_t n, bool part)
{
    stm_cache_key key = {{0}};
    memcpy(&key, bytes, n);
    ((uint8_t *)&key)[STM_CACHE_WORD_BYTES] = (uint8_t)(n | (part ? 0x80 : 0));
    return key;
}

static size_t place_of(const stm_cache_key *key)
{
    uint64_t mixed = 0;
    for (size_t i = 0; i < 4; i++)
        mixed = (mixed ^ key->words[i]) * 0x9E3779B97F4A7C15u, mixed ^= mixed >> 32;
    return (size_t)(mixed * 0x9E3779B97F4A7C15u >> (64 - LOG2_ENTRIES));
}

const int32_t *stm_cache_get(const stm_cache *cache, const stm_cache_key *key, size_t *n)
{
    const entry *e = &cache->entries[place_of(key)];
    if (memcmp(&e->key, key, sizeof *key) != 0)
        return NULL;
    *n = e->n;
    return e->ids;
}

void stm_cache_put(stm_cache *cache, const stm_cache_key *key, const int32_t *ids, size_t n)
{
    if (n > STM_CACHE_IDS)
        return;
    entry *e = &cache->entries[place_of(key)];
    e->key = *key;
    e->n = (uint32_t)n;
    if (n)
        memcpy(e->ids, ids, n * sizeof *ids);
}
