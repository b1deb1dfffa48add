#include "base/memory.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"

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

void stm_memory_return_freed(void)
{
    enum { LARGE_BYTES = 1 << 20, LEFT_BYTES = 4 << 20 };
    (void)mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);
    (void)mallopt(M_TRIM_THRESHOLD, LEFT_BYTES);
}

struct stm_arena {
    char *base;
    size_t reserved, committed; /* bytes of addresses, and of those that may be touched */
    size_t used, peak;
    stm_arena_commit *commit; /* in another's range; NULL: in its own */
    void *context;
};

enum { ALIGNMENT = 64, HUGE_PAGE = 1 << 21, COMMIT_STEP = 16 << 20 };

/* AddressSanitizer then sees who touches what was not taken; elsewhere nothing. */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
enum { GAP = ALIGNMENT }; /* that nobody owns, after each array */
#else
enum { GAP = 0 };
#define ASAN_POISON_MEMORY_REGION(at, n) ((void)(at), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(at, n) ((void)(at), (void)(n))
#endif

static size_t round_up(size_t n, size_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* Addresses for as much as the machine has. Where a limit on addresses (ulimit -v) forbids that, half of what it lets:
 * others need some, too. */
static void reserve_addresses(stm_arena *arena)
{
    const size_t most = round_up((size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE), HUGE_PAGE);
    size_t bytes = most;
    void *base = MAP_FAILED;
    for (; bytes >= COMMIT_STEP; bytes = round_up(bytes / 2, HUGE_PAGE)) {
        base = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base != MAP_FAILED)
            break;
    }
    if (base == MAP_FAILED)
        return;
    if (bytes < most && munmap((char *)base + bytes / 2, bytes - bytes / 2) == 0)
        bytes /= 2;
    arena->base = base;
    arena->reserved = bytes;
    (void)madvise(base, bytes, MADV_HUGEPAGE); /* only faster: where it is refused, small pages serve */
}

stm_status stm_arena_create(stm_arena **out)
{
    stm_arena *arena = NULL;
    STM_TRY(stm_alloc(1, sizeof *arena, &arena));
    reserve_addresses(arena);
    if (!arena->base) {
        free(arena);
        return stm_fail(STM_ERR_MEMORY, "out of memory: no range of addresses is left (ulimit -v?)");
    }
    *out = arena;
    return STM_OK;
}

stm_status stm_arena_create_in(void *range, size_t bytes, stm_arena_commit *commit_range, void *context,
                               stm_arena **out)
{
    stm_arena *arena = NULL;
    STM_TRY(stm_alloc(1, sizeof *arena, &arena));
    *arena = (stm_arena){.base = range, .reserved = bytes, .commit = commit_range, .context = context};
    *out = arena;
    return STM_OK;
}

void stm_arena_destroy(stm_arena *arena)
{
    if (!arena)
        return;
    ASAN_UNPOISON_MEMORY_REGION(arena->base, arena->committed);
    if (!arena->commit)
        (void)munmap(arena->base, arena->reserved);
    free(arena);
}

/* Makes the first `end` bytes usable. */
static stm_status commit(stm_arena *arena, size_t end)
{
    if (end <= arena->committed)
        return STM_OK;
    const size_t target = STM_MIN(arena->reserved, round_up(end, COMMIT_STEP));
    if (end > arena->reserved)
        return no_memory(1, end);
    if (arena->commit)
        STM_TRY(arena->commit(arena->context, arena->base, arena->committed, target));
    else if (mprotect(arena->base + arena->committed, target - arena->committed, PROT_READ | PROT_WRITE) != 0)
        return no_memory(1, end);
    ASAN_POISON_MEMORY_REGION(arena->base + arena->committed, target - arena->committed);
    arena->committed = target;
    return STM_OK;
}

stm_status stm_arena_take(stm_arena *arena, size_t bytes, void *out)
{
    size_t need;
    if (__builtin_add_overflow(bytes, ALIGNMENT + GAP, &need) || need > arena->reserved)
        return no_memory(1, bytes);
    need = round_up(bytes, ALIGNMENT) + GAP;
    STM_TRY(commit(arena, arena->used + need));
    void *memory = arena->base + arena->used;
    ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
    memcpy(out, &memory, sizeof memory);
    arena->used += need;
    arena->peak = arena->used > arena->peak ? arena->used : arena->peak;
    return STM_OK;
}

size_t stm_arena_used_bytes(const stm_arena *arena)
{
    return arena->used;
}

stm_mark stm_arena_mark(const stm_arena *arena)
{
    return (stm_mark){arena->used};
}

void stm_arena_reset(stm_arena *arena, stm_mark mark)
{
    ASAN_POISON_MEMORY_REGION(arena->base + mark.used, arena->used - mark.used);
    arena->used = mark.used;
}

size_t stm_arena_peak_bytes(const stm_arena *arena)
{
    return arena->peak;
}
