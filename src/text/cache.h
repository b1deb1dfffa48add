/* src/text/cache.h: ids of short words that have been encoded before.
 *
 * A table of fixed size with one place for each hash, where the newer word takes the older one's: bounded, and never
 * wrong, for the whole word is compared. For one thread at a time. Local, all of it. */
#ifndef STM_TEXT_CACHE_H
#define STM_TEXT_CACHE_H

#include "base/base.h"

typedef struct stm_cache stm_cache;

enum { STM_CACHE_WORD_BYTES = 31, STM_CACHE_IDS = 7 }; /* the longest that is kept */

/* A word of at most STM_CACHE_WORD_BYTES: its bytes, zeros, and in the last byte its length (and whose it is). */
typedef struct {
    uint64_t words[4];
} stm_cache_key;

/* The caller destroys *out. Fails: STM_ERR_MEMORY. */
stm_status stm_cache_create(stm_cache **out);
void stm_cache_destroy(stm_cache *cache); /* NULL is fine */

/* part: the bytes were cut out of a word; then they need not have the ids that they have as a word. */
stm_cache_key stm_cache_key_of(const char *bytes, size_t n, bool part);

/* The ids of the key, valid until the next put, or NULL. */
const int32_t *stm_cache_get(const stm_cache *cache, const stm_cache_key *key, size_t *n);

/* Keeps ids [n], unless there are too many. */
void stm_cache_put(stm_cache *cache, const stm_cache_key *key, const int32_t *ids, size_t n);

#endif
