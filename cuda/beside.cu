/* A second queue of the device, for messages: copies and sums that run beside what the first computes. */
#include "cuda/device.cuh"

#include <stdlib.h>

/* What others wait for does not queue up behind the blocks of a kernel that fills the device. */
static stm_status set_up(stm_stream *beside)
{
    int least, greatest;
    STM_CUDA(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    STM_CUDA(cudaStreamCreateWithPriority(&beside->queue, cudaStreamNonBlocking, greatest));
    STM_CUDA(cudaEventCreateWithFlags(&beside->joint, cudaEventDisableTiming));
    for (size_t i = 0; i < STM_CUDA_EVENTS; i++)
        STM_CUDA(cudaEventCreateWithFlags(&beside->events[i], cudaEventDisableTiming));
    return STM_OK;
}

stm_status stm_cuda_open_beside(stm_stream *stream, stm_stream **out)
{
    stm_stream *beside = (stm_stream *)calloc(1, sizeof *beside);
    if (!beside)
        return stm_fail(STM_ERR_MEMORY, "out of memory: asked for %zu bytes", sizeof *beside);
    beside->device = stream->device;
    beside->n_multiprocessors = stream->n_multiprocessors;
    beside->described = stream->described;
    const stm_status status = set_up(beside);
    if (status != STM_OK) {
        stm_cuda_close(beside);
        return status;
    }
    *out = beside;
    return STM_OK;
}

void stm_cuda_close_beside(stm_stream *stream)
{
    for (size_t i = 0; i < STM_CUDA_EVENTS; i++)
        if (stream->events[i])
            (void)cudaEventDestroy(stream->events[i]);
    if (stream->joint)
        (void)cudaEventDestroy(stream->joint);
}

stm_status stm_cuda_follow(stm_stream *beside, stm_stream *first)
{
    STM_CUDA(cudaEventRecord(beside->joint, first->queue));
    STM_CUDA(cudaStreamWaitEvent(beside->queue, beside->joint, 0));
    return STM_OK;
}

/* Marks have numbers from 1 on, and take turns with the events. */
stm_status stm_cuda_note(stm_stream *beside, uint64_t *mark)
{
    if (beside->n_noted - beside->n_passed == STM_CUDA_EVENTS) {
        STM_CUDA(cudaEventSynchronize(beside->events[beside->n_passed % STM_CUDA_EVENTS]));
        beside->n_passed++;
    }
    STM_CUDA(cudaEventRecord(beside->events[beside->n_noted % STM_CUDA_EVENTS], beside->queue));
    *mark = ++beside->n_noted;
    return STM_OK;
}

stm_status stm_cuda_has_passed(stm_stream *beside, uint64_t mark, bool *passed)
{
    while (beside->n_passed < mark) {
        const cudaError_t found = cudaEventQuery(beside->events[beside->n_passed % STM_CUDA_EVENTS]);
        if (found == cudaErrorNotReady)
            break;
        STM_CUDA(found);
        beside->n_passed++;
    }
    *passed = beside->n_passed >= mark;
    return STM_OK;
}

void *stm_cuda_queue_of(stm_stream *stream)
{
    return stream->queue;
}

template <class R> static __global__ void add_parts(size_t n_parts, size_t n, const R *parts, R *sum)
{
    for (STM_EACH_ELEMENT(i, n)) {
        double total = 0;
        for (size_t p = 0; p < n_parts; p++)
            total += (double)parts[p * n + i];
        sum[i] = (R)total;
    }
}

template <class R>
stm_status stm_cuda_add_in_order(stm_stream *stream, size_t n_parts, size_t n, const void *parts, void *sum)
{
    return stm_launch(stream, dim3(stm_blocks_for(stream, n)), STM_BLOCK, 0, add_parts<R>, n_parts, n, (const R *)parts,
                      (R *)sum);
}

template stm_status stm_cuda_add_in_order<float>(stm_stream *, size_t, size_t, const void *, void *);
template stm_status stm_cuda_add_in_order<double>(stm_stream *, size_t, size_t, const void *, void *);
