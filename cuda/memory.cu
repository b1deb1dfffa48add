/* Memory of the device, which the host never touches; and memory of the host that the device copies by itself.
 *
 * An array of which only ranges have memory is a range of addresses; memory is mapped there piece by piece, by the
 * driver's own calls, which are looked up so that the module opens where there is no driver. */
#include "cuda/device.cuh"

#include <cuda.h>
#include <stdlib.h>
#include <string.h>

/* Memory in a reserved array. */
struct stm_cuda_mapping {
    char *at;
    size_t bytes;
};

template <class Function> static stm_status find(const char *name, Function *out)
{
    void *function = NULL;
    cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
    STM_CUDA(cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found));
#else
    STM_CUDA(cudaGetDriverEntryPoint(name, &function, cudaEnableDefault, &found));
#endif
    if (!function || found != cudaDriverEntryPointSuccess)
        return stm_fail(STM_ERR_DEVICE, "cuda: the driver has no %s; expected one for CUDA 12 or later", name);
    memcpy(out, &function, sizeof function);
    return STM_OK;
}

/* Calls a function of the driver, whose errors have the runtime's numbers. */
#define DRIVER(function, ...)                                                                                          \
    do {                                                                                                               \
        decltype(&function) call_ = NULL;                                                                              \
        STM_TRY(find(#function, &call_));                                                                              \
        const CUresult result_ = call_(__VA_ARGS__);                                                                   \
        if (result_ != CUDA_SUCCESS)                                                                                   \
            return stm_cuda_failed((cudaError_t)result_, #function);                                                   \
    } while (0)

stm_status stm_cuda_no_memory(size_t bytes, const char *what)
{
    size_t free_bytes = 0, total_bytes = 0;
    (void)cudaGetLastError(); /* it is being told */
    (void)cudaMemGetInfo(&free_bytes, &total_bytes);
    const double free_mib = (double)free_bytes / (1 << 20), total_mib = (double)total_bytes / (1 << 20);
    if (bytes == 0)
        return stm_fail(STM_ERR_MEMORY, "cuda: out of memory in %s; %.1f of %.1f MiB are free", what, free_mib,
                        total_mib);
    return stm_fail(STM_ERR_MEMORY, "cuda: out of memory: asked for %.1f MiB (%s); %.1f of %.1f MiB are free",
                    (double)bytes / (1 << 20), what, free_mib, total_mib);
}

stm_status stm_cuda_take(size_t bytes, const char *what, void *out)
{
    void *memory;
    const cudaError_t error = cudaMalloc(&memory, STM_MAX(bytes, (size_t)1));
    if (error == cudaErrorMemoryAllocation)
        return stm_cuda_no_memory(bytes, what);
    STM_CUDA(error);
    memcpy(out, &memory, sizeof memory);
    return STM_OK;
}

stm_status stm_cuda_alloc(stm_stream *stream, size_t bytes, void *out)
{
    (void)stream;
    return stm_cuda_take(bytes, "an array", out);
}

void stm_cuda_free(stm_stream *stream, void *memory)
{
    if (!memory)
        return;
    (void)cudaStreamSynchronize(stream->queue);
    (void)cudaFree(memory);
}

stm_status stm_cuda_alloc_host(stm_stream *stream, size_t bytes, void *out)
{
    void *memory;
    (void)stream;
    const cudaError_t error = cudaMallocHost(&memory, STM_MAX(bytes, (size_t)1));
    if (error == cudaErrorMemoryAllocation)
        return stm_cuda_no_memory(bytes, "pinned memory of the host");
    STM_CUDA(error);
    memcpy(out, &memory, sizeof memory);
    return STM_OK;
}

void stm_cuda_free_host(stm_stream *stream, void *memory)
{
    (void)stream;
    if (memory)
        (void)cudaFreeHost(memory);
}

/* Ranges of addresses */

/* What is mapped can be sent by a network card on its own, where that can be. */
static stm_status describe(const stm_stream *stream, CUmemAllocationProp *what)
{
    int is_capable = 0;
    *what = {};
    what->type = CU_MEM_ALLOCATION_TYPE_PINNED;
    what->location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    what->location.id = stream->device;
    DRIVER(cuDeviceGetAttribute, &is_capable, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED,
           (CUdevice)stream->device);
    what->allocFlags.gpuDirectRDMACapable = (unsigned char)(is_capable != 0);
    return STM_OK;
}

static stm_status find_granule(const stm_stream *stream, size_t *granule)
{
    CUmemAllocationProp what;
    STM_TRY(describe(stream, &what));
    DRIVER(cuMemGetAllocationGranularity, granule, &what, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
    return STM_OK;
}

static size_t round_up(size_t n, size_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

static stm_status map(stm_stream *stream, char *at, size_t bytes)
{
    CUmemAllocationProp what;
    CUmemAccessDesc access = {};
    CUmemGenericAllocationHandle memory;
    STM_TRY(
        stm_reserve(&stream->mappings, &stream->mapping_capacity, stream->n_mappings + 1, sizeof *stream->mappings));
    STM_TRY(describe(stream, &what));
    access.location = what.location;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    decltype(&cuMemCreate) create = NULL;
    STM_TRY(find("cuMemCreate", &create));
    const CUresult created = create(&memory, bytes, &what, 0);
    if (created == CUDA_ERROR_OUT_OF_MEMORY)
        return stm_cuda_no_memory(bytes, "part of an array");
    STM_CUDA((cudaError_t)created);
    DRIVER(cuMemMap, (CUdeviceptr)at, bytes, 0, memory, 0);
    stream->mappings[stream->n_mappings++] = {at, bytes};
    DRIVER(cuMemRelease, memory); /* the mapping keeps it */
    DRIVER(cuMemSetAccess, (CUdeviceptr)at, bytes, &access, 1);
    return STM_OK;
}

/* Moves *at behind what is mapped there; then *end to what is mapped next. */
static void find_gap(const stm_stream *stream, char **at, char **end)
{
    for (size_t i = 0; i < stream->n_mappings; i++)
        if (stream->mappings[i].at <= *at && *at < stream->mappings[i].at + stream->mappings[i].bytes) {
            *at = stream->mappings[i].at + stream->mappings[i].bytes;
            i = (size_t)-1; /* from the first again */
        }
    for (size_t i = 0; i < stream->n_mappings; i++)
        if (stream->mappings[i].at >= *at && stream->mappings[i].at < *end)
            *end = stream->mappings[i].at;
}

stm_status stm_cuda_commit(stm_stream *stream, void *array, size_t first, size_t end)
{
    size_t granule;
    if (first == end)
        return STM_OK;
    STM_TRY(find_granule(stream, &granule));
    char *at = (char *)array + first / granule * granule, *const last = (char *)array + round_up(end, granule);
    for (;;) {
        char *gap_end = last;
        find_gap(stream, &at, &gap_end);
        if (at >= last)
            return STM_OK;
        STM_TRY(map(stream, at, (size_t)(gap_end - at)));
    }
}

stm_status stm_cuda_reserve(stm_stream *stream, size_t bytes, const stm_byte_range *ranges, size_t n_ranges, void *out)
{
    CUdeviceptr array;
    size_t granule;
    STM_TRY(find_granule(stream, &granule));
    DRIVER(cuMemAddressReserve, &array, round_up(STM_MAX(bytes, (size_t)1), granule), 0, 0, 0);
    memcpy(out, &array, sizeof array);
    for (size_t i = 0; i < n_ranges; i++) {
        const size_t end = STM_MIN(bytes, ranges[i].first + ranges[i].n);
        const stm_status status = stm_cuda_commit(stream, (void *)array, ranges[i].first, end);
        if (status != STM_OK) {
            stm_cuda_unreserve(stream, (void *)array, bytes);
            return status;
        }
    }
    return STM_OK;
}

static stm_status give_back(stm_stream *stream, char *array, size_t bytes)
{
    size_t granule, n = 0;
    STM_CUDA(cudaStreamSynchronize(stream->queue));
    STM_TRY(find_granule(stream, &granule));
    bytes = round_up(STM_MAX(bytes, (size_t)1), granule);
    for (size_t i = 0; i < stream->n_mappings; i++) {
        const stm_cuda_mapping m = stream->mappings[i];
        if (m.at < array || m.at >= array + bytes)
            stream->mappings[n++] = m;
        else
            DRIVER(cuMemUnmap, (CUdeviceptr)m.at, m.bytes);
    }
    stream->n_mappings = n;
    DRIVER(cuMemAddressFree, (CUdeviceptr)array, bytes);
    return STM_OK;
}

void stm_cuda_unreserve(stm_stream *stream, void *array, size_t bytes)
{
    (void)give_back(stream, (char *)array, bytes);
}
