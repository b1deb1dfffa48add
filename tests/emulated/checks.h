/* tests/emulated/checks.h: what the emulation tells of memory and threads. unchecked/ takes no notice; checked/ looks
 * every access of a kernel up, and ends the program with a message where hardware might have done something else. */
#ifndef STM_TESTS_EMULATED_CHECKS_H
#define STM_TESTS_EMULATED_CHECKS_H

#include <cstddef>

namespace emulated
{
/* Arrays of the device begin and end. */
void note_array(const void *at, size_t bytes);
void note_end_of_array(const void *at);

/* Work other than kernels, when it is done: from and to may be anybody's memory. */
void note_copy(void *to, const void *from, size_t bytes);
void note_set(void *to, size_t bytes);
void note_product_reads(const void *at, size_t bytes);
void note_product_writes(const void *at, size_t bytes);

/* Of the thread that runs; place: an address in the kernel that does so. Aligned: to their size. */
void note_read(const void *at, size_t bytes, const void *place);
void note_copy_begun(void *to, const void *place); /* of 16 bytes, to shared memory */
void note_copy_ended(void *to, const void *place);

/* Registers, which are variables on the host: what the thread writes after it has opened them is not yet there for
 * products. */
void note_registers_opened();
void check_registers(const void *at, size_t bytes);

/* A grid begins: its blocks' numbers follow the one that has run last. */
void note_grid();
} // namespace emulated

#endif
