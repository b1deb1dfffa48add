/* The CPU's stream and memory. */
#include "backend/cpu.h"

#include <cblas.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/blas_kernels.h"

enum { ALIGNMENT = 64, HUGE_PAGE = 2 << 20 };

static size_t round_up(size_t n, size_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

stm_status stm_cpu_choose_device(int node_rank)
{
    (void)node_rank;
    return STM_OK;
}

void stm_cpu_describe(const stm_stream *stream, stm_device *out)
{
    (void)stream;
    *out = (stm_device){.bytes = 0};
}

stm_status stm_cpu_open(int n_threads, stm_stream **out)
{
    STM_TRY(stm_alloc(1, sizeof **out, out));
    (*out)->n_threads = n_threads > 0 ? n_threads : omp_get_max_threads();
    stm_blas_choose_kernels();
    openblas_set_num_threads(
        1); /* products are split here, so that the order of sums is ours and calls inside parallel regions work */
    return STM_OK;
}

void stm_cpu_close(stm_stream *stream)
{
    if (!stream)
        return;
    free(stream->scratch);
    free(stream);
}

stm_status stm_cpu_alloc(stm_stream *stream, size_t bytes, void *out)
{
    (void)stream;
    const size_t alignment = bytes >= 2 * (size_t)HUGE_PAGE ? HUGE_PAGE : ALIGNMENT;
    if (bytes > SIZE_MAX - alignment)
        return stm_fail(STM_ERR_MEMORY, "out of memory: asked for %zu bytes", bytes);
    const size_t rounded = round_up(STM_MAX(bytes, 1), alignment);
    void *memory = aligned_alloc(alignment, rounded);
    if (!memory)
        return stm_fail(STM_ERR_MEMORY, "out of memory: asked for %zu bytes", bytes);
    if (alignment == HUGE_PAGE)
        (void)madvise(memory, rounded, MADV_HUGEPAGE); /* only faster: where it is refused, small pages serve */
    memcpy(out, &memory, sizeof memory);
    return STM_OK;
}

void stm_cpu_free(stm_stream *stream, void *memory)
{
    (void)stream;
    free(memory);
}

/* Whole pages may be used; the others are a fault, so that a stray access is found. Pages take memory when they are
 * first written. */
static bool open_range(char *array, size_t bytes, const stm_byte_range *range)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t first = range->first / page * page, end = STM_MIN(bytes, range->first + range->n);
    if (range->n == 0)
        return true;
    if (mprotect(array + first, end - first, PROT_READ | PROT_WRITE) != 0)
        return false;
    (void)madvise(array + first, end - first, MADV_HUGEPAGE); /* only faster, as above */
    return true;
}

stm_status stm_cpu_reserve(stm_stream *stream, size_t bytes, const stm_byte_range *ranges, size_t n_ranges, void *out)
{
    char *array = mmap(NULL, STM_MAX(bytes, 1), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (array == MAP_FAILED)
        return stm_fail(STM_ERR_MEMORY, "out of memory: asked for addresses of %zu bytes", bytes);
    for (size_t i = 0; i < n_ranges; i++)
        if (!open_range(array, bytes, &ranges[i])) {
            stm_cpu_unreserve(stream, array, bytes);
            return stm_fail(STM_ERR_MEMORY, "out of memory: asked for %zu bytes", ranges[i].n);
        }
    memcpy(out, &array, sizeof array);
    return STM_OK;
}

void stm_cpu_unreserve(stm_stream *stream, void *array, size_t bytes)
{
    (void)stream;
    (void)munmap(array, STM_MAX(bytes, 1));
}

stm_status stm_cpu_scratch(stm_stream *stream, size_t shared, size_t each)
{
    stream->shared_bytes = round_up(shared, ALIGNMENT);
    stream->thread_bytes = round_up(each, ALIGNMENT);
    const size_t bytes = stream->shared_bytes + stream->thread_bytes * (size_t)stream->n_threads;
    if (bytes <= stream->scratch_bytes)
        return STM_OK;
    free(stream->scratch);
    stream->scratch = NULL;
    stream->scratch_bytes = 0;
    STM_TRY(stm_cpu_alloc(stream, bytes, &stream->scratch));
    stream->scratch_bytes = bytes;
    return STM_OK;
}

/* A NULL of zero bytes is fine, as memcpy's is not. */
static stm_status move(void *to, const void *from, size_t bytes)
{
    if (bytes)
        memcpy(to, from, bytes);
    return STM_OK;
}

stm_status stm_cpu_write(stm_stream *stream, void *device, const void *host, size_t bytes)
{
    (void)stream;
    return move(device, host, bytes);
}

stm_status stm_cpu_read(stm_stream *stream, void *host, const void *device, size_t bytes)
{
    (void)stream;
    return move(host, device, bytes);
}

stm_status stm_cpu_copy(stm_stream *stream, void *to, const void *from, size_t bytes)
{
    (void)stream;
    return move(to, from, bytes);
}

stm_status stm_cpu_zero(stm_stream *stream, void *device, size_t bytes)
{
    (void)stream;
    if (bytes)
        memset(device, 0, bytes);
    return STM_OK;
}

stm_status stm_cpu_synchronize(stm_stream *stream)
{
    (void)stream;
    return STM_OK;
}

stm_status stm_cpu_round_nothing(stm_stream *stream, const void *weights, size_t n)
{
    (void)stream;
    (void)weights;
    (void)n;
    return STM_OK;
}
