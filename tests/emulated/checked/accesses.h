/* tests/emulated/checked/accesses.h: accesses of kernels, each looked up. */
#ifndef STM_TESTS_EMULATED_ACCESSES_H
#define STM_TESTS_EMULATED_ACCESSES_H

#include <cstddef>
#include <cstdint>

namespace emulated
{
enum access_kind { read, write, atomic };

/* Of the kernel's thread that runs; of the host, nothing. Ends the program where the hardware need not do what is done
 * here. */
void note_access(const void *at, size_t bytes, access_kind kind, size_t alignment, const void *place);
} // namespace emulated

#endif
