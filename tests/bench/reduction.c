/* What the sum of a gradient over the ranks, and the gathering of parameters, cost beside computation:
 *
 *   mpirun -n 2 bench_reduction [MiB of float32] [ms of computation] [ms between calls of drive] [repeats]
 *
 * A rank computes (a loop of additions in registers, the same work each time) while its vector becomes final piece by
 * piece, from the end to the front; for the gathering from the front to the end. Printed: medians of the time over that
 * of the computation alone, what of it was spent in finish, and the buckets that were through when the computation
 * ended. */
#include <stdio.h>
#include <stdlib.h>

#include "mpi/gathering.h"
#include "mpi/reduction.h"
#include "mpi/relay.h"

enum { BUCKET = 1 << 20, MOST_REPEATS = 99, PIECES = 64 };

typedef enum { BLOCKING, UNDRIVEN, DRIVEN, N_WAYS } way;
static const char *const ways[] = {"after it, collective", "meanwhile, not driven", "meanwhile, driven"};

typedef struct {
    stm_shards shards;
    stm_reduction *reduction;
    stm_gathering *gathering;
    float *reals;
    int rank;
    double slice_s;  /* computation between two calls of drive */
    size_t n_slices; /* of a piece */
    double rounds_per_s;
} bench;

static void check(stm_status status)
{
    if (status != STM_OK)
        stm_mpi_abort(MPI_ERR_NO_MEM, stm_failure(), __FILE__, __LINE__);
}

static size_t argument(int argc, char **argv, int i, size_t otherwise)
{
    return argc > i ? (size_t)atol(argv[i]) : otherwise;
}

static volatile double sink;

static void compute(double rounds)
{
    double x[8] = {0};
    for (size_t i = 0; i < (size_t)rounds; i++)
        for (size_t j = 0; j < 8; j++)
            x[j] = x[j] * 0.999 + 1;
    sink = x[0] + x[7];
}

static double measure_rounds_per_s(void)
{
    double best_s = 1;
    for (int i = 0; i < 5; i++) {
        const double start = stm_now_s();
        compute(1e6);
        best_s = STM_MIN(best_s, stm_now_s() - start);
    }
    return 1e6 / best_s;
}

/* One piece of the computation. */
static void compute_piece(const bench *b, way how)
{
    for (size_t i = 0; i < b->n_slices; i++) {
        compute(b->slice_s * b->rounds_per_s);
        if (how == DRIVEN) {
            stm_reduction_drive(b->reduction);
            stm_gathering_drive(b->gathering);
        }
    }
}

/* Seconds of finish and buckets that were through before it. */
static void reduce(const bench *b, way how, double *exposed_s, double *n_done)
{
    const size_t n = b->shards.n;
    stm_reduction_begin(b->reduction, b->reals);
    for (size_t piece = PIECES; piece-- > 0;) {
        compute_piece(b, how);
        if (how != BLOCKING)
            stm_reduction_ready(b->reduction, piece * n / PIECES, (piece + 1) * n / PIECES - piece * n / PIECES);
    }
    *n_done = (double)stm_reduction_n_done(b->reduction);
    const double start = stm_now_s();
    stm_reduction_finish(b->reduction);
    *exposed_s = stm_now_s() - start;
}

static void reduce_afterwards(const bench *b, double *exposed_s)
{
    for (size_t piece = 0; piece < PIECES; piece++)
        compute_piece(b, BLOCKING);
    const double start = stm_now_s();
    stm_reduce_scatter(MPI_COMM_WORLD, &b->shards, b->reals, sizeof *b->reals);
    *exposed_s = stm_now_s() - start;
}

static void gather(const bench *b, way how, double *exposed_s)
{
    const size_t n_buckets = stm_shards_n_ranges(&b->shards);
    if (how != BLOCKING)
        stm_gathering_begin(b->gathering, b->reals);
    for (size_t piece = 0; piece < PIECES; piece++) {
        compute_piece(b, how);
        if (how != BLOCKING)
            stm_gathering_offer(b->gathering, (piece + 1) * n_buckets / PIECES);
    }
    const double start = stm_now_s();
    if (how == BLOCKING)
        stm_all_gather_shards(MPI_COMM_WORLD, &b->shards, b->reals, sizeof *b->reals);
    else
        stm_gathering_finish(b->gathering);
    *exposed_s = stm_now_s() - start;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, size_t n)
{
    qsort(x, n, sizeof *x, by_size);
    return x[n / 2];
}

/* Seconds of the computation alone. */
static double measure_computation(const bench *b, size_t repeats)
{
    double computed_s[MOST_REPEATS];
    for (size_t i = 0; i < repeats; i++) {
        MPI_Barrier(MPI_COMM_WORLD);
        const double start = stm_now_s();
        for (size_t piece = 0; piece < PIECES; piece++)
            compute_piece(b, BLOCKING);
        computed_s[i] = stm_now_s() - start;
    }
    return median(computed_s, repeats);
}

static void measure(const bench *b, bool gathers, way how, double computed_s, size_t repeats)
{
    double total_s[MOST_REPEATS], exposed_s[MOST_REPEATS], n_done[MOST_REPEATS] = {0};
    for (size_t i = 0; i < repeats; i++) {
        MPI_Barrier(MPI_COMM_WORLD);
        const double start = stm_now_s();
        if (gathers)
            gather(b, how, &exposed_s[i]);
        else if (how == BLOCKING)
            reduce_afterwards(b, &exposed_s[i]);
        else
            reduce(b, how, &exposed_s[i], &n_done[i]);
        total_s[i] = stm_now_s() - start;
    }
    if (b->rank == 0)
        printf("%-10s %-22s over the computation %7.1f ms, in finish %7.1f ms", gathers ? "gathering" : "reduction",
               ways[how], 1e3 * (median(total_s, repeats) - computed_s), 1e3 * median(exposed_s, repeats));
    if (b->rank == 0 && !gathers && how != BLOCKING)
        printf(", %.0f of %zu buckets before", median(n_done, repeats), stm_shards_n_ranges(&b->shards));
    if (b->rank == 0)
        printf("\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    int n_ranks;
    bench b = {.slice_s = 1e-3 * (double)argument(argc, argv, 3, 1)};
    stm_relay_prepare();
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &b.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    const size_t n = argument(argc, argv, 1, 256) << 18, repeats = STM_MIN(argument(argc, argv, 4, 5), MOST_REPEATS);
    const double total_s = 1e-3 * (double)argument(argc, argv, 2, 1000);
    b.shards = (stm_shards){.n = n, .bucket_n = BUCKET, .n_ranks = n_ranks};
    b.n_slices = STM_MAX((size_t)(total_s / PIECES / b.slice_s), (size_t)1);
    check(stm_alloc(n, sizeof *b.reals, &b.reals));
    for (size_t i = 0; i < n; i++)
        b.reals[i] = 1;
    check(stm_reduction_create(MPI_COMM_WORLD, &b.shards, sizeof *b.reals, NULL, &b.reduction));
    check(stm_gathering_create(MPI_COMM_WORLD, &b.shards, sizeof *b.reals, NULL, &b.gathering));
    MPI_Barrier(MPI_COMM_WORLD);
    b.rounds_per_s = measure_rounds_per_s();
    const double computed_s = measure_computation(&b, repeats);
    if (b.rank == 0)
        printf("%d ranks, %zu MiB, %.0f ms of computation, drive every %.0f ms\n", n_ranks, n >> 18, 1e3 * computed_s,
               1e3 * b.slice_s);
    for (int gathers = 0; gathers < 2; gathers++)
        for (way how = BLOCKING; how < N_WAYS; how++)
            measure(&b, gathers, how, computed_s, repeats);
    stm_reduction_destroy(b.reduction);
    stm_gathering_destroy(b.gathering);
    free(b.reals);
    MPI_Finalize();
    return 0;
}
