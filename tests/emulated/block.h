/* tests/emulated/block.h: the block that runs: its threads, which are contexts that take turns, and where they wait for
 * each other. */
#ifndef STM_TESTS_EMULATED_BLOCK_H
#define STM_TESTS_EMULATED_BLOCK_H

#include <cuda_runtime.h>

#include <cstdlib>
#include <vector>

namespace emulated
{
enum { STACK_BYTES = 128 << 10, LANES = 32, SHARED_BYTES = 227 * 1024 };

/* Why threads wait for each other: at barriers, which order their accesses of memory, or to exchange words. */
enum class reason { barrier, exchange };

/* Threads that wait for each other: the last to arrive lets all go on. */
struct gate {
    unsigned n_alive = 0, n_waiting = 0, generation = 0;
    unsigned n_passed = 0;   /* when it opened last */
    unsigned ordered_at = 0; /* the block's time after the last barrier */
    reason why = reason::barrier;

    void open_when_full();
};

/* 16 bytes that are under way to shared memory. */
struct copy {
    void *to;
    const void *from; /* NULL: zeros */
};

struct context {
    void *left; /* the stack's end where it was left */
    char *stack = (char *)std::aligned_alloc(64, STACK_BYTES);
    uint3 index; /* threadIdx */
    unsigned number, warp, lane, turn, n_votes;
    bool ended, is_in_kernel;    /* in_kernel: in the code of cuda/ */
    const void *place;           /* in the kernel, of the call that it is in */
    std::vector<copy> copies;    /* under way */
    std::vector<unsigned> tells; /* the block's generation at each stm_tell_tensor_cores */
};

struct warp_state {
    gate all;
    uint64_t words[2][LANES]; /* exchanges take turns: who writes the next still leaves the last to be read */
    unsigned a[2][LANES][4], b[2][LANES][2]; /* of products */
};

/* The block that runs on this thread of the host. */
struct block_state {
    std::vector<context *> contexts; /* of the largest block so far */
    unsigned n_threads;
    std::vector<warp_state> warps;
    gate all;
    void *scheduler; /* its stack's end */
    context *current;
    unsigned long n_events; /* arrivals and ends: where none comes in a whole turn, all wait for ever */
    const std::function<void()> *kernel;
    unsigned serial; /* of all blocks that have run */
    unsigned time;   /* of the block: its barriers, and its warps' */
    size_t shared_bytes;
    bool votes[3]; /* in turns */
};

extern block_state block;

/* Shared memory of a size that the launch gives. Addresses of the device are counted from here. */
extern unsigned char launch_shared[SHARED_BYTES];

void wait(gate &gate, reason why);

/* Says what the thread that runs has done, and ends the program. */
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* wgmma.cpp: what its products want to know. */
void begin_products();                                  /* of a block */
void end_products();                                    /* of the thread */
void end_block_of_products();                           /* all of its threads have ended */
void note_shared_write(const void *to, size_t n_bytes); /* by the thread */
} // namespace emulated

#endif
