#include "bench/rates.h"

#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* GEMM */

/* Between matrices, which else would begin at the same place of every page and cache set: up to a tenth slower. */
enum { GEMM_N = 1024, GEMM_STRIDE = GEMM_N * GEMM_N + 1040, LEAST_TIMES = 5 };
static const double enough_s = 0.15; /* of measuring one rate */

static stm_status best_gemm_s(const stm_backend *b, stm_stream *stream, void *x, double *best_s)
{
    const stm_gemm gemm = {.activations = {.a = true, .b = true, .c = true},
                           .m = GEMM_N,
                           .n = GEMM_N,
                           .k = GEMM_N,
                           .alpha = 1,
                           .a = x,
                           .b = stm_at(b, x, GEMM_STRIDE),
                           .c = stm_at(b, x, 2 * GEMM_STRIDE),
                           .lda = GEMM_N,
                           .ldb = GEMM_N,
                           .ldc = GEMM_N};
    const double begin = stm_now_s();
    *best_s = INFINITY;
    for (int i = 0; i < LEAST_TIMES || stm_now_s() - begin < enough_s; i++) {
        const double start = stm_now_s();
        STM_TRY(b->gemm(stream, &gemm));
        STM_TRY(b->synchronize(stream));
        *best_s = fmin(*best_s, stm_now_s() - start);
    }
    return STM_OK;
}

stm_status stm_bench_gemm_rate(const stm_backend *backend, stm_stream *stream, const stm_grid *grid, double *rate)
{
    const size_t bytes = (size_t)3 * GEMM_STRIDE * backend->real_bytes;
    void *x;
    double best_s = INFINITY;
    STM_TRY(stm_agree(grid, backend->alloc(stream, bytes, &x)));
    stm_status status = backend->zero(stream, x, bytes);
    STM_MPI(MPI_Barrier(grid->world));
    if (status == STM_OK)
        status = best_gemm_s(backend, stream, x, &best_s);
    backend->free(stream, x);
    *rate = 2.0 * GEMM_N * GEMM_N * GEMM_N / best_s;
    stm_all_reduce(grid->world, rate, 1, sizeof *rate);
    return stm_agree(grid, status);
}

/* Memory */

enum { HUGE_PAGE = 2 << 20 };

/* What one rank of the grid reads: a whole number of huge pages. */
static size_t read_bytes(const stm_grid *grid)
{
    const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE); /* 0 or -1 where nobody knows */
    const size_t least = (size_t)256 << 20, most = (size_t)1 << 30, wanted = cache > 0 ? 2 * (size_t)cache : 0;
    const size_t all = STM_MIN(STM_MAX(wanted, least), most);
    return (all / (size_t)grid->n_ranks / HUGE_PAGE + 1) * HUGE_PAGE;
}

uint64_t stm_bench_read(const uint64_t *words, size_t n)
{
    uint64_t sum = 0;
#pragma omp parallel for simd schedule(static) reduction(+ : sum)
    for (size_t i = 0; i < n; i++)
        sum += words[i];
    return sum;
}

/* Each thread touches first what it will read, so that it lies near by. */
static void write_words(uint64_t *words, size_t n)
{
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++)
        words[i] = i;
}

static double best_read_s(const uint64_t *words, size_t n)
{
    volatile uint64_t sum = 0; /* so that the reads are not left out */
    const double begin = stm_now_s();
    double best_s = INFINITY;
    for (int i = 0; i < LEAST_TIMES || stm_now_s() - begin < enough_s; i++) {
        const double start = stm_now_s();
        sum = sum + stm_bench_read(words, n);
        best_s = fmin(best_s, stm_now_s() - start);
    }
    return best_s;
}

stm_status stm_bench_read_rate(const stm_grid *grid, double *rate)
{
    const size_t bytes = read_bytes(grid), n = bytes / sizeof(uint64_t);
    uint64_t *words = aligned_alloc(HUGE_PAGE, bytes);
    STM_TRY(stm_agree(grid, words ? STM_OK : stm_fail(STM_ERR_MEMORY, "out of memory: asked for %zu bytes", bytes)));
    (void)madvise(words, bytes, MADV_HUGEPAGE); /* only faster: where it is refused, small pages serve */
    write_words(words, n);
    STM_MPI(MPI_Barrier(grid->world));
    *rate = (double)bytes / best_read_s(words, n);
    free(words);
    stm_all_reduce(grid->world, rate, 1, sizeof *rate);
    return STM_OK;
}
