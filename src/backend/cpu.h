/* src/backend/cpu.h: what the CPU's operations share whatever the precision.
 *
 * The operations live in cpu_<topic>.inc, written once in terms of `real` (cpu_real.inc), and are compiled by
 * cpu_f32.c, cpu_f64.c and cpu_bf16.c. A loop over threads or tasks is an OpenMP loop whose split depends on the shapes
 * and n_threads alone, so equal calls give equal bits. */
#ifndef STM_BACKEND_CPU_H
#define STM_BACKEND_CPU_H

#include "backend/backend.h"

/* Work is done when the call returns: the stream only holds the scratch, which grows on demand and is used again by
 * every call. */
struct stm_stream {
    int n_threads;
    char *scratch;
    size_t scratch_bytes;
    size_t shared_bytes, thread_bytes; /* of the call that runs */
    struct stm_cpu_bf16 *bf16;         /* oneDNN's objects and rounded weights: cpu_gemm_bf16.inc; else NULL */
};

/* Room for one call: `shared` bytes for all and `each` bytes for each thread, aligned to 64, contents undefined, valid
 * until the next call of this on the stream. Call it before the parallel region. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_cpu_scratch(stm_stream *stream, size_t shared, size_t each);

static inline void *stm_cpu_shared(const stm_stream *stream)
{
    return stream->scratch;
}

/* thread: 0 .. n_threads-1. */
static inline void *stm_cpu_own(const stm_stream *stream, size_t thread)
{
    return stream->scratch + stream->shared_bytes + thread * stream->thread_bytes;
}

/* The part of 0 .. n that falls to one of `n_parts`, in multiples of `grain`. */
static inline void stm_cpu_split(size_t n, size_t grain, size_t part, size_t n_parts, size_t *begin, size_t *end)
{
    const size_t grains = (n + grain - 1) / grain;
    *begin = STM_MIN(n, grains * part / n_parts * grain);
    *end = STM_MIN(n, grains * (part + 1) / n_parts * grain);
}

/* The rows of the table that do not depend on the precision: cpu_stream.c. */
stm_status stm_cpu_choose_device(int node_rank);
void stm_cpu_describe(const stm_stream *stream, stm_device *out);
stm_status stm_cpu_open(int n_threads, stm_stream **out);
void stm_cpu_close(stm_stream *stream);
stm_status stm_cpu_alloc(stm_stream *stream, size_t bytes, void *out);
void stm_cpu_free(stm_stream *stream, void *memory);
stm_status stm_cpu_reserve(stm_stream *stream, size_t bytes, const stm_byte_range *ranges, size_t n_ranges, void *out);
void stm_cpu_unreserve(stm_stream *stream, void *array, size_t bytes);
stm_status stm_cpu_write(stm_stream *stream, void *device, const void *host, size_t bytes);
stm_status stm_cpu_read(stm_stream *stream, void *host, const void *device, size_t bytes);
stm_status stm_cpu_copy(stm_stream *stream, void *to, const void *from, size_t bytes);
stm_status stm_cpu_zero(stm_stream *stream, void *device, size_t bytes);
stm_status stm_cpu_synchronize(stm_stream *stream);
stm_status stm_cpu_round_nothing(stm_stream *stream, const void *weights,
                                 size_t n); /* round_weights, where reals serve */

/* The bfloat16 table, where oneDNN was there to build with and the processor has AVX512-BF16. Fails: STM_ERR_INPUT,
 * with what was found and what is needed. */
stm_status stm_cpu_bf16_find(const stm_backend **out);

#endif
