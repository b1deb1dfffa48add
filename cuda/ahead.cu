/* What lets the host run ahead of the device: memory that copies pass by themselves, marks in the queue, and recordings
 * (CUDA graphs: a round of decoding is some ten launches a layer, which cost the host more than the device). */
#include "cuda/device.cuh"

#include <string.h>

stm_status stm_cuda_host_room(stm_stream *stream, size_t bytes, void *out)
{
    if (bytes > stream->host_room_bytes) {
        STM_CUDA(cudaStreamSynchronize(stream->queue)); /* copies may still use the old one */
        stm_cuda_free_host(stream, stream->host_room);
        stream->host_room = NULL;
        stream->host_room_bytes = 0;
        STM_TRY(stm_cuda_alloc_host(stream, bytes, &stream->host_room));
        stream->host_room_bytes = bytes;
    }
    memcpy(out, &stream->host_room, sizeof stream->host_room);
    return STM_OK;
}

stm_status stm_cuda_mark(stm_stream *stream, size_t mark)
{
    if (!stream->marks[mark])
        STM_CUDA(cudaEventCreateWithFlags(&stream->marks[mark], cudaEventDisableTiming));
    STM_CUDA(cudaEventRecord(stream->marks[mark], stream->queue));
    return STM_OK;
}

stm_status stm_cuda_wait_mark(stm_stream *stream, size_t mark)
{
    STM_CUDA(cudaEventSynchronize(stream->marks[mark]));
    return STM_OK;
}

stm_status stm_cuda_has_passed_mark(stm_stream *stream, size_t mark, bool *passed)
{
    const cudaError_t error = cudaEventQuery(stream->marks[mark]);
    *passed = error == cudaSuccess;
    return error == cudaErrorNotReady || *passed ? STM_OK : stm_cuda_failed(error, "cudaEventQuery");
}

/* Recordings */

static void forget_recording(stm_stream *stream, size_t number)
{
    if (stream->recordings[number].graph)
        (void)cudaGraphExecDestroy(stream->recordings[number].graph);
    stream->recordings[number].graph = NULL;
}

stm_status stm_cuda_begin_recording(stm_stream *stream)
{
    STM_CUDA(cudaStreamBeginCapture(stream->queue, cudaStreamCaptureModeThreadLocal));
    stream->is_recording = true;
    return STM_OK;
}

/* A recording of the same operations takes new arguments at a fraction of what a new one costs. */
static stm_status take_graph(stm_stream *stream, size_t number, cudaGraph_t graph)
{
    cudaGraphExec_t *const kept = &stream->recordings[number].graph;
    cudaGraphExecUpdateResultInfo result;
    if (*kept && cudaGraphExecUpdate(*kept, graph, &result) == cudaSuccess)
        return STM_OK;
    (void)cudaGetLastError(); /* that it could not is no failure */
    forget_recording(stream, number);
    STM_CUDA(cudaGraphInstantiate(kept, graph, 0));
    return STM_OK;
}

stm_status stm_cuda_end_recording(stm_stream *stream, size_t number)
{
    cudaGraph_t graph = NULL;
    const cudaError_t ended = cudaStreamEndCapture(stream->queue, &graph);
    stream->is_recording = false;
    stream->recordings[number].n_scratches = stream->n_scratches;
    const stm_status status =
        ended == cudaSuccess ? take_graph(stream, number, graph) : stm_cuda_failed(ended, "a recording");
    if (graph)
        (void)cudaGraphDestroy(graph);
    if (status != STM_OK)
        forget_recording(stream, number);
    return status;
}

bool stm_cuda_can_replay(const stm_stream *stream, size_t number)
{
    return stream->recordings[number].graph && stream->recordings[number].n_scratches == stream->n_scratches;
}

stm_status stm_cuda_replay(stm_stream *stream, size_t number)
{
    if (!stream->recordings[number].graph)
        return stm_fail(STM_ERR_DEVICE, "cuda: nothing is recorded that could be replayed");
    if (!stm_cuda_can_replay(stream, number))
        return stm_fail(STM_ERR_DEVICE, "cuda: the scratch has moved since the recording; expected no greater work "
                                        "between a recording and its replay");
    STM_CUDA(cudaGraphLaunch(stream->recordings[number].graph, stream->queue));
    return STM_OK;
}

void stm_cuda_close_ahead(stm_stream *stream)
{
    for (size_t i = 0; i < STM_RECORDINGS; i++)
        forget_recording(stream, i);
    for (size_t i = 0; i < STM_MARKS; i++)
        if (stream->marks[i])
            (void)cudaEventDestroy(stream->marks[i]);
    stm_cuda_free_host(stream, stream->host_room);
}

/* A row's numbers are its thread's alone: what another reads of the last round, `sampled`, is not written here. */
static __global__ void advance_kernel(stm_advance a)
{
    for (STM_EACH_ELEMENT(r, a.n_rows)) {
        const int32_t from = a.from[r];
        a.ids[r] = from < 0 ? -1 - from : a.sampled[from];
        a.from[r] = (int32_t)r;
        a.positions[r]++;
        a.lengths[r]++;
        a.uniform[r] = a.uniforms[r * a.n_ahead + (size_t)a.turns[r]++];
    }
}

stm_status stm_cuda_advance(stm_stream *stream, const stm_advance *a)
{
    return stm_launch(stream, stm_blocks_for(stream, a->n_rows), STM_BLOCK, 0, advance_kernel, *a);
}
