/* tests/emulated/checked/hooks.cpp: what the compiler calls before each access of code that it instruments for its
 * thread sanitizer, whose library is not linked. Each is a read or a write of so many bytes; `unaligned` says that the
 * type does not ask for alignment, so that the device's compiler would take smaller pieces. */
#include "accesses.h"

#define PLACE __builtin_return_address(0)

#define OF_SIZE(n)                                                                                                     \
    void __tsan_read##n(const void *at)                                                                                \
    {                                                                                                                  \
        emulated::note_access(at, n, emulated::read, n, PLACE);                                                        \
    }                                                                                                                  \
    void __tsan_write##n(const void *at)                                                                               \
    {                                                                                                                  \
        emulated::note_access(at, n, emulated::write, n, PLACE);                                                       \
    }                                                                                                                  \
    void __tsan_unaligned_read##n(const void *at)                                                                      \
    {                                                                                                                  \
        emulated::note_access(at, n, emulated::read, 1, PLACE);                                                        \
    }                                                                                                                  \
    void __tsan_unaligned_write##n(const void *at)                                                                     \
    {                                                                                                                  \
        emulated::note_access(at, n, emulated::write, 1, PLACE);                                                       \
    }

extern "C" {
OF_SIZE(1)
OF_SIZE(2)
OF_SIZE(4)
OF_SIZE(8)
OF_SIZE(16)

void __tsan_read_range(const void *at, size_t n)
{
    emulated::note_access(at, n, emulated::read, 1, PLACE);
}

void __tsan_write_range(const void *at, size_t n)
{
    emulated::note_access(at, n, emulated::write, 1, PLACE);
}

uint64_t __tsan_atomic64_fetch_add(uint64_t *at, uint64_t x, int)
{
    emulated::note_access(at, sizeof *at, emulated::atomic, sizeof *at, PLACE);
    return __atomic_fetch_add(at, x, __ATOMIC_RELAXED);
}

/* Of C++'s guards of initialisation. */
uint8_t __tsan_atomic8_load(const uint8_t *at, int)
{
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

void __tsan_init()
{
}

void __tsan_func_entry(const void *)
{
}

void __tsan_func_exit()
{
}

void __tsan_vptr_read(const void *)
{
}

void __tsan_vptr_update(const void *, const void *)
{
}
}
