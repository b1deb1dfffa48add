/* The checked emulation's own test: kernels with one mistake each, which must be refused with its name, and their right
 * forms, which must not be. */
#include "emulated.h"

#include <cuda_bf16.h>

#include "cuda/mma.cuh"
#include "cuda/wgmma.cuh"

enum { THREADS = 64 };

/* A number of a thread before comes through shared memory: of the same warp, or of another. */
enum class order { none, warp, block };

static __global__ void pass_on(const float *x, float *y, unsigned distance, order what)
{
    __shared__ float room[THREADS];
    room[threadIdx.x] = x[threadIdx.x];
    if (what == order::warp)
        __syncwarp();
    if (what == order::block)
        __syncthreads();
    y[threadIdx.x] = room[threadIdx.x & ~distance];
}

static __global__ void write_after_read(float *y)
{
    float *room = (float *)stm_launch_shared();
    room[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = room[threadIdx.x ^ 32];
    room[threadIdx.x] = 2; /* which thread ^ 32 may not have read yet */
}

/* An exchange orders nothing. */
static __global__ void exchange_as_barrier(float *y)
{
    __shared__ float room[THREADS];
    room[threadIdx.x] = 1;
    y[threadIdx.x] = (float)__shfl_xor_sync(0xffffffffu, (int)threadIdx.x, 1) + room[threadIdx.x & ~1u];
}

static __global__ void sum_of_blocks(float *y)
{
    if (threadIdx.x == 0)
        *y += 1;
}

static __global__ void read_of_other_block(float *y, float *z)
{
    y[blockIdx.x] = 1;
    z[blockIdx.x] = y[blockIdx.x ^ 1];
}

static __global__ void count(unsigned long long *n)
{
    atomicAdd(n, 1);
}

static __global__ void read_one(const float *x, size_t i, float *y)
{
    *y = x[i];
}

static __global__ void write_one(float *y, size_t i)
{
    y[i] = 1;
}

static __global__ void read_eight(const float *x, size_t i, float2 *y)
{
    struct alignas(8) pair {
        float x, y;
    };
    *y = {((const pair *)(x + i))->x, ((const pair *)(x + i))->y};
    *(pair *)y = *(const pair *)(x + i);
}

static __global__ void read_shared(size_t i, float *y)
{
    *y = ((const float *)stm_launch_shared())[i];
}

static __global__ void copy_without_wait(const float *x, float *y, bool waits)
{
    float *room = (float *)stm_launch_shared();
    stm_copy_16(room + 4 * threadIdx.x, x + 4 * threadIdx.x, true);
    if (waits)
        stm_wait_copies();
    y[threadIdx.x] = room[4 * threadIdx.x];
    stm_wait_copies();
}

static __global__ void copy_without_barrier(const float *x, float *y, bool waits)
{
    float *room = (float *)stm_launch_shared();
    stm_copy_16(room + 4 * threadIdx.x, x + 4 * threadIdx.x, true);
    stm_wait_copies();
    if (waits)
        __syncthreads();
    y[threadIdx.x] = room[4 * (threadIdx.x % 32)];
}

static __global__ void load_matrices_of_others(unsigned *y, bool waits)
{
    __nv_bfloat16 *room = (__nv_bfloat16 *)stm_launch_shared();
    unsigned r[4];
    for (int i = 0; i < 8; i++)
        room[8 * threadIdx.x + i] = __float2bfloat16(1);
    if (waits)
        __syncthreads();
    stm_load_matrices(r, room + 8 * (threadIdx.x % 32));
    y[threadIdx.x] = r[0];
}

static __global__ void end_before_exchange(int *y)
{
    if (threadIdx.x % 32 == 3)
        return;
    y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
}

static __global__ void product_of_stores(float *y, bool tells, bool writes_late)
{
    float *room = (float *)stm_launch_shared(), d[4][4] = {};
    unsigned a[4] = {};
    for (int i = (int)threadIdx.x; i < 1024; i += 128)
        room[i] = 0;
    if (tells)
        stm_tell_tensor_cores();
    __syncthreads();
    stm_wgmma_begin();
    if (writes_late)
        a[1] = threadIdx.x;
    stm_wgmma<32, false>(d, a, stm_wgmma_operand(room, 0, 1024), true);
    stm_wgmma_commit();
    stm_wgmma_wait<0>();
    stm_wgmma_hold(d);
    y[threadIdx.x] = d[0][0];
}

struct arrays {
    device gpu;
    float *x = gpu.give(std::vector<float>(4 * THREADS, 1.0f)), *y = gpu.take<float>(256), *z = gpu.take<float>(256);
};

/* Runs with these arrays `a`; refused, if `expected` says so. */
#define RUN(...)                                                                                                       \
    [] {                                                                                                               \
        arrays a;                                                                                                      \
        a.gpu.run(__VA_ARGS__);                                                                                        \
    }
#define assert_fine(...) RUN(__VA_ARGS__)()

static void races_between_threads_are_refused(void **)
{
    assert_fine(1, THREADS, 0, pass_on, a.x, a.y, 1u, order::warp);
    assert_fine(1, THREADS, 0, pass_on, a.x, a.y, 32u, order::block);
    assert_refused("race in static shared memory: reads byte", RUN(1, THREADS, 0, pass_on, a.x, a.y, 32u, order::warp));
    assert_refused("which thread 0 has written", RUN(1, THREADS, 0, pass_on, a.x, a.y, 1u, order::none));
    assert_refused("race in shared memory", RUN(1, THREADS, 256, write_after_read, a.y));
    assert_refused("race in static shared memory: reads byte", RUN(1, THREADS, 0, exchange_as_barrier, a.y));
    assert_refused("broken.cpp:", RUN(1, THREADS, 0, exchange_as_barrier, a.y));
}

static void races_between_blocks_are_refused(void **)
{
    assert_fine(1, THREADS, 0, sum_of_blocks, a.x);
    assert_refused("which another block has written", RUN(2, THREADS, 0, sum_of_blocks, a.x));
    assert_refused("which nothing has written", RUN(2, 1, 0, read_of_other_block, a.y, a.z));
    assert_refused("which another block has read", RUN(2, 1, 0, read_of_other_block, a.x, a.z));
    assert_fine(2, THREADS, 0, count, (unsigned long long *)a.x);
}

static void accesses_out_of_bounds_are_refused(void **)
{
    assert_fine(1, 1, 0, read_one, a.x, (size_t)(4 * THREADS - 1), a.y);
    assert_refused("out of bounds: 4 bytes 0 bytes behind an array of 1024",
                   RUN(1, 1, 0, read_one, a.x, (size_t)(4 * THREADS), a.y));
    assert_refused("out of bounds: 4 bytes", RUN(1, 1, 0, write_one, a.y, (size_t)-1));
    assert_refused("of shared memory of 64", RUN(1, 1, 64, read_shared, (size_t)16, a.y));
    assert_refused("touches memory of the host", [] {
        arrays a;
        a.gpu.run(1, 1, 0, write_one, (float *)std::malloc(4), (size_t)0);
    });
}

static void reads_of_what_nothing_has_written_are_refused(void **)
{
    assert_refused("reads byte 40 of an array, which nothing has written",
                   RUN(1, 1, 0, read_one, a.y, (size_t)10, a.z));
    assert_refused("reads byte 8 of shared memory, which nothing has written",
                   RUN(1, 1, 64, read_shared, (size_t)2, a.y));
    assert_refused("of an array, which nothing has written", [] {
        arrays a;
        cudaMemcpyAsync(a.z, a.y, 512, cudaMemcpyDefault, a.gpu.stream);
        a.gpu.run(1, 1, 0, read_one, a.z, (size_t)10, a.y);
    });
}

static void unaligned_accesses_are_refused(void **)
{
    assert_fine(1, 1, 0, read_eight, a.x, (size_t)2, (float2 *)a.y);
    assert_refused("unaligned: 8 bytes at an address 4 behind a multiple of 8",
                   RUN(1, 1, 0, read_eight, a.x, (size_t)1, (float2 *)a.y));
}

static void copies_need_their_wait_and_others_a_barrier(void **)
{
    assert_fine(1, THREADS, 1024, copy_without_wait, a.x, a.y, true);
    assert_refused("while a copy is under way there", RUN(1, THREADS, 1024, copy_without_wait, a.x, a.y, false));
    assert_fine(1, THREADS, 1024, copy_without_barrier, a.x, a.y, true);
    assert_refused("race in shared memory", RUN(1, THREADS, 1024, copy_without_barrier, a.x, a.y, false));
}

static void matrices_and_products_are_reads(void **)
{
    assert_fine(1, THREADS, 1024, load_matrices_of_others, (unsigned *)a.y, true);
    assert_refused("race in shared memory", RUN(1, THREADS, 1024, load_matrices_of_others, (unsigned *)a.y, false));
    assert_fine(1, 128, 4096, product_of_stores, a.y, true, false);
    assert_refused("has written without stm_tell_tensor_cores",
                   RUN(1, 128, 4096, product_of_stores, a.y, false, false));
    assert_refused("registers of a product were written since stm_wgmma_begin",
                   RUN(1, 128, 4096, product_of_stores, a.y, true, true));
}

static void launches_that_hardware_refuses_are_refused(void **)
{
    assert_refused("a warp waits for all of its lanes, of which 31 are there",
                   RUN(1, THREADS, 0, end_before_exchange, (int *)a.y));
    assert_refused("bytes of shared memory, of which the kernel was allowed less", [] {
        arrays a;
        cudaLaunchConfig_t config = {};
        config.gridDim = config.blockDim = 1;
        config.dynamicSmemBytes = 50000;
        config.stream = a.gpu.stream;
        cudaLaunchKernelEx(&config, read_shared, (size_t)0, a.y);
    });
}

int main()
{
    const CMUnitTest tests[] = {
        cmocka_unit_test(races_between_threads_are_refused),
        cmocka_unit_test(races_between_blocks_are_refused),
        cmocka_unit_test(accesses_out_of_bounds_are_refused),
        cmocka_unit_test(reads_of_what_nothing_has_written_are_refused),
        cmocka_unit_test(unaligned_accesses_are_refused),
        cmocka_unit_test(copies_need_their_wait_and_others_a_barrier),
        cmocka_unit_test(matrices_and_products_are_reads),
        cmocka_unit_test(launches_that_hardware_refuses_are_refused),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
