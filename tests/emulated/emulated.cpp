/* tests/emulated/emulated.cpp: threads of blocks as contexts that take turns. */
#include "block.h"
#include "checks.h"

#include <cuda_bf16.h>

#include "cuda/mma.cuh"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <numeric>
#include <random>

unsigned char *stm_launch_shared(void)
{
    return emulated::launch_shared;
}

#define REGISTER __attribute__((section("emulated_registers"))) /* no memory of the device's */
REGISTER uint3 threadIdx, blockIdx;
REGISTER dim3 blockDim, gridDim;

/* Saves the registers that a call keeps on the stack, gives *from its stack's end, and goes on where `to` was left. As
 * the C library's swapcontext, but for the signal mask, whose two system calls are most of the time of that. x86-64. */
extern "C" void emulated_switch(void **from, void *to);
__asm__(".text\n"
        ".globl emulated_switch\n"
        "emulated_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n"
        "  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
        "  ret\n");

namespace emulated
{
REGISTER unsigned lane;

block_state block;
alignas(1024) unsigned char launch_shared[SHARED_BYTES];

void gate::open_when_full()
{
    if (n_alive > 0 && n_waiting == n_alive) {
        n_passed = n_waiting;
        n_waiting = 0;
        generation++;
        if (why == reason::barrier)
            ordered_at = ++block.time;
    }
}

void fail(const char *format, ...)
{
    va_list arguments;
    std::fputs("emulated: ", stderr);
    if (block.current)
        std::fprintf(stderr, "block [%u, %u, %u], thread %u: ", blockIdx.x, blockIdx.y, blockIdx.z,
                     block.current->number);
    va_start(arguments, format);
    std::vfprintf(stderr, format, arguments);
    va_end(arguments);
    std::fputc('\n', stderr);
    std::abort();
}

namespace
{
void end_thread()
{
    warp_state &warp = block.warps[block.current->warp];
    block.current->is_in_kernel = false;
    end_products();
    block.current->ended = true;
    block.n_events++;
    block.all.n_alive--;
    warp.all.n_alive--;
    block.all.open_when_full();
    warp.all.open_when_full();
}

void run_thread()
{
    (*block.kernel)();
    end_thread();
    emulated_switch(&block.current->left, block.scheduler);
    std::abort(); /* it is not called again */
}

void yield()
{
    emulated_switch(&block.current->left, block.scheduler);
}

void prepare(context *c, unsigned i, dim3 size)
{
    void **end = (void **)(c->stack + STACK_BYTES);
    *--end = nullptr; /* where a call would have put its return address: the stack is aligned as a call finds it */
    *--end = (void *)run_thread;
    c->left = end - 6; /* the six registers, whatever they are */
    c->ended = c->is_in_kernel = false;
    c->copies.clear();
    c->tells.clear();
    c->index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    c->number = i;
    c->warp = i / LANES;
    c->lane = i % LANES;
    c->turn = c->n_votes = 0;
}

/* The order in which n have their turns: as they come, or, where the environment's STEMMA_EMULATED_ORDER is a number,
 * from one of them on by a stride, both of which change with it and from turn to turn. */
struct turns {
    unsigned n, first = 0, stride = 1;

    explicit turns(unsigned n_) : n(n_)
    {
        static const char *seed = std::getenv("STEMMA_EMULATED_ORDER");
        static std::minstd_rand random(seed ? (unsigned)std::strtoul(seed, nullptr, 10) : 1);
        if (!seed || !*seed)
            return;
        first = (unsigned)random() % n;
        do
            stride = (unsigned)random() % n + 1;
        while (std::gcd(stride, n) > 1);
    }

    unsigned operator[](unsigned i) const
    {
        return (unsigned)((first + (uint64_t)i * stride) % n);
    }
};

void take_turns(unsigned n)
{
    for (unsigned n_left = n; n_left > 0;) {
        const unsigned long before = block.n_events;
        const turns order(n);
        for (unsigned i = 0; i < n; i++) {
            context *c = block.contexts[order[i]];
            if (c->ended)
                continue;
            block.current = c;
            threadIdx = c->index;
            lane = c->lane;
            emulated_switch(&block.scheduler, c->left);
            n_left -= c->ended;
        }
        block.current = nullptr;
        if (n_left > 0 && block.n_events == before) {
            std::fprintf(stderr, "emulated: %u threads of block %u wait for each other at different places\n", n_left,
                         blockIdx.x);
            std::abort();
        }
    }
}

void run_block(dim3 grid, dim3 size, unsigned index, size_t shared_bytes, const std::function<void()> &kernel)
{
    const unsigned n = size.x * size.y * size.z, n_warps = (n + LANES - 1) / LANES;
    blockIdx = {index % grid.x, index / grid.x % grid.y, index / grid.x / grid.y};
    blockDim = size;
    gridDim = grid;
    while (block.contexts.size() < n)
        block.contexts.push_back(new context); /* kept: blocks come by the thousand */
    block.n_threads = n;
    block.serial++;
    block.time = 0;
    block.votes[0] = false;
    block.shared_bytes = shared_bytes;
    block.warps.assign(n_warps, warp_state());
    block.all = gate();
    block.all.n_alive = n;
    block.kernel = &kernel;
    for (unsigned i = 0; i < n; i++) {
        prepare(block.contexts[i], i, size);
        block.warps[i / LANES].all.n_alive++;
    }
    std::memset(launch_shared, 0xff, shared_bytes); /* NaN, so that what nobody has written is seen */
    begin_products();
    take_turns(n);
    end_block_of_products();
}
} // namespace

void wait(gate &gate, reason why)
{
    const unsigned generation = gate.generation;
    if (gate.n_waiting > 0 && gate.why != why)
        fail("some threads of a warp are at a barrier, others exchange words");
    gate.why = why;
    gate.n_waiting++;
    block.n_events++;
    gate.open_when_full();
    while (gate.generation == generation)
        yield();
}

/* Of the warp, all of which are named in the mask. */
static void wait_for_lanes(reason why)
{
    gate &all = block.warps[block.current->warp].all;
    wait(all, why);
    if (all.n_passed < LANES)
        fail("a warp waits for all of its lanes, of which %u are there", all.n_passed);
}

void wait_for_block()
{
    wait(block.all, reason::barrier);
}

bool any_of_block(bool is_set)
{
    const unsigned turn = block.current->n_votes++ % 3;
    block.votes[turn] |= is_set;
    block.votes[(turn + 1) % 3] = false; /* all who come here have read it, and none comes there yet */
    wait(block.all, reason::barrier);
    return block.votes[turn];
}

void wait_for_warp()
{
    wait_for_lanes(reason::barrier);
}

/* Gives the warp a word; returns all of its lanes'. */
static const uint64_t *give_word(uint64_t word)
{
    context *self = block.current;
    warp_state &warp = block.warps[self->warp];
    uint64_t *words = warp.words[self->turn ^= 1];
    words[self->lane] = word;
    wait_for_lanes(reason::exchange);
    return words;
}

uint64_t exchange_words(uint64_t word, unsigned from)
{
    return give_word(word)[from];
}

unsigned ballot(bool is_set)
{
    const uint64_t *words = give_word(is_set);
    unsigned bits = 0;
    for (unsigned i = 0; i < LANES; i++)
        bits |= (unsigned)words[i] << i;
    return bits;
}

static void refuse(const char *what, size_t found, size_t most)
{
    std::fprintf(stderr, "emulated: %s: found %zu, expected 1 .. %zu\n", what, found, most);
    std::abort();
}

static void refuse_unaligned(const char *what, uintptr_t address)
{
    if (address % 16 == 0)
        return;
    std::fprintf(stderr, "emulated: %s: found %zu bytes behind a multiple of 16, expected 0\n", what,
                 (size_t)(address % 16));
    std::abort();
}

static float half_of(unsigned word, int which)
{
    return __bfloat162float({(uint16_t)(which ? word >> 16 : word)});
}

/* Element [row, k] of a, [k, column] of b, from the lanes that hold them. */
static float a_at(const unsigned a[LANES][4], int row, int k)
{
    return half_of(a[4 * (row % 8) + k % 8 / 2][row / 8 + 2 * (k / 8)], k % 2);
}

static float b_at(const unsigned b[LANES][2], int k, int column)
{
    return half_of(b[4 * column + k % 8 / 2][k / 8], k % 2);
}

void multiply(float d[4], const unsigned a[4], const unsigned b[2])
{
    context *self = block.current;
    warp_state &warp = block.warps[self->warp];
    const unsigned turn = self->turn ^= 1;
    std::memcpy(warp.a[turn][self->lane], a, sizeof warp.a[turn][0]);
    std::memcpy(warp.b[turn][self->lane], b, sizeof warp.b[turn][0]);
    wait_for_lanes(reason::exchange);
    for (int i = 0; i < 4; i++) {
        const int row = (int)self->lane / 4 + i / 2 * 8, column = (int)self->lane % 4 * 2 + i % 2;
        for (int k = 0; k < 16; k++)
            d[i] += a_at(warp.a[turn], row, k) * b_at(warp.b[turn], k, column);
    }
}

void load_matrices(unsigned r[4], const void *row, bool turned)
{
    refuse_unaligned("a matrix's row", (uintptr_t)row);
    note_read(row, 16, block.current->place);
    const uint64_t *rows = give_word((uint64_t)(uintptr_t)row);
    const int g = (int)block.current->lane / 4, t = (int)block.current->lane % 4;
    for (int m = 0; m < 4; m++) {
        uint16_t half[2];
        for (int i = 0; i < 2; i++) {
            const int at = turned ? 2 * t + i : g, column = turned ? g : 2 * t + i;
            std::memcpy(&half[i], (const char *)(uintptr_t)rows[8 * m + at] + 2 * column, sizeof half[i]);
        }
        r[m] = half[0] | (unsigned)half[1] << 16;
    }
}

/* What is under way arrives when it is waited for, no sooner: who reads it before finds what was there. */
void begin_copy(void *to, const void *from, bool is_there)
{
    refuse_unaligned("a copy", (uintptr_t)to | (uintptr_t)from);
    if (is_there)
        note_read(from, 16, block.current->place);
    note_copy_begun(to, block.current->place);
    block.current->copies.push_back({to, is_there ? from : nullptr});
}

void end_copies()
{
    for (const copy &c : block.current->copies) {
        if (c.from)
            std::memcpy(c.to, c.from, 16);
        else
            std::memset(c.to, 0, 16);
        note_shared_write(c.to, 16);
        note_copy_ended(c.to, block.current->place);
    }
    block.current->copies.clear();
}

/* What kernels have been allowed of a launch's shared memory, beyond what all may have. */
static std::map<const void *, size_t> allowed;

cudaError_t allow_shared(const void *kernel, int bytes)
{
    if (bytes < 0 || bytes > SHARED_BYTES)
        return cudaErrorInvalidValue;
    allowed[kernel] = (size_t)bytes;
    return cudaSuccess;
}

void check_launch(dim3 grid, dim3 size, size_t shared_bytes, const void *kernel)
{
    const size_t n_blocks = (size_t)grid.x * grid.y * grid.z, n_threads = (size_t)size.x * size.y * size.z;
    const size_t n_shared = std::max(allowed[kernel], (size_t)48 << 10);
    if (n_threads < 1 || n_threads > 1024)
        refuse("threads of a block", n_threads, 1024);
    if (n_blocks < 1 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535)
        refuse("blocks of a grid", n_blocks, 65535);
    if (shared_bytes > n_shared)
        refuse("bytes of shared memory, of which the kernel was allowed less", shared_bytes, n_shared);
}

void enter_kernel()
{
    block.current->is_in_kernel = true;
}

void run(dim3 grid, dim3 size, size_t shared_bytes, const std::function<void()> &kernel)
{
    const size_t n_blocks = (size_t)grid.x * grid.y * grid.z;
    const turns order((unsigned)n_blocks);
    note_grid();
    for (unsigned i = 0; i < n_blocks; i++)
        run_block(grid, size, order[i], shared_bytes, kernel);
}
} // namespace emulated

void stm_mma(float d[4], const unsigned a[4], const unsigned b[2])
{
    emulated::multiply(d, a, b);
}

void stm_load_matrices(unsigned r[4], const __nv_bfloat16 *row)
{
    emulated::block.current->place = __builtin_return_address(0);
    emulated::load_matrices(r, row, false);
}

void stm_load_turned(unsigned r[4], const __nv_bfloat16 *row)
{
    emulated::block.current->place = __builtin_return_address(0);
    emulated::load_matrices(r, row, true);
}

void stm_copy_16(void *to, const void *from, bool is_there)
{
    emulated::block.current->place = __builtin_return_address(0);
    emulated::begin_copy(to, from, is_there);
}

void stm_wait_copies(void)
{
    emulated::block.current->place = __builtin_return_address(0);
    emulated::end_copies();
}

float stm_exp2(float x)
{
    return x < -126 ? 0 : std::exp2(x);
}
