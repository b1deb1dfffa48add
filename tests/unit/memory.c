/* The arena: one stack that grows in place. */
#include "base/memory.h"
#include "support/support.h"

#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>

static char *take(stm_arena *arena, size_t bytes)
{
    char *at = NULL;
    assert_ok(stm_arena_take(arena, bytes, &at));
    assert_int_equal((uintptr_t)at % 64, 0);
    memset(at, 1, bytes);
    return at;
}

static stm_arena *new_arena(void)
{
    stm_arena *arena = NULL;
    assert_ok(stm_arena_create(&arena));
    return arena;
}

static void what_was_taken_stays_where_it_is(void **state)
{
    (void)state;
    enum { N = 200 };
    stm_arena *arena = new_arena();
    int *arrays[N];
    for (int i = 0; i < N; i++) { /* over many steps of growth */
        arrays[i] = (int *)(void *)take(arena, (size_t)1 << (6 + i % 16));
        arrays[i][0] = i;
    }
    for (int i = 0; i < N; i++)
        assert_int_equal(arrays[i][0], i);
    stm_arena_destroy(arena);
}

static void reset_gives_the_same_memory_again(void **state)
{
    (void)state;
    stm_arena *arena = new_arena();
    char *below = take(arena, 1000);
    const stm_mark mark = stm_arena_mark(arena);
    const char *first = take(arena, 5 << 20);
    take(arena, 40 << 20);
    stm_arena_reset(arena, mark);
    assert_ptr_equal(take(arena, 45 << 20), first); /* larger than what was there: no hole is left, nothing moves */
    assert_int_equal(below[999], 1);
    stm_arena_destroy(arena);
}

/* Whatever order sizes come in, no more is held than was in use at once. */
static void the_peak_is_what_was_in_use_at_once(void **state)
{
    (void)state;
    stm_arena *arena = new_arena();
    for (size_t round = 1; round <= 8; round++) {
        take(arena, round << 20);
        take(arena, (9 - round) << 20);
        stm_arena_reset(arena, (stm_mark){0});
        assert_int_equal(stm_arena_used_bytes(arena), 0);
    }
    const size_t peak = stm_arena_peak_bytes(arena);
    assert_in_range(peak, 9 << 20, (9 << 20) + 4096);
    stm_arena_destroy(arena);
}

static void more_than_the_machine_has_is_refused(void **state)
{
    (void)state;
    stm_arena *arena = new_arena();
    char *at = NULL;
    assert_fails(stm_arena_take(arena, SIZE_MAX, &at), STM_ERR_MEMORY, "out of memory");
    assert_fails(stm_arena_take(arena, (size_t)1 << 60, &at), STM_ERR_MEMORY, "1152921504606846976 bytes");
    take(arena, 100); /* and it still works */
    stm_arena_destroy(arena);
}

/* Bytes that the C library has from the system. */
static size_t held_bytes(void)
{
    const struct mallinfo2 info = mallinfo2();
    return info.arena + info.hblkhd;
}

static void *piece(size_t mebibytes)
{
    void *memory;
    assert_ok(stm_alloc(mebibytes << 20, 1, &memory));
    return memory;
}

/* As a run does that measures its links, and saves then. */
static void what_is_freed_goes_back_whatever_was_freed_before(void **state)
{
    (void)state;
    const size_t before = held_bytes();
    free(piece(26));
    void *written = piece(16), *read = piece(16);
    free(read);
    free(written);
    assert_true(held_bytes() < before + (6 << 20));
}

int main(void)
{
    stm_memory_return_freed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_taken_stays_where_it_is),
        cmocka_unit_test(reset_gives_the_same_memory_again),
        cmocka_unit_test(the_peak_is_what_was_in_use_at_once),
        cmocka_unit_test(more_than_the_machine_has_is_refused),
        cmocka_unit_test(what_is_freed_goes_back_whatever_was_freed_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
