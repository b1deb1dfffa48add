#include "bench/measure.h"

#include <math.h>
#include <stdlib.h>

#include "group/score.h"
#include "rollout/rollout.h"

static const char *const work_names[] = {"tree", "prompt", "repeated", "decode"};

const char *stm_bench_work_name(stm_bench_work work)
{
    return work_names[work];
}

const char *stm_bench_phase_name(size_t phase)
{
    static const char *const outside[] = {"gradient_sum", "decode", "other"};
    return phase < STM_N_STAGES ? stm_stage_name((stm_stage)phase) : outside[phase - STM_N_STAGES];
}

double stm_bench_rate(const stm_bench_row *row)
{
    return row->best_s > 0 ? row->flops / row->best_s : 0;
}

/* The machine's own rate */

enum { GEMM_N = 1024, GEMM_LEAST = 5 };
static const double gemm_s = 0.15;

static stm_status best_gemm_s(const stm_backend *b, stm_stream *stream, void *x, double *best_s)
{
    const stm_gemm gemm = {.m = GEMM_N,
                           .n = GEMM_N,
                           .k = GEMM_N,
                           .alpha = 1,
                           .a = x,
                           .b = stm_at(b, x, GEMM_N * GEMM_N),
                           .c = stm_at(b, x, 2 * GEMM_N * GEMM_N),
                           .lda = GEMM_N,
                           .ldb = GEMM_N,
                           .ldc = GEMM_N};
    const double begin = stm_now_s();
    *best_s = INFINITY;
    for (int i = 0; i < GEMM_LEAST || stm_now_s() - begin < gemm_s; i++) {
        const double start = stm_now_s();
        STM_TRY(b->gemm(stream, &gemm));
        STM_TRY(b->synchronize(stream));
        *best_s = fmin(*best_s, stm_now_s() - start);
    }
    return STM_OK;
}

stm_status stm_bench_gemm_rate(const stm_backend *backend, stm_stream *stream, const stm_grid *grid, double *rate)
{
    const size_t bytes = (size_t)3 * GEMM_N * GEMM_N * backend->real_bytes;
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

/* One repeat of each kind: does the work and says what lay outside of passes */

typedef struct {
    stm_bench *bench;
    stm_engine *engine;
    const stm_batch *batch;
    stm_bench_row *row;
    stm_profile profile;
    double outside_s; /* gradient sum, or decoding */
    size_t repeat;
} measuring;

static stm_status run_update(measuring *m)
{
    const stm_bench *bench = m->bench;
    const stm_model *model = bench->model;
    const stm_shards shards = {.n = model->n_parameters, .bucket_n = 1 << 20, .n_ranks = bench->grid->n_ranks};
    stm_totals totals;
    stm_objective_sums sums;
    stm_totals_of(m->batch, &totals);
    STM_TRY(stm_objective_gradient(m->engine, bench->grid, m->batch, stm_objective_find(bench->options->objective.name),
                                   &bench->options->objective, &totals, bench->gradient, &sums));
    const double start = stm_now_s();
    stm_reduce_scatter(bench->grid->world, &shards, bench->gradient, model->backend->real_bytes);
    m->outside_s = stm_now_s() - start;
    m->row->n_rows = stm_engine_counts(m->engine)->rows;
    stm_all_reduce(bench->grid->world, &m->row->n_rows, 1, sizeof(double));
    return STM_OK;
}

static stm_status run_decode(measuring *m)
{
    static const stm_strings none = {0};
    const stm_options *options = m->bench->options;
    const stm_sampling sampling = {.use = STM_RANDOM_GENERATE,
                                   .seed = (uint64_t)options->run.seed,
                                   .step = m->repeat,
                                   .group_size = stm_bench_largest(m->batch),
                                   .temperature = 1,
                                   .top_p = 1,
                                   .max_new_tokens = stm_bench_longest(m->batch),
                                   .slots = (size_t)options->rollout.slots,
                                   .stop = &none};
    stm_batch prompts;
    stm_rollout_counts counts;
    stm_status status = stm_agree(m->bench->grid, stm_bench_prompts_of(m->batch, &prompts));
    const double start = stm_now_s();
    if (status == STM_OK)
        status = stm_rollout(m->engine, m->bench->model, m->bench->grid, &sampling, &prompts, &counts);
    if (status == STM_OK) {
        m->outside_s =
            stm_now_s() - start - m->profile.seconds[STM_STAGE_PREFIX] - m->profile.seconds[STM_STAGE_EXCHANGE];
        m->row->n_rows = counts.prompt_rows + counts.tokens;
    }
    stm_batch_clear(&prompts);
    return status;
}

/* Repeats */

/* Phases of a repeat that took `seconds`, as means over ranks. */
static void collect_phases(const measuring *m, double seconds, double *phases)
{
    const size_t outside = m->row->work == STM_BENCH_DECODE ? STM_BENCH_DECODING : STM_BENCH_GRADIENT_SUM;
    const double n_ranks = m->bench->grid->n_ranks;
    for (size_t i = 0; i < STM_BENCH_N_PHASES; i++)
        phases[i] = (i < STM_N_STAGES ? m->profile.seconds[i] : 0) / n_ranks;
    phases[outside] = m->outside_s / n_ranks;
    stm_all_reduce(m->bench->grid->world, phases, STM_BENCH_N_PHASES, sizeof *phases);
    phases[STM_BENCH_OTHER] = seconds;
    for (size_t i = 0; i < STM_BENCH_OTHER; i++)
        phases[STM_BENCH_OTHER] -= phases[i];
}

static stm_status run_repeat(measuring *m, double *seconds, double *phases)
{
    const stm_bench *bench = m->bench;
    const stm_backend *backend = bench->model->backend;
    const size_t bytes = bench->model->n_parameters * backend->real_bytes;
    stm_status status = backend->zero(bench->model->stream, bench->gradient, bytes);
    if (status == STM_OK)
        status = backend->synchronize(bench->model->stream);
    STM_TRY(stm_agree(bench->grid, status));
    m->profile = (stm_profile){0};
    STM_MPI(MPI_Barrier(bench->grid->world));
    const double start = stm_now_s();
    STM_TRY(m->row->work == STM_BENCH_DECODE ? run_decode(m) : run_update(m));
    *seconds = stm_now_s() - start;
    stm_all_reduce_max(bench->grid->world, seconds, 1);
    collect_phases(m, *seconds, phases);
    return STM_OK;
}

typedef struct {
    double seconds;
    double phases[STM_BENCH_N_PHASES];
} repeat;

static int compare_repeats(const void *left, const void *right)
{
    const double a = ((const repeat *)left)->seconds, b = ((const repeat *)right)->seconds;
    return (a > b) - (a < b);
}

static void summarise(stm_bench_row *row, repeat *repeats)
{
    const size_t n = row->n_repeats, middle = (n - 1) / 2;
    for (size_t i = 0; i < n; i++)
        row->seconds[i] = repeats[i].seconds;
    qsort(repeats, n, sizeof *repeats, compare_repeats);
    row->best_s = repeats[0].seconds;
    row->median_s = (repeats[middle].seconds + repeats[n / 2].seconds) / 2;
    for (size_t i = 0; i < STM_BENCH_N_PHASES; i++)
        row->phases[i] = repeats[middle].phases[i];
}

static stm_status run_repeats(measuring *m)
{
    stm_bench_row *row = m->row;
    repeat *repeats;
    STM_TRY(stm_agree(m->bench->grid, stm_alloc(row->n_repeats, sizeof *repeats, &repeats)));
    stm_status status = STM_OK;
    for (m->repeat = 0; m->repeat < row->n_repeats && status == STM_OK; m->repeat++)
        status = run_repeat(m, &repeats[m->repeat].seconds, repeats[m->repeat].phases);
    if (status == STM_OK)
        summarise(row, repeats);
    free(repeats);
    return status;
}

/* Rows */

static stm_status count_flops(const measuring *m)
{
    stm_bench_row *row = m->row;
    stm_flops flops;
    if (row->work == STM_BENCH_DECODE) {
        STM_TRY(stm_engine_sampling_flops(m->engine, m->batch, stm_bench_largest(m->batch), stm_bench_longest(m->batch),
                                          &flops));
        row->flops = stm_flops_forward(&flops);
    } else {
        STM_TRY(stm_engine_flops(m->engine, m->batch, &flops));
        row->flops = stm_flops_update(&flops);
    }
    return STM_OK;
}

/* Whether the row would take longer than the limit. Every rank has the same numbers, so all decide alike. */
static bool is_too_long(const measuring *m)
{
    const double limit_s = m->bench->options->bench.limit_s;
    const double rate = m->bench->seconds_per_flop > 0 ? 1 / m->bench->seconds_per_flop : m->row->gemm_rate;
    const double expected_s = (double)m->row->n_repeats * m->row->flops / rate;
    if (limit_s > 0 && expected_s > limit_s)
        m->row->left_out_s = expected_s;
    return m->row->left_out_s > 0;
}

/* The first update sets the rate at which the cost model predicts the others. */
static void predict(stm_bench *bench, stm_bench_row *row)
{
    row->predicted_s = NAN;
    if (row->work == STM_BENCH_DECODE)
        return;
    if (bench->seconds_per_flop == 0 && row->left_out_s == 0)
        bench->seconds_per_flop = row->median_s / row->flops;
    if (bench->seconds_per_flop > 0)
        row->predicted_s = row->flops * bench->seconds_per_flop;
}

static stm_status measure(measuring *m)
{
    const stm_bench *bench = m->bench;
    const stm_backend *backend = bench->model->backend;
    stm_bench_row *row = m->row;
    double after;
    STM_TRY(stm_agree(bench->grid, count_flops(m)));
    STM_TRY(stm_bench_gemm_rate(backend, bench->model->stream, bench->grid, &row->gemm_rate));
    if (is_too_long(m))
        return STM_OK;
    STM_TRY(run_repeats(m));
    STM_TRY(stm_bench_gemm_rate(backend, bench->model->stream, bench->grid, &after));
    row->gemm_rate = fmax(row->gemm_rate, after);
    row->peak_bytes = (double)stm_engine_peak_bytes(m->engine);
    stm_all_reduce_max(bench->grid->world, &row->peak_bytes, 1);
    return STM_OK;
}

stm_status stm_bench_measure(stm_bench *bench, const stm_batch *batch, stm_bench_row *row)
{
    measuring m = {.bench = bench, .batch = batch, .row = row};
    stm_options options = *bench->options; /* not cleared: the strings are the caller's */
    options.forward = row->work == STM_BENCH_DECODE ? STM_FORWARD_TREE : (stm_forward_mode)row->work;
    const size_t weights_bytes = bench->model->n_parameters * bench->model->backend->real_bytes;
    row->n_repeats = (size_t)options.bench.repeats;
    STM_TRY(stm_agree(bench->grid, stm_alloc(row->n_repeats, sizeof *row->seconds, &row->seconds)));
    stm_status status =
        stm_agree(bench->grid, stm_engine_create(bench->model, bench->grid, &options, 2 * weights_bytes, &m.engine));
    if (status == STM_OK) {
        stm_engine_settings_of(m.engine)->profile = &m.profile;
        status = measure(&m);
    }
    stm_engine_destroy(m.engine);
    if (status == STM_OK)
        predict(bench, row);
    return status;
}
