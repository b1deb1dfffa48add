/* src/base/memory.h: allocation that names its failure, and an arena.
 *
 * The arena is one stack: mark, take, reset. It owns a range of addresses as long as the machine's memory, of which
 * only what was once in use is backed, so that it grows without gaps and what it holds never moves. Once a step has
 * run, an equal step asks the system for nothing. */
#ifndef STM_BASE_MEMORY_H
#define STM_BASE_MEMORY_H

#include "base/status.h"

/* malloc/calloc/realloc of n elements; the caller frees. On failure *out is unchanged. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_alloc(size_t n, size_t element_bytes, void *out);    /* out: address of a pointer; the memory is zero */
stm_status stm_resize(void *inout, size_t n, size_t element_bytes); /* keeps contents; new memory is not set */

/* Doubles *capacity (elements) until n fit. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_reserve(void *inout, size_t *capacity, size_t n, size_t element_bytes);

/* What is freed goes back to the system for good: large pieces at once, small ones as soon as a few of them lie at the
 * end. By itself the C library raises its idea of what is large to the largest piece that was ever freed, and keeps
 * twice as much. To be called before anything else is allocated. Local. */
void stm_memory_return_freed(void);

typedef struct stm_arena stm_arena;
typedef struct {
    size_t used;
} stm_mark;

/* The caller destroys *out. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_arena_create(stm_arena **out);

/* An arena in bytes [0, bytes) of `range`, addresses that stay the caller's: a device's. commit: puts memory behind
 * bytes [first, end) of them, once each. The caller destroys *out. Local. Fails: STM_ERR_MEMORY. */
typedef stm_status stm_arena_commit(void *context, void *range, size_t first, size_t end);
stm_status stm_arena_create_in(void *range, size_t bytes, stm_arena_commit *commit, void *context, stm_arena **out);
void stm_arena_destroy(stm_arena *arena); /* NULL is fine */

/* `bytes` of memory, aligned to 64, contents undefined; the arena owns it until reset. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_arena_take(stm_arena *arena, size_t bytes, void *out);
stm_mark stm_arena_mark(const stm_arena *arena);
void stm_arena_reset(stm_arena *arena, stm_mark mark); /* frees all that was taken after the mark, for reuse */

size_t stm_arena_used_bytes(const stm_arena *arena); /* in use now */
size_t stm_arena_peak_bytes(const stm_arena *arena); /* the most that was in use at once */

#endif
