/* tests/emulated/cuda_runtime.h: as much of the CUDA runtime as cuda/ uses, on the host: found in place of the
 * toolkit's header, so that the module's own sources run, and are tested, where there is no GPU.
 *
 * Blocks run one after the other; a block's threads are contexts that take turns, and change where they wait for each
 * other (__syncthreads, warps' exchanges). Device memory is host memory. What this cannot show: races between threads
 * that do not wait, caches, speed. One thread of the host may use it at a time. */
#ifndef STM_TESTS_EMULATED_CUDA_RUNTIME_H
#define STM_TESTS_EMULATED_CUDA_RUNTIME_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

using std::isfinite;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __align__(n) alignas(n)
#define __shared__ static
#define __constant__
#define __launch_bounds__(...)
#define __restrict__ __restrict

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};
struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace emulated
{
extern unsigned lane; /* of the thread in its warp */

void wait_for_block();
void wait_for_warp();
uint64_t exchange_words(uint64_t word, unsigned from); /* gives the warp `word`, takes that of lane `from` */
unsigned ballot(bool is_set);                          /* bit i: what lane i gave */
void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &kernel);

template <class T> T exchange(T value, unsigned from)
{
    static_assert(sizeof(T) <= sizeof(uint64_t), "one word");
    uint64_t word = 0;
    std::memcpy(&word, &value, sizeof value);
    word = exchange_words(word, from);
    std::memcpy(&value, &word, sizeof value);
    return value;
}
} // namespace emulated

inline void __syncthreads()
{
    emulated::wait_for_block();
}

inline void __syncwarp(unsigned = 0xffffffffu)
{
    emulated::wait_for_warp();
}

template <class T> T __shfl_sync(unsigned, T value, int from)
{
    return emulated::exchange(value, (unsigned)from & 31);
}

template <class T> T __shfl_xor_sync(unsigned, T value, int mask)
{
    return emulated::exchange(value, (emulated::lane ^ (unsigned)mask) & 31);
}

template <class T> T __shfl_down_sync(unsigned, T value, unsigned delta)
{
    const unsigned from = emulated::lane + delta;
    return emulated::exchange(value, from < 32 ? from : emulated::lane);
}

template <class T> T __shfl_up_sync(unsigned, T value, unsigned delta)
{
    return emulated::exchange(value, emulated::lane >= delta ? emulated::lane - delta : emulated::lane);
}

inline unsigned __ballot_sync(unsigned, bool is_set)
{
    return emulated::ballot(is_set);
}

inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

inline unsigned __float_as_uint(float x)
{
    unsigned u;
    std::memcpy(&u, &x, sizeof u);
    return u;
}

inline float __uint_as_float(unsigned u)
{
    float x;
    std::memcpy(&x, &u, sizeof x);
    return x;
}

inline long long __double_as_longlong(double x)
{
    long long u;
    std::memcpy(&u, &x, sizeof u);
    return u;
}

inline double __longlong_as_double(long long u)
{
    double x;
    std::memcpy(&x, &u, sizeof x);
    return x;
}

inline unsigned long long atomicAdd(unsigned long long *to, unsigned long long x)
{
    return __atomic_fetch_add(to, x, __ATOMIC_RELAXED);
}

/* The runtime's calls */

enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation = 2, cudaErrorNoDevice = 100 };
enum cudaMemcpyKind { cudaMemcpyDefault = 4 };
enum { cudaStreamNonBlocking = 1, cudaMemAttachGlobal = 1 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaMemLocationType { cudaMemLocationTypeDevice = 1 };
enum cudaMemoryAdvise { cudaMemAdviseSetPreferredLocation = 3 };
enum cudaDeviceAttr { cudaDevAttrConcurrentManagedAccess = 89 };
typedef struct emulated_stream *cudaStream_t;
struct cudaMemLocation {
    cudaMemLocationType type;
    int id;
};
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor, multiProcessorCount;
};
struct cudaLaunchAttribute;
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};

const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaMalloc(void **memory, size_t bytes);
cudaError_t cudaMallocManaged(void **memory, size_t bytes, unsigned flags = cudaMemAttachGlobal);
cudaError_t cudaMallocHost(void **memory, size_t bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaFreeHost(void *memory);
cudaError_t cudaMemAdvise(const void *memory, size_t bytes, cudaMemoryAdvise advice, cudaMemLocation location);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);

template <class Kernel> cudaError_t cudaFuncSetAttribute(Kernel *, cudaFuncAttribute, int)
{
    return cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...),
                               Arguments &&...arguments)
{
    emulated::launch(config->gridDim, config->blockDim, config->dynamicSmemBytes, [&] { kernel(arguments...); });
    return cudaGetLastError();
}

#endif
