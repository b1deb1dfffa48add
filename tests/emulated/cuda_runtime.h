/* tests/emulated/cuda_runtime.h: as much of the CUDA runtime as cuda/ uses, on the host: found in place of the
 * toolkit's header, so that the module's own sources run, and are tested, where there is no GPU.
 *
 * Blocks run one after the other; a block's threads are contexts that take turns, and change where they wait for each
 * other (__syncthreads, warps' exchanges). Device memory is out of the host's reach (memory.h), and the "device" works
 * when the host waits for it, not before: what the host reads too early is old, what it writes too early is seen.
 * Streams can be captured into graphs. Where the environment's STEMMA_EMULATED_COUNTS names a file, a process adds a
 * line to it at its end, of what its host has done; where its STEMMA_EMULATED_ORDER is a number, threads and blocks
 * have their turns in an order that changes with it. A process finds as many devices as STEMMA_EMULATED_DEVICES says, 1
 * without it. A second module, of the same sources, looks every access of a kernel up (checks.h). What neither can
 * show: caches, speed, what a compiler for the device makes of it. One thread of the host may use it at a time. */
#ifndef STM_TESTS_EMULATED_CUDA_RUNTIME_H
#define STM_TESTS_EMULATED_CUDA_RUNTIME_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>

using std::isfinite;

#define __global__
#ifdef __SANITIZE_THREAD__ /* what a call returns to memory would not be told of, where it is one */
#define __device__ __attribute__((always_inline))
#else
#define __device__
#endif
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
bool any_of_block(bool is_set); /* waits for the block, too */
void wait_for_warp();
uint64_t exchange_words(uint64_t word, unsigned from); /* gives the warp `word`, takes that of lane `from` */
unsigned ballot(bool is_set);                          /* bit i: what lane i gave */
void check_launch(dim3 grid, dim3 block, size_t shared_bytes, const void *kernel);
void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &kernel);

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

inline int __syncthreads_or(int is_set)
{
    return emulated::any_of_block(is_set != 0);
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

inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
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

#define CUDART_VERSION 12050

enum cudaError_t {
    cudaSuccess,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorNoDevice = 100,
    cudaErrorNotReady = 600,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorGraphExecUpdateFailure = 910
};
enum cudaMemcpyKind { cudaMemcpyDefault = 4 };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaEnableDefault = 0 };
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess, cudaDriverEntryPointSymbolNotFound };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
typedef struct emulated_stream *cudaStream_t;
typedef struct emulated_event *cudaEvent_t;
typedef struct emulated_graph *cudaGraph_t;
typedef struct emulated_recording *cudaGraphExec_t;
struct cudaGraphExecUpdateResultInfo {
    int result;
};
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor, multiProcessorCount;
};
struct cudaFuncAttributes {
    int maxThreadsPerBlock;
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
cudaError_t cudaDeviceGetPCIBusId(char *id, int bytes, int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority);
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaMalloc(void **memory, size_t bytes);
cudaError_t cudaMallocHost(void **memory, size_t bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaFreeHost(void *memory);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version,
                                             unsigned long long flags, cudaDriverEntryPointQueryResult *found);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *recording, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t recording, cudaGraph_t graph, cudaGraphExecUpdateResultInfo *result);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t recording);
cudaError_t cudaGraphLaunch(cudaGraphExec_t recording, cudaStream_t stream);

namespace emulated
{
enum class kind { kernel, copy, set };

cudaError_t allow_shared(const void *kernel, int bytes); /* so much of a launch's to this kernel */
void enter_kernel();                                     /* the thread's own code begins */

/* Queues work on a stream, or records it where the stream is captured. */
cudaError_t queue(cudaStream_t stream, kind kind, std::function<void()> work);

/* Queues work that waits for another process: `attempt` is called until it says that the work is done. */
cudaError_t queue_until(cudaStream_t stream, std::function<bool()> attempt);
} // namespace emulated

template <class Kernel> cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, Kernel *)
{
    attributes->maxThreadsPerBlock = 1024;
    return cudaSuccess;
}

template <class Kernel> cudaError_t cudaFuncSetAttribute(Kernel *kernel, cudaFuncAttribute, int bytes)
{
    return emulated::allow_shared((const void *)kernel, bytes);
}

/* Arguments are copied as the kernel's parameters when it is launched. */
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...),
                               Arguments &&...arguments)
{
    const dim3 grid = config->gridDim, block = config->blockDim;
    const size_t shared_bytes = config->dynamicSmemBytes;
    emulated::check_launch(grid, block, shared_bytes, (const void *)kernel);
    const std::tuple<std::decay_t<Parameters>...> parameters(arguments...);
    return emulated::queue(config->stream, emulated::kind::kernel, [=] {
        emulated::run(
            grid, block, shared_bytes, [&]() __attribute__((no_sanitize("thread"))) {
                [&]<size_t... I>(std::index_sequence<I...>) __attribute__((no_sanitize("thread"), always_inline))
                {
                    emulated::enter_kernel();
                    kernel(std::get<I>(parameters)...);
                }
                (std::index_sequence_for<Parameters...>());
            });
    });
}

#endif
