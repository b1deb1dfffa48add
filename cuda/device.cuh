/* cuda/device.cuh: what the files of cuda/ share: the stream, its scratch, launches, sums over warps and blocks.
 *
 * The module fills the table of src/backend/backend.h for NVIDIA GPUs of compute capability 8.0 and later. Kernels are
 * templates of the real R, in which sums are formed, and of the number A that activations are held as: double and
 * double, float and float, or float and bfloat16. Nothing adds with atomics whose order changes bits:
 * sums over rows are formed in pieces whose number depends on the shapes alone, and the pieces are added in order. */
#ifndef STM_CUDA_DEVICE_CUH
#define STM_CUDA_DEVICE_CUH

extern "C" {
#include "backend/backend.h"
}

#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

/* Weights that round_weights was told of, and their rounded copy; elements keep their index. */
struct stm_cuda_rounded {
    const float *weights;
    size_t n;
    __nv_bfloat16 *rounded;
};

struct stm_key_work;     /* a block's share of a gradient: key_work.cuh */
struct stm_cuda_mapping; /* memory in a range of addresses: memory.cu */

enum { STM_CUDA_EVENTS = 64 };

/* Bytes of a message that are copied at once: less, and a copy's own price tells. */
#ifndef STM_CUDA_PIECE_BYTES
#define STM_CUDA_PIECE_BYTES ((size_t)1 << 20)
#endif

struct stm_stream {
    cudaStream_t queue;
    cublasHandle_t blas;
    int device, n_multiprocessors;
    bool has_wgmma;         /* attention is by products of warpgroups where these suit */
    stm_key_work *key_work; /* the plan of the last such gradient of keys: key_work.cuh */
    size_t key_work_capacity;
    stm_device described;
    char *scratch, *workspace;         /* device memory: of the call that runs, grows on demand; of cuBLAS */
    size_t scratch_bytes, n_scratches; /* n: how many there have been */
    stm_cuda_rounded *rounded;
    size_t n_rounded, rounded_capacity;
    stm_cuda_mapping *mappings;
    size_t n_mappings, mapping_capacity;
    /* Of a queue beside another: beside.cu. */
    cudaEvent_t joint, events[STM_CUDA_EVENTS];
    uint64_t n_noted, n_passed;
    char *host_room; /* pinned, grows on demand */
    size_t host_room_bytes;
    cudaEvent_t marks[STM_MARKS]; /* NULL: not used yet */
    bool is_recording;
    struct {
        cudaGraphExec_t graph; /* NULL: none */
        size_t n_scratches;    /* when it was made */
    } recordings[STM_RECORDINGS];
};

/* Stores what the runtime or cuBLAS said and returns the status: STM_ERR_MEMORY or STM_ERR_DEVICE. */
stm_status stm_cuda_failed(cudaError_t error, const char *call);
stm_status stm_cublas_failed(cublasStatus_t status, const char *call);

/* What is said where the device (or, pinned, the host) has no memory: asked for how much, and for what; 0 bytes: `what`
 * is a call that does not say. Returns STM_ERR_MEMORY. */
stm_status stm_cuda_no_memory(size_t bytes, const char *what);

/* Device memory, at least a byte, for `what`. Fails: STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_cuda_take(size_t bytes, const char *what, void *out);

#define STM_CUDA(call)                                                                                                 \
    do {                                                                                                               \
        const cudaError_t error_ = (call);                                                                             \
        if (error_ != cudaSuccess)                                                                                     \
            return stm_cuda_failed(error_, #call);                                                                     \
    } while (0)

#define STM_CUBLAS(call)                                                                                               \
    do {                                                                                                               \
        const cublasStatus_t status_ = (call);                                                                         \
        if (status_ != CUBLAS_STATUS_SUCCESS)                                                                          \
            return stm_cublas_failed(status_, #call);                                                                  \
    } while (0)

/* Room on the device for one call, contents undefined, valid until the next call of this on the stream. Fails:
 * STM_ERR_MEMORY; STM_ERR_DEVICE where it would have to grow in a recording. */
stm_status stm_cuda_scratch(stm_stream *stream, size_t bytes, void *out);

/* The rows of the table that do not depend on the precision: stream.cu. */
int stm_cuda_n_devices(void);
stm_status stm_cuda_choose_device(int node_rank);
void stm_cuda_describe(const stm_stream *stream, stm_device *out);
stm_status stm_cuda_open(int n_threads, stm_stream **out);
void stm_cuda_close(stm_stream *stream);
stm_status stm_cuda_copy_bytes(stm_stream *stream, void *to, const void *from, size_t bytes);
stm_status stm_cuda_write(stm_stream *stream, void *device, const void *host, size_t bytes);
stm_status stm_cuda_read(stm_stream *stream, void *host, const void *device, size_t bytes);
stm_status stm_cuda_zero(stm_stream *stream, void *device, size_t bytes);
stm_status stm_cuda_synchronize(stm_stream *stream);
stm_status stm_cuda_round_nothing(stm_stream *stream, const void *weights, size_t n);
stm_status stm_cuda_round_weights(stm_stream *stream, const void *weights, size_t n);
stm_status stm_cuda_gemm_f64(stm_stream *stream, const stm_gemm *gemm);
stm_status stm_cuda_gemm_f32(stm_stream *stream, const stm_gemm *gemm);
stm_status stm_cuda_gemm_bf16(stm_stream *stream, const stm_gemm *gemm);

/* Sets has_wgmma: what the device and the module can do, unless the environment's STEMMA_GPU_ATTENTION is mma; wgmma
 * insists. Fails: STM_ERR_INPUT where it says anything else, or insists in vain; STM_ERR_DEVICE. (attend_hopper.cu) */
stm_status stm_attend_choose(stm_stream *stream, const cudaDeviceProp *device);

/* memory.cu */
stm_status stm_cuda_alloc(stm_stream *stream, size_t bytes, void *out);
void stm_cuda_free(stm_stream *stream, void *memory);
stm_status stm_cuda_alloc_host(stm_stream *stream, size_t bytes, void *out);
void stm_cuda_free_host(stm_stream *stream, void *memory);
stm_status stm_cuda_reserve(stm_stream *stream, size_t bytes, const stm_byte_range *ranges, size_t n_ranges, void *out);
stm_status stm_cuda_commit(stm_stream *stream, void *array, size_t first, size_t end);
void stm_cuda_unreserve(stm_stream *stream, void *array, size_t bytes);

/* beside.cu */
stm_status stm_cuda_open_beside(stm_stream *stream, stm_stream **out);
void stm_cuda_close_beside(stm_stream *stream); /* frees what open_beside has taken for it; of another, nothing */
stm_status stm_cuda_follow(stm_stream *beside, stm_stream *first);
stm_status stm_cuda_note(stm_stream *beside, uint64_t *mark);
stm_status stm_cuda_has_passed(stm_stream *beside, uint64_t mark, bool *passed);
void *stm_cuda_queue_of(stm_stream *stream);
template <class R>
stm_status stm_cuda_add_in_order(stm_stream *stream, size_t n_parts, size_t n, const void *parts, void *sum);

/* ahead.cu */
stm_status stm_cuda_host_room(stm_stream *stream, size_t bytes, void *out);
stm_status stm_cuda_mark(stm_stream *stream, size_t mark);
stm_status stm_cuda_wait_mark(stm_stream *stream, size_t mark);
stm_status stm_cuda_has_passed_mark(stm_stream *stream, size_t mark, bool *passed);
stm_status stm_cuda_begin_recording(stm_stream *stream);
stm_status stm_cuda_end_recording(stm_stream *stream, size_t number);
bool stm_cuda_can_replay(const stm_stream *stream, size_t number);
stm_status stm_cuda_replay(stm_stream *stream, size_t number);
stm_status stm_cuda_advance(stm_stream *stream, const stm_advance *args);
void stm_cuda_close_ahead(stm_stream *stream); /* frees what these have taken */

/* Those that do; each is compiled for all R, or for all pairs of R and A, in the file that its topic names. */
template <class R> struct stm_cuda_ops {
    static stm_status add(stm_stream *, size_t n, const void *x, void *y); /* rows.cu */
    static stm_status embed(stm_stream *, const stm_embed *);
    static stm_status embed_backward(stm_stream *, const stm_embed *);
    static stm_status scatter_add(stm_stream *, const stm_rows *);
    static stm_status adamw(stm_stream *, const stm_adamw *); /* elements.cu */
    static stm_status sum_squares(stm_stream *, size_t n, const void *x, double *host_sum);
    static stm_status head_block(stm_stream *, const stm_head_block *); /* head.cu */
    static stm_status head_finish(stm_stream *, const stm_head_block *);
    static stm_status spread(stm_stream *, const stm_spread *); /* spread.cu */
    static stm_status sample(stm_stream *, const stm_sample *); /* sample.cu */
};

template <class R, class A> struct stm_cuda_activation_ops {
    static stm_status to_activations(stm_stream *, size_t n, const void *x, void *y); /* rows.cu */
    static stm_status gather(stm_stream *, const stm_rows *);
    static stm_status append(stm_stream *, const stm_append *);
    static stm_status bias_backward(stm_stream *, const stm_bias *); /* elements.cu */
    static stm_status swiglu(stm_stream *, const stm_swiglu *);
    static stm_status swiglu_backward(stm_stream *, const stm_swiglu *);
    static stm_status rmsnorm(stm_stream *, const stm_rmsnorm *); /* norm.cu */
    static stm_status rmsnorm_backward(stm_stream *, const stm_rmsnorm *);
    static stm_status head_block_backward(stm_stream *, const stm_head_block *); /* head.cu */
    static stm_status rotary(stm_stream *, const stm_rotary *);                  /* rotary.cu */
    static stm_status rotary_backward(stm_stream *, const stm_rotary *);
    static stm_status attend(stm_stream *, const stm_attend *); /* attend.cu */
    static stm_status attend_backward(stm_stream *, const stm_attend *);
};

/* A number of memory as a real, and a real as what memory holds, rounded to nearest. */
static inline __device__ double stm_real(double x)
{
    return x;
}
static inline __device__ float stm_real(float x)
{
    return x;
}
static inline __device__ float stm_real(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}
static inline __device__ void stm_put(double x, double *to)
{
    *to = x;
}
static inline __device__ void stm_put(float x, float *to)
{
    *to = x;
}
static inline __device__ void stm_put(float x, __nv_bfloat16 *to)
{
    *to = __float2bfloat16(x);
}

/* Two of bfloat16 in a word. */
static inline __device__ unsigned stm_pack(__nv_bfloat16 low, __nv_bfloat16 high)
{
    return (unsigned)__bfloat16_as_ushort(low) | (unsigned)__bfloat16_as_ushort(high) << 16;
}
static inline __device__ unsigned stm_pack(float low, float high)
{
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high); /* an instruction for both */
    return stm_pack(both.x, both.y);
}

/* N neighbours, which go through memory at once: 16 bytes or less of them. */
template <class T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) stm_neighbours_of {
    T x[N];
};

template <int N, class T, class R> static __device__ __forceinline__ void stm_load(const T *from, R x[N])
{
    const stm_neighbours_of<T, N> all = *(const stm_neighbours_of<T, N> *)from;
#pragma unroll
    for (int i = 0; i < N; i++)
        x[i] = stm_real(all.x[i]);
}

template <int N, class T, class R> static __device__ __forceinline__ void stm_store(const R x[N], T *to)
{
    if constexpr (sizeof(T) == 2 && N > 1) { /* two a word, or compilers may store them one by one */
        stm_neighbours_of<unsigned, N / 2> words;
#pragma unroll
        for (int i = 0; i < N / 2; i++)
            words.x[i] = stm_pack(x[2 * i], x[2 * i + 1]);
        *(stm_neighbours_of<unsigned, N / 2> *)to = words;
    } else {
        stm_neighbours_of<T, N> all;
#pragma unroll
        for (int i = 0; i < N; i++)
            stm_put(x[i], &all.x[i]);
        *(stm_neighbours_of<T, N> *)to = all;
    }
}

/* Whether 2, 4 or 8 numbers at a time may be taken from rows that begin at multiples of `stride` from these arrays. */
template <class... T> bool stm_go_in_eights(size_t stride, const T *...arrays)
{
    return stride % 8 == 0 && ((uintptr_t)arrays | ...) % 16 == 0;
}

enum { STM_WARP = 32, STM_BLOCK = 256 }; /* threads */
#define STM_ALL_LANES 0xffffffffu

/* Queues kernel<<<grid, block, shared_bytes>>>(arguments). A grid without blocks is nothing to do. */
template <class... Parameters, class... Arguments>
stm_status stm_launch(stm_stream *stream, dim3 grid, unsigned block, size_t shared_bytes, void (*kernel)(Parameters...),
                      Arguments... arguments)
{
    if (grid.x == 0 || grid.y == 0 || grid.z == 0)
        return STM_OK;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(block);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream->queue;
    STM_CUDA(cudaLaunchKernelEx(&config, kernel, arguments...));
    return STM_OK;
}

/* Blocks for n elements, one a thread and turn, where a loop with stm_n_threads() as its step takes the rest. */
inline unsigned stm_blocks_for(const stm_stream *stream, size_t n)
{
    const size_t most = (size_t)stream->n_multiprocessors * 16, needed = (n + STM_BLOCK - 1) / STM_BLOCK;
    return (unsigned)STM_MIN(most, needed);
}

#define STM_EACH_ELEMENT(i, n)                                                                                         \
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;                                                          \
    i < (n);                                                                                                           \
    i += (size_t)gridDim.x * blockDim.x

inline size_t stm_pieces_of(size_t n, size_t piece)
{
    return (n + piece - 1) / piece;
}

/* The same in every lane. */
template <class T> __device__ T stm_warp_sum(T x)
{
    for (int step = STM_WARP / 2; step > 0; step /= 2)
        x += __shfl_xor_sync(STM_ALL_LANES, x, step);
    return x;
}

template <class T> __device__ T stm_warp_max(T x)
{
    for (int step = STM_WARP / 2; step > 0; step /= 2) {
        const T other = __shfl_xor_sync(STM_ALL_LANES, x, step);
        x = other > x ? other : x;
    }
    return x;
}

/* The same in every thread of the block, whose size is a multiple of a warp's. `room`: shared memory, [STM_WARP]. */
template <class T> __device__ T stm_block_sum(T x, T *room)
{
    const unsigned lane = threadIdx.x % STM_WARP, warp = threadIdx.x / STM_WARP;
    x = stm_warp_sum(x);
    __syncthreads(); /* the room may still be read */
    if (lane == 0)
        room[warp] = x;
    __syncthreads();
    return stm_warp_sum(lane < blockDim.x / STM_WARP ? room[lane] : T(0));
}

template <class T> __device__ T stm_block_max(T x, T *room)
{
    const unsigned lane = threadIdx.x % STM_WARP, warp = threadIdx.x / STM_WARP;
    x = stm_warp_max(x);
    __syncthreads();
    if (lane == 0)
        room[warp] = x;
    __syncthreads();
    return stm_warp_max(room[lane < blockDim.x / STM_WARP ? lane : 0]);
}

#endif
