/* The stream, and copies. */
#include "cuda/device.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLAS_WORKSPACE_BYTES = 64 << 20 }; /* of its own, so that equal calls give equal bits; Hopper: 32 or more */

stm_status stm_cuda_failed(cudaError_t error, const char *call)
{
    (void)cudaGetLastError(); /* it has been told */
    if (error == cudaErrorMemoryAllocation)
        return stm_cuda_no_memory(0, call);
    return stm_fail(STM_ERR_DEVICE, "cuda: %s: %s", call, cudaGetErrorString(error));
}

stm_status stm_cublas_failed(cublasStatus_t status, const char *call)
{
    return stm_fail(STM_ERR_DEVICE, "cublas: %s: %s", call, cublasGetStatusString(status));
}

static stm_status count_devices(int *n)
{
    const cudaError_t found = cudaGetDeviceCount(n);
    if (found != cudaSuccess || *n == 0)
        return stm_fail(STM_ERR_INPUT, "backend: cuda: found no GPU (%s)", cudaGetErrorString(found));
    return STM_OK;
}

int stm_cuda_n_devices(void)
{
    int n;
    return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
}

stm_status stm_cuda_choose_device(int node_rank)
{
    int n;
    STM_TRY(count_devices(&n));
    STM_CUDA(cudaSetDevice(node_rank % n));
    return STM_OK;
}

void stm_cuda_describe(const stm_stream *stream, stm_device *out)
{
    *out = stream->described;
}

static stm_status check_device(stm_stream *stream)
{
    cudaDeviceProp properties;
    int n;
    STM_TRY(count_devices(&n));
    STM_CUDA(cudaGetDevice(&stream->device));
    STM_CUDA(cudaGetDeviceProperties(&properties, stream->device));
    if (properties.major < 8)
        return stm_fail(STM_ERR_INPUT, "backend: cuda: %s has compute capability %d.%d; expected 8.0 or later",
                        properties.name, properties.major, properties.minor);
    stream->described.bytes = properties.totalGlobalMem;
    snprintf(stream->described.name, sizeof stream->described.name, "%.60s, %.0f GiB", properties.name,
             (double)properties.totalGlobalMem / (1 << 30));
    STM_CUDA(cudaDeviceGetPCIBusId(stream->described.id, sizeof stream->described.id, stream->device));
    stream->n_multiprocessors = properties.multiProcessorCount;
    return stm_attend_choose(stream, &properties);
}

/* cuBLAS: float is multiplied as float, not as TF32, and the parts of a sum that is split are added in float, too,
 * where the result is bfloat16. */
static stm_status set_up(stm_stream *stream)
{
    STM_TRY(check_device(stream));
    STM_CUDA(cudaStreamCreateWithFlags(&stream->queue, cudaStreamNonBlocking));
    STM_CUBLAS(cublasCreate(&stream->blas));
    STM_CUBLAS(cublasSetStream(stream->blas, stream->queue));
    STM_TRY(stm_cuda_take(BLAS_WORKSPACE_BYTES, "cuBLAS's workspace", &stream->workspace));
    STM_CUBLAS(cublasSetMathMode(stream->blas, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION));
    STM_CUBLAS(cublasSetWorkspace(stream->blas, stream->workspace, BLAS_WORKSPACE_BYTES));
    return STM_OK;
}

stm_status stm_cuda_open(int n_threads, stm_stream **out)
{
    (void)n_threads;
    stm_stream *stream = (stm_stream *)calloc(1, sizeof *stream);
    if (!stream)
        return stm_fail(STM_ERR_MEMORY, "out of memory: asked for %zu bytes", sizeof *stream);
    const stm_status status = set_up(stream);
    if (status != STM_OK) {
        stm_cuda_close(stream);
        return status;
    }
    *out = stream;
    return STM_OK;
}

void stm_cuda_close(stm_stream *stream)
{
    if (!stream)
        return;
    for (size_t i = 0; i < stream->n_rounded; i++)
        (void)cudaFree(stream->rounded[i].rounded);
    free(stream->rounded);
    free(stream->mappings);
    free(stream->key_work);
    stm_cuda_close_beside(stream);
    stm_cuda_close_ahead(stream);
    if (stream->blas)
        (void)cublasDestroy(stream->blas);
    (void)cudaFree(stream->workspace);
    (void)cudaFree(stream->scratch);
    if (stream->queue)
        (void)cudaStreamDestroy(stream->queue);
    free(stream);
}

stm_status stm_cuda_scratch(stm_stream *stream, size_t bytes, void *out)
{
    if (bytes > stream->scratch_bytes) {
        if (stream->is_recording)
            return stm_fail(STM_ERR_DEVICE,
                            "cuda: a recording needs %zu bytes of scratch and finds %zu; expected its work to have run "
                            "once before",
                            bytes, stream->scratch_bytes);
        STM_CUDA(cudaStreamSynchronize(stream->queue)); /* kernels may still use the old one */
        STM_CUDA(cudaFree(stream->scratch));
        stream->scratch = NULL;
        stream->scratch_bytes = 0;
        STM_TRY(stm_cuda_take(bytes, "the scratch of kernels", &stream->scratch));
        stream->scratch_bytes = bytes;
        stream->n_scratches++;
    }
    memcpy(out, &stream->scratch, sizeof stream->scratch);
    return STM_OK;
}

stm_status stm_cuda_copy_bytes(stm_stream *stream, void *to, const void *from, size_t bytes)
{
    if (bytes > 0)
        STM_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream->queue));
    return STM_OK;
}

stm_status stm_cuda_write(stm_stream *stream, void *device, const void *host, size_t bytes)
{
    return stm_cuda_copy_bytes(stream, device, host, bytes);
}

stm_status stm_cuda_read(stm_stream *stream, void *host, const void *device, size_t bytes)
{
    STM_TRY(stm_cuda_copy_bytes(stream, host, device, bytes));
    return stm_cuda_synchronize(stream);
}

stm_status stm_cuda_zero(stm_stream *stream, void *device, size_t bytes)
{
    if (bytes > 0)
        STM_CUDA(cudaMemsetAsync(device, 0, bytes, stream->queue));
    return STM_OK;
}

stm_status stm_cuda_synchronize(stm_stream *stream)
{
    STM_CUDA(cudaStreamSynchronize(stream->queue));
    return STM_OK;
}

stm_status stm_cuda_round_nothing(stm_stream *stream, const void *weights, size_t n)
{
    (void)stream;
    (void)weights;
    (void)n;
    return STM_OK;
}
