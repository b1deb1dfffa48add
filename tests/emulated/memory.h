/* tests/emulated/memory.h: whose memory is whose. What is the device's is out of the host's reach but while the device
 * works, so that a touch of the host, or of MPI, is a fault; where the environment's STEMMA_GPU_MPI is 1, it always is
 * within reach, as for an MPI that knows the device. */
#ifndef STM_TESTS_EMULATED_MEMORY_H
#define STM_TESTS_EMULATED_MEMORY_H

#include <cstddef>

namespace emulated
{
enum class memory_kind { device, pinned, pageable };

memory_kind kind_of(const void *at);

/* Of the device: what the environment's STEMMA_EMULATED_MIB says, 8192 without it; and how much of it is taken. */
size_t device_bytes();
size_t device_bytes_taken();

/* NULL: there is none left. give_back: a NULL is fine. */
void *take(size_t bytes, memory_kind kind);
void give_back(void *what);

/* While one of these is there, the device works. */
struct at_work {
    at_work();
    ~at_work();
};
} // namespace emulated

#endif
