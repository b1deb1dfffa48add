/* tests/emulated/runtime.cpp: the runtime's calls: memory, streams whose work waits until the host does, events,
 * graphs.
 */
#include <cuda_runtime.h>

#include "checks.h"
#include "memory.h"

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <sched.h>
#include <vector>

using emulated::kind;
using emulated::memory_kind;

struct work_item {
    kind what;
    std::function<void()> run;
    std::function<bool()> attempt; /* in place of run, again and again until it is true */
};

typedef std::vector<work_item> work_list;

struct emulated_stream {
    std::deque<work_item> waiting;
    unsigned long n_done;
    bool is_captured, is_spoilt; /* spoilt: the capture has met what it must not */
    work_list captured;
};

/* What the stream had queued when it was recorded; NULL: it never was. */
struct emulated_event {
    cudaStream_t stream;
    unsigned long n;
};

struct emulated_graph {
    work_list nodes;
};

/* Replays that are queued keep the work that they were made of, whatever it is brought up to later. */
struct emulated_recording {
    std::shared_ptr<const work_list> nodes;
};

static std::vector<cudaStream_t> streams;

/* Said at the end of the process. idle waits: those of the host after which the device had nothing left to do;
 * pageable: bytes copied from and to memory of the host that the device does not get at by itself. */
static struct counts {
    unsigned long launches, replays, instantiations, updates, idle_waits, pageable;

    ~counts()
    {
        const char *path = std::getenv("STEMMA_EMULATED_COUNTS");
        FILE *file = path && *path ? std::fopen(path, "a") : nullptr;
        if (!file)
            return;
        std::fprintf(file, "launches %lu replays %lu instantiations %lu updates %lu idle_waits %lu pageable %lu\n",
                     launches, replays, instantiations, updates, idle_waits, pageable);
        std::fclose(file);
    }
} counted;

/* Streams */

/* once: what must be attempted again is left for the next time. */
static void work_until(cudaStream_t stream, unsigned long n, bool once = false)
{
    const bool has_waited = stream->n_done < n;
    if (!has_waited)
        return;
    const emulated::at_work at_work;
    while (stream->n_done < n) {
        while (stream->waiting.front().attempt && !stream->waiting.front().attempt()) {
            if (once)
                return;
            sched_yield();
        }
        const work_item item = std::move(stream->waiting.front());
        stream->waiting.pop_front();
        if (item.run)
            item.run();
        stream->n_done++;
    }
    counted.idle_waits += has_waited && stream->waiting.empty();
}

static unsigned long queued_on(cudaStream_t stream)
{
    return stream->n_done + stream->waiting.size();
}

/* What may not happen while any stream is captured. */
static cudaError_t spoil_captures()
{
    cudaError_t status = cudaSuccess;
    for (cudaStream_t stream : streams)
        if (stream->is_captured) {
            stream->is_spoilt = true;
            status = cudaErrorStreamCaptureUnsupported;
        }
    return status;
}

static cudaError_t work_off_all()
{
    const cudaError_t status = spoil_captures();
    for (cudaStream_t stream : streams)
        if (status == cudaSuccess)
            work_until(stream, queued_on(stream));
    return status;
}

cudaError_t emulated::queue(cudaStream_t stream, kind what, std::function<void()> work)
{
    if (stream->is_spoilt)
        return cudaErrorStreamCaptureInvalidated;
    if (stream->is_captured) {
        stream->captured.push_back({what, std::move(work), nullptr});
        return cudaSuccess;
    }
    counted.launches++;
    stream->waiting.push_back({what, std::move(work), nullptr});
    return cudaSuccess;
}

cudaError_t emulated::queue_until(cudaStream_t stream, std::function<bool()> attempt)
{
    if (const cudaError_t status = spoil_captures(); status != cudaSuccess)
        return status;
    counted.launches++;
    stream->waiting.push_back({kind::kernel, nullptr, std::move(attempt)});
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    *stream = new emulated_stream();
    streams.push_back(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int)
{
    return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = *greatest = 0;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    work_until(stream, queued_on(stream));
    std::erase(streams, stream);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    if (const cudaError_t status = spoil_captures(); status != cudaSuccess)
        return status;
    work_until(stream, queued_on(stream));
    return cudaSuccess;
}

/* Events */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    *event = new emulated_event();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    if (const cudaError_t status = spoil_captures(); status != cudaSuccess)
        return status; /* CUDA would put it into the graph, which nobody here wants */
    *event = {stream, queued_on(stream)};
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    if (const cudaError_t status = spoil_captures(); status != cudaSuccess)
        return status;
    if (event->stream)
        work_until(event->stream, event->n);
    return cudaSuccess;
}

/* One piece of work may be done between two questions. */
cudaError_t cudaEventQuery(cudaEvent_t event)
{
    if (event->stream && event->stream->n_done < event->n)
        work_until(event->stream, event->stream->n_done + 1, true);
    return event->stream && event->stream->n_done < event->n ? cudaErrorNotReady : cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    if (event->stream)
        stream->waiting.push_back(
            {kind::kernel, [from = event->stream, n = event->n] { work_until(from, n); }, nullptr});
    return cudaSuccess;
}

/* Graphs */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode)
{
    if (stream->is_captured)
        return cudaErrorStreamCaptureUnsupported;
    stream->is_captured = true;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    const cudaError_t status = stream->is_spoilt ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
    *graph = status == cudaSuccess ? new emulated_graph{std::move(stream->captured)} : nullptr;
    stream->captured.clear();
    stream->is_captured = stream->is_spoilt = false;
    return status;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *recording, cudaGraph_t graph, unsigned long long)
{
    counted.instantiations++;
    *recording = new emulated_recording{std::make_shared<const work_list>(graph->nodes)};
    return cudaSuccess;
}

cudaError_t cudaGraphExecUpdate(cudaGraphExec_t recording, cudaGraph_t graph, cudaGraphExecUpdateResultInfo *)
{
    const work_list &before = *recording->nodes, &after = graph->nodes;
    bool fits = before.size() == after.size();
    for (size_t i = 0; fits && i < after.size(); i++)
        fits = before[i].what == after[i].what;
    if (!fits)
        return cudaErrorGraphExecUpdateFailure;
    counted.updates++;
    recording->nodes = std::make_shared<const work_list>(after);
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t recording)
{
    delete recording;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t recording, cudaStream_t stream)
{
    if (stream->is_captured)
        return spoil_captures();
    counted.replays++;
    stream->waiting.push_back({kind::kernel,
                               [nodes = recording->nodes] {
                                   for (const work_item &node : *nodes)
                                       node.run();
                               },
                               nullptr});
    return cudaSuccess;
}

/* Memory */

static cudaError_t take(void **out, size_t bytes, memory_kind kind)
{
    if (const cudaError_t status = spoil_captures(); status != cudaSuccess)
        return status;
    *out = emulated::take(bytes, kind);
    return *out ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    return take(out, bytes, memory_kind::device);
}

cudaError_t cudaMallocHost(void **out, size_t bytes)
{
    return take(out, bytes, memory_kind::pinned);
}

/* Waits for the device, as CUDA's does. */
cudaError_t cudaFree(void *what)
{
    if (!what)
        return cudaSuccess;
    if (const cudaError_t status = work_off_all(); status != cudaSuccess)
        return status;
    emulated::give_back(what);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *what)
{
    return cudaFree(what);
}

static void copy(void *to, const void *from, size_t bytes)
{
    emulated::note_copy(to, from, bytes);
    std::memcpy(to, from, bytes);
}

/* Of pageable memory of the host, what is read is read now, and what is written is there at the return; in a graph when
 * that runs. */
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t stream)
{
    for (const void *side : {from, (const void *)to})
        counted.pageable += emulated::kind_of(side) == memory_kind::pageable ? bytes : 0;
    if (!stream->is_captured && emulated::kind_of(from) == memory_kind::pageable) {
        const auto now = std::make_shared<std::vector<char>>((const char *)from, (const char *)from + bytes);
        return emulated::queue(stream, kind::copy, [=] { copy(to, now->data(), bytes); });
    }
    const cudaError_t status = emulated::queue(stream, kind::copy, [=] { copy(to, from, bytes); });
    if (status == cudaSuccess && !stream->is_captured && emulated::kind_of(to) == memory_kind::pageable)
        work_until(stream, queued_on(stream));
    return status;
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    return emulated::queue(stream, kind::set, [=] {
        emulated::note_set(to, bytes);
        std::memset(to, value, bytes);
    });
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    *total_bytes = emulated::device_bytes();
    *free_bytes = *total_bytes - emulated::device_bytes_taken();
    return cudaSuccess;
}

/* Devices and errors */

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorStreamCaptureUnsupported:
        return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
        return "operation failed due to a previous error during capture";
    case cudaErrorGraphExecUpdateFailure:
        return "the graph update was not performed";
    default:
        return "no device";
    }
}

cudaError_t cudaGetLastError()
{
    return cudaSuccess;
}

static int chosen; /* device */

cudaError_t cudaGetDeviceCount(int *n)
{
    const char *said = std::getenv("STEMMA_EMULATED_DEVICES");
    *n = said && *said ? std::atoi(said) : 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    chosen = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = chosen;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int bytes, int device)
{
    std::snprintf(id, (size_t)bytes, "0000:%02x:00.0", (unsigned)device);
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int)
{
    *properties = cudaDeviceProp{"emulated on the host", emulated::device_bytes(), 9, 0, 4};
    return cudaSuccess;
}
