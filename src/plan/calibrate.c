#include "plan/calibrate.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/limit.h"
#include "bench/machine.h"
#include "bench/rates.h"

/* Of products [rows, WIDTH] x [WIDTH, WIDTH]; of attention: rows that attend to KEYS and to one another. */
enum { WIDTH = 1024, MOST_ROWS = 1024, HEADS = 8, KV_HEADS = 4, HEAD_DIM = 64, ROWS = 512, KEYS = 1024, INNER = 1408 };
enum { N_BATCHES = 5, N_SIZES = 6, LEAST_ROWS_BACKWARD = 64 };
static const double sizes[N_SIZES] = {1, 4, 16, 64, 256, 1024};
static const double batch_s = 0.01; /* longer than ranks that share a core leave it to each other */

typedef struct {
    const stm_grid *grid;
    const stm_backend *backend;
    stm_stream *stream;
    char *memory;
    size_t used;
} bed;

/* Timing */

typedef stm_status (*operation)(bed *b, const void *what);

static int compare_doubles(const void *left, const void *right)
{
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

/* Mean seconds of a run, of as many as fill a batch. */
static stm_status time_batch(bed *b, operation run, const void *what, double *seconds)
{
    const double start = stm_now_s();
    double now = start;
    size_t n = 0;
    for (; n == 0 || now - start < batch_s; n++) {
        STM_TRY(run(b, what));
        STM_TRY(b->backend->synchronize(b->stream));
        now = stm_now_s();
    }
    *seconds = (now - start) / (double)n;
    return STM_OK;
}

/* Median of batches, after a run that is not counted. */
static stm_status time_operation(bed *b, operation run, const void *what, double *seconds)
{
    double times[N_BATCHES];
    STM_TRY(run(b, what));
    STM_TRY(b->backend->synchronize(b->stream));
    STM_MPI(MPI_Barrier(b->grid->world));
    for (size_t i = 0; i < N_BATCHES; i++)
        STM_TRY(time_batch(b, run, what, &times[i]));
    qsort(times, N_BATCHES, sizeof *times, compare_doubles);
    *seconds = times[N_BATCHES / 2];
    return STM_OK;
}

/* Work a second of all ranks of a node, of which each has done `work` in `seconds`. */
static double node_rate(const bed *b, double work, double seconds)
{
    double rate = work / seconds, nodes = 1.0 / b->grid->node_size;
    stm_all_reduce(b->grid->world, &rate, 1, sizeof rate);
    stm_all_reduce(b->grid->world, &nodes, 1, sizeof nodes);
    return rate / fmax(1, round(nodes));
}

/* Room for the numbers of one operation, where others' were. */
static void *take(bed *b, size_t n)
{
    void *x = b->memory + b->used;
    b->used += (n * b->backend->real_bytes + 4160) / 64 * 64; /* not at the same place of every page */
    return x;
}

/* Products */

static stm_status run_gemm(bed *b, const void *what)
{
    return b->backend->gemm(b->stream, what);
}

/* Forward, and where rows are many the two of backward. */
static stm_status measure_gemm(bed *b, size_t rows, double *flops_per_s)
{
    b->used = 0;
    void *x = take(b, MOST_ROWS * WIDTH), *w = take(b, WIDTH * WIDTH), *y = take(b, MOST_ROWS * WIDTH);
    void *dw = take(b, WIDTH * WIDTH);
    const stm_gemm gemms[3] = {
        {.transpose_b = true, .m = rows, .n = WIDTH, .k = WIDTH, .alpha = 1, .a = x, .b = w, .c = y},
        {.m = rows, .n = WIDTH, .k = WIDTH, .alpha = 1, .a = y, .b = w, .c = x},
        {.transpose_a = true, .m = WIDTH, .n = WIDTH, .k = rows, .alpha = 1, .beta = 1, .a = y, .b = x, .c = dw}};
    const bool weight_gradient[3] = {false, false, true};
    const size_t n = rows >= LEAST_ROWS_BACKWARD ? 3 : 1;
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        stm_gemm gemm = gemms[i];
        double seconds;
        gemm.lda = gemm.ldb = gemm.ldc = WIDTH;
        gemm.activations.a = true;
        *(weight_gradient[i] ? &gemm.activations.b : &gemm.activations.c) = true;
        STM_TRY(b->backend->zero(b->stream, x, MOST_ROWS * WIDTH * b->backend->real_bytes));
        STM_TRY(b->backend->zero(b->stream, y, MOST_ROWS * WIDTH * b->backend->real_bytes));
        STM_TRY(time_operation(b, run_gemm, &gemm, &seconds));
        sum += seconds;
    }
    *flops_per_s = node_rate(b, 2.0 * (double)n * (double)rows * WIDTH * WIDTH, sum);
    return STM_OK;
}

/* Attention */

static stm_status run_attend(bed *b, const void *what)
{
    return b->backend->attend(b->stream, what);
}

static stm_status run_attend_backward(bed *b, const void *what)
{
    return b->backend->attend_backward(b->stream, what);
}

static stm_status measure_attention(bed *b, double *rates)
{
    const size_t n_q = ROWS * HEADS * HEAD_DIM, n_kv = (KEYS + ROWS) * KV_HEADS * HEAD_DIM;
    b->used = 0;
    void *q = take(b, n_q), *k = take(b, n_kv), *v = take(b, n_kv), *dk = take(b, n_kv), *dv = take(b, n_kv);
    void *own = stm_activation_at(b->backend, k, KEYS * HEAD_DIM),
         *own_v = stm_activation_at(b->backend, v, KEYS * HEAD_DIM);
    void *own_dk = stm_at(b->backend, dk, KEYS * HEAD_DIM), *own_dv = stm_at(b->backend, dv, KEYS * HEAD_DIM);
    const size_t stride = KEYS + ROWS;
    const stm_attend_part parts[2] = {
        {.n_rows = ROWS, .n_keys = KEYS, .kv_stride = stride, .dkv_stride = stride, .k = k, .v = v, .dk = dk, .dv = dv},
        {.n_rows = ROWS,
         .n_keys = ROWS,
         .kv_stride = stride,
         .dkv_stride = stride,
         .k = own,
         .v = own_v,
         .dk = own_dk,
         .dv = own_dv,
         .causal = true}};
    const stm_attend attend = {.n_rows = ROWS,
                               .n_heads = HEADS,
                               .n_kv_heads = KV_HEADS,
                               .head_dim = HEAD_DIM,
                               .scale = 0.125,
                               .q = q,
                               .n_parts = 2,
                               .parts = parts,
                               .o = take(b, n_q),
                               .lse = take(b, ROWS * HEADS),
                               .d_o = take(b, n_q),
                               .dq = take(b, n_q)};
    const double flops = 4.0 * HEADS * HEAD_DIM * ROWS * (KEYS + (ROWS + 1) / 2.0);
    double seconds;
    STM_TRY(time_operation(b, run_attend, &attend, &seconds));
    rates[0] = node_rate(b, flops, seconds);
    STM_TRY(time_operation(b, run_attend_backward, &attend, &seconds));
    rates[1] = node_rate(b, 2 * flops, seconds);
    return STM_OK;
}

/* Norms and activations */

typedef struct {
    stm_rmsnorm norm;
    stm_swiglu swiglu;
} elementwise;

static stm_status run_elementwise(bed *b, const void *what)
{
    const elementwise *e = what;
    STM_TRY(b->backend->rmsnorm(b->stream, &e->norm));
    return b->backend->swiglu(b->stream, &e->swiglu);
}

static stm_status run_small(bed *b, const void *what)
{
    return b->backend->rmsnorm(b->stream, what);
}

static stm_status measure_elementwise(bed *b, double *bytes_per_s, double *operation_s)
{
    b->used = 0;
    const elementwise e = {.norm = {.n_rows = ROWS,
                                    .width = HEADS * HEAD_DIM,
                                    .eps = 1e-5,
                                    .x = take(b, ROWS * HEADS * HEAD_DIM),
                                    .w = take(b, HEADS * HEAD_DIM),
                                    .y = take(b, ROWS * HEADS * HEAD_DIM),
                                    .inverse_rms = take(b, ROWS)},
                           .swiglu = {.n_rows = ROWS,
                                      .width = INNER,
                                      .gu = take(b, 2 * (size_t)ROWS * INNER),
                                      .h = take(b, (size_t)ROWS * INNER)}};
    stm_rmsnorm small = e.norm;
    double seconds;
    small.n_rows = 1;
    small.width = HEAD_DIM;
    STM_TRY(time_operation(b, run_elementwise, &e, &seconds));
    const double real = (double)b->backend->real_bytes, activation = (double)b->backend->activation_bytes;
    *bytes_per_s = node_rate(b, ROWS * ((real + activation) * HEADS * HEAD_DIM + 3 * activation * INNER), seconds);
    STM_TRY(time_operation(b, run_small, &small, &seconds));
    stm_all_reduce_max(b->grid->world, &seconds, 1);
    *operation_s = seconds;
    return STM_OK;
}

/* Of a precision */

static stm_status take_list(stm_numbers *list, size_t n)
{
    list->n = n;
    return stm_alloc(n, sizeof *list->items, &list->items);
}

typedef struct {
    stm_machine_rates *rates;
    double *operation_s;
} of_precision;

static stm_status measure_in(bed *b, void *context)
{
    const of_precision *of = context;
    stm_machine_rates *rates = of->rates;
    STM_TRY(take_list(&rates->gemm, N_SIZES));
    STM_TRY(take_list(&rates->attention, 2));
    for (size_t i = 0; i < N_SIZES; i++)
        STM_TRY(measure_gemm(b, (size_t)sizes[i], &rates->gemm.items[i]));
    STM_TRY(measure_attention(b, rates->attention.items));
    return measure_elementwise(b, &rates->elementwise, of->operation_s);
}

/* Takes a device and memory, and measures with it. Collective; same status everywhere. */
static stm_status with_bed(const stm_grid *grid, const stm_backend *backend,
                           stm_status (*measure)(bed *b, void *context), void *context)
{
    const size_t bytes = (size_t)6 * MOST_ROWS * WIDTH * backend->real_bytes;
    bed b = {.grid = grid, .backend = backend};
    void *memory = NULL;
    stm_status status = backend->open(0, &b.stream);
    if (status == STM_OK)
        status = backend->alloc(b.stream, bytes, &memory);
    if (status == STM_OK)
        status = backend->zero(b.stream, memory, bytes);
    status = stm_agree(grid, status);
    b.memory = memory;
    if (status == STM_OK)
        status = stm_agree(grid, measure(&b, context));
    if (memory)
        backend->free(b.stream, memory);
    if (b.stream)
        backend->close(b.stream);
    return status;
}

static stm_status measure_precision(const stm_grid *grid, const stm_backend *backend, stm_machine_rates *rates,
                                    double *operation_s)
{
    return with_bed(grid, backend, measure_in, &(of_precision){rates, operation_s});
}

/* Whether all ranks have it; each then has its device. */
static bool find_backend(const stm_grid *grid, stm_precision precision, const stm_backend **backend)
{
    double has =
        stm_backend_find("auto", precision, backend) == STM_OK && (*backend)->choose_device(grid->node_rank) == STM_OK;
    stm_all_reduce_min(grid->world, &has, 1);
    return has > 0;
}

/* Messages */

/* Seconds of a message of n bytes, half of there and back; the same on every rank. */
static double message_s(MPI_Comm comm, int rank, int first, int second, char *bytes, int n, int times)
{
    double seconds = 0;
    const int peer = rank == first ? second : first;
    STM_MPI(MPI_Barrier(comm));
    if (rank == first || rank == second) {
        const double start = stm_now_s();
        for (int i = 0; i < times; i++) {
            if (rank == first)
                STM_MPI(MPI_Send(bytes, n, MPI_BYTE, peer, 0, comm));
            STM_MPI(MPI_Recv(bytes, n, MPI_BYTE, peer, 0, comm, MPI_STATUS_IGNORE));
            if (rank == second)
                STM_MPI(MPI_Send(bytes, n, MPI_BYTE, peer, 0, comm));
        }
        seconds = (stm_now_s() - start) / (2.0 * times);
    }
    stm_all_reduce_max(comm, &seconds, 1);
    return seconds;
}

static stm_status measure_link(const stm_grid *grid, int first, int second, double *latency_s, double *bandwidth)
{
    enum { SMALL = 8, LARGE = 4 << 20, SMALL_TIMES = 500, LARGE_TIMES = 10 };
    char *bytes;
    STM_TRY(stm_agree(grid, stm_alloc(LARGE, 1, &bytes)));
    (void)message_s(grid->world, grid->rank, first, second, bytes, LARGE, 2);
    *latency_s = message_s(grid->world, grid->rank, first, second, bytes, SMALL, SMALL_TIMES);
    *bandwidth = LARGE / message_s(grid->world, grid->rank, first, second, bytes, LARGE, LARGE_TIMES);
    free(bytes);
    return STM_OK;
}

/* The first rank that is not on the node of rank 0, or the second that is; 0: there is none. */
static int find_peer(const stm_grid *grid, bool same_node)
{
    MPI_Comm node;
    int leader = grid->rank, peer = grid->n_ranks;
    STM_MPI(MPI_Comm_split_type(grid->world, MPI_COMM_TYPE_SHARED, grid->rank, MPI_INFO_NULL, &node));
    STM_MPI(MPI_Bcast(&leader, 1, MPI_INT, 0, node));
    STM_MPI(MPI_Comm_free(&node));
    if (grid->rank > 0 && (leader == 0) == same_node)
        peer = grid->rank;
    double least = peer;
    stm_all_reduce_min(grid->world, &least, 1);
    return least < grid->n_ranks ? (int)least : 0;
}

/* *missing: which links were not measured, in words. */
static stm_status measure_links(const stm_grid *grid, stm_machine *m, const char **missing)
{
    const int neighbour = find_peer(grid, true), other = find_peer(grid, false);
    m->inside.latency_s = 1e-6;
    m->inside.bandwidth = m->memory_bandwidth / 4; /* read and written on both sides */
    *missing = neighbour > 0 ? other > 0 ? "" : "; no second node: between is as inside"
                             : "; no second rank: links are guesses";
    if (neighbour > 0)
        STM_TRY(measure_link(grid, 0, neighbour, &m->inside.latency_s, &m->inside.bandwidth));
    m->between.latency_s = m->inside.latency_s;
    m->between.bandwidth = m->inside.bandwidth;
    return other > 0 ? measure_link(grid, 0, other, &m->between.latency_s, &m->between.bandwidth) : STM_OK;
}

/* All of it */

static stm_status describe(const stm_grid *grid, stm_machine *m, const char *missing)
{
    stm_bench_machine machine;
    stm_bench_machine_describe(grid, &stm_backend_cpu_f32, omp_get_max_threads(), &machine);
    STM_TRY(stm_format(&m->name, "%d cores of %s", (int)m->cores, machine.processor));
    return stm_format(&m->source, "stemma calibrate, %s, %d ranks of %d threads%s", machine.date, machine.n_ranks,
                      machine.n_threads, missing);
}

static stm_status measure(const stm_grid *grid, stm_machine *m)
{
    const char *missing;
    double threads = omp_get_max_threads(), nodes = 1.0 / grid->node_size, read_rate;
    STM_TRY(stm_agree(grid, take_list(&m->rows, N_SIZES)));
    memcpy(m->rows.items, sizes, sizeof sizes);
    for (size_t p = 0; p < STM_N_PRECISIONS; p++) {
        const stm_backend *backend;
        if (find_backend(grid, (stm_precision)p, &backend))
            STM_TRY(measure_precision(grid, backend, &m->rates[p], &m->operation_s));
    }
    STM_TRY(stm_bench_read_rate(grid, &read_rate));
    stm_all_reduce(grid->world, &threads, 1, sizeof threads);
    stm_all_reduce(grid->world, &nodes, 1, sizeof nodes);
    nodes = fmax(1, round(nodes));
    m->cores = (int64_t)(threads / nodes);
    m->ranks = grid->node_size;
    m->memory_bytes = (int64_t)stm_memory_bytes();
    m->memory_bandwidth = read_rate / nodes;
    STM_TRY(measure_links(grid, m, &missing));
    return stm_agree(grid, describe(grid, m, missing));
}

stm_status stm_calibrate(MPI_Comm comm, stm_machine *out)
{
    stm_grid grid;
    *out = (stm_machine){0};
    STM_TRY(stm_grid_create(comm, &(stm_axes){1, STM_AUTO, STM_AUTO}, 1, &grid));
    const stm_status status = measure(&grid, out);
    stm_grid_destroy(&grid);
    return status;
}

/* Rates of a rank */

static stm_status measure_compute(bed *b, void *context)
{
    enum { TALL = 256 };
    stm_rates *out = context;
    double attention[2];
    STM_TRY(measure_gemm(b, TALL, &out->dense));
    STM_TRY(measure_attention(b, attention));
    out->dense /= b->grid->node_size;
    out->attention = 3 / (1 / attention[0] + 2 / attention[1]) / b->grid->node_size;
    stm_all_reduce_min(b->grid->world, &out->dense, 1); /* nodes may have different numbers of ranks */
    stm_all_reduce_min(b->grid->world, &out->attention, 1);
    return STM_OK;
}

stm_status stm_calibrate_rates(const stm_grid *grid, const stm_backend *backend, bool between, stm_rates *out)
{
    enum { LINK_TRIES = 3 };
    *out = (stm_rates){0};
    STM_TRY(with_bed(grid, backend, measure_compute, out));
    const int peer = find_peer(grid, !between);
    for (int i = 0; peer > 0 && i < LINK_TRIES; i++) { /* the best: whatever else the nodes do only slows messages */
        double latency_s, bandwidth;
        STM_TRY(measure_link(grid, 0, peer, &latency_s, &bandwidth));
        out->latency_s = i == 0 ? latency_s : fmin(out->latency_s, latency_s);
        out->bandwidth = fmax(out->bandwidth, bandwidth);
    }
    return STM_OK;
}
