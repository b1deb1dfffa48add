#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

static stm_status no_memory(size_t n, size_t element_bytes)
{
    return stm_fail(STM_ERR_MEMORY, "out of memory: asked for %zu x %zu bytes", n, element_bytes);
}

stm_status stm_alloc(size_t n, size_t element_bytes, void *out)
{
    void *memory = calloc(n ? n : 1, element_bytes);
    if (!memory)
        return no_memory(n, element_bytes);
    memcpy(out, &memory, sizeof memory);
    return STM_OK;
}

stm_status stm_resize(void *inout, size_t n, size_t element_bytes)
{
    void *memory;
    size_t bytes;
    memcpy(&memory, inout, sizeof memory);
    if (__builtin_mul_overflow(n, element_bytes, &bytes) || !(memory = realloc(memory, bytes ? bytes : 1)))
        return no_memory(n, element_bytes);
    memcpy(inout, &memory, sizeof memory);
    return STM_OK;
}

stm_status stm_reserve(void *inout, size_t *capacity, size_t n, size_t element_bytes)
{
    if (n <= *capacity)
        return STM_OK;
    size_t larger = *capacity ? *capacity : 8;
    while (larger < n)
        larger *= 2;
    STM_TRY(stm_resize(inout, larger, element_bytes));
    *capacity = larger;
    return STM_OK;
}

typedef struct {
    char *memory;
    size_t bytes;
} block;

struct stm_arena {
    size_t block_bytes, n_blocks, capacity;
    block *blocks;
    stm_mark top; /* the block in use and how much of it */
    size_t peak;
};

enum { ALIGNMENT = 64 };

stm_status stm_arena_create(size_t block_bytes, stm_arena **out)
{
    stm_arena *arena = NULL;
    STM_TRY(stm_alloc(1, sizeof *arena, &arena));
    arena->block_bytes = block_bytes;
    *out = arena;
    return STM_OK;
}

void stm_arena_destroy(stm_arena *arena)
{
    if (!arena)
        return;
    for (size_t i = 0; i < arena->n_blocks; i++)
        free(arena->blocks[i].memory);
    free(arena->blocks);
    free(arena);
}

/* Inserts a block that holds `bytes` at `position`: blocks after it keep their contents, and marks before it their
 * meaning. */
static stm_status insert_block(stm_arena *arena, size_t position, size_t bytes)
{
    STM_TRY(stm_reserve(&arena->blocks, &arena->capacity, arena->n_blocks + 1, sizeof *arena->blocks));
    block fresh = {.bytes = bytes};
    if (!(fresh.memory = aligned_alloc(ALIGNMENT, bytes)))
        return no_memory(1, bytes);
    memmove(arena->blocks + position + 1, arena->blocks + position,
            (arena->n_blocks - position) * sizeof *arena->blocks);
    arena->blocks[position] = fresh;
    arena->n_blocks++;
    return STM_OK;
}

stm_status stm_arena_take(stm_arena *arena, size_t bytes, void *out)
{
    const size_t need = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    stm_mark top = arena->top;
    if (top.block < arena->n_blocks && top.used + need > arena->blocks[top.block].bytes)
        top = (stm_mark){top.block + 1, 0};
    if (top.block == arena->n_blocks || need > arena->blocks[top.block].bytes) {
        const size_t whole = need > arena->block_bytes ? need : arena->block_bytes;
        STM_TRY(insert_block(arena, top.block, (whole + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT));
    }
    void *memory = arena->blocks[top.block].memory + top.used;
    memcpy(out, &memory, sizeof memory);
    top.used += need;
    arena->top = top;
    const size_t in_use = stm_arena_used_bytes(arena);
    arena->peak = in_use > arena->peak ? in_use : arena->peak;
    return STM_OK;
}

size_t stm_arena_used_bytes(const stm_arena *arena)
{
    size_t in_use = arena->top.used;
    for (size_t i = 0; i < arena->top.block; i++)
        in_use += arena->blocks[i].bytes;
    return in_use;
}

stm_mark stm_arena_mark(const stm_arena *arena)
{
    return arena->top;
}

void stm_arena_reset(stm_arena *arena, stm_mark mark)
{
    arena->top = mark;
}

size_t stm_arena_peak_bytes(const stm_arena *arena)
{
    return arena->peak;
}
