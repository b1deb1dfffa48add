#include "bench/measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bytes.h"
#include "bench/rates.h"
#include "group/score.h"
#include "group/stage_sum.h"
#include "group/tied.h"
#include "metrics/log.h"
#include "rollout/rollout.h"

enum { BUCKET = 1 << 20 }; /* elements of a gradient that are summed at once */

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

double stm_bench_read_share(const stm_bench_row *row)
{
    return row->read_bytes > 0 ? row->read_bytes / row->phases[STM_BENCH_DECODING] / row->read_rate : NAN;
}

/* One repeat of each kind: does the work and says what lay outside of passes */

typedef struct {
    double seconds;
    double phases[STM_BENCH_N_PHASES];
} repeat;

typedef struct {
    stm_bench *bench;
    stm_engine *engine;
    const stm_batch *batch;
    stm_bench_row *row;
    stm_profile profile;
    double outside_s; /* gradient sum, or decoding */
    double rounds;    /* of decoding */
    repeat *repeats;  /* [n_repeats] */
    size_t repeat;
} measuring;

static stm_status run_update(measuring *m)
{
    const stm_bench *bench = m->bench;
    const stm_model *model = bench->model;
    stm_objective_sums sums;
    STM_TRY(stm_objective_gradient(m->engine, bench->grid, m->batch, stm_objective_find(bench->options->objective.name),
                                   &bench->options->objective, bench->gradient, &sums));
    const double start = stm_now_s();
    stm_tied_add_gradient(bench->grid, model, bench->gradient);
    STM_TRY(stm_agree(bench->grid, stm_stage_sum(bench->grid, model, BUCKET, false, bench->gradient)));
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
                                   .rounds_ahead = (size_t)options->rollout.rounds_ahead,
                                   .stop = &none};
    stm_batch prompts;
    stm_rollout_counts counts;
    stm_status status = stm_agree(m->bench->grid, stm_batch_copy_prompts(m->batch, &prompts));
    const double start = stm_now_s();
    if (status == STM_OK)
        status = stm_rollout(m->engine, m->bench->model, m->bench->grid, &sampling, &prompts, &counts);
    if (status == STM_OK) {
        m->outside_s =
            stm_now_s() - start - m->profile.seconds[STM_STAGE_PREFIX] - m->profile.seconds[STM_STAGE_EXCHANGE];
        m->row->n_rows = counts.prompt_rows + counts.tokens;
        m->rounds = counts.decode_rounds;
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

static stm_status run_repeat(measuring *m)
{
    const stm_bench *bench = m->bench;
    const stm_backend *backend = bench->model->backend;
    repeat *r = &m->repeats[m->repeat];
    stm_status status = stm_model_array_zero(bench->model, bench->gradient);
    if (status == STM_OK)
        status = backend->synchronize(bench->model->stream);
    STM_TRY(stm_agree(bench->grid, status));
    m->profile = (stm_profile){0};
    STM_MPI(MPI_Barrier(bench->grid->world));
    const double start = stm_now_s();
    STM_TRY(m->row->work == STM_BENCH_DECODE ? run_decode(m) : run_update(m));
    r->seconds = stm_now_s() - start;
    stm_all_reduce_max(bench->grid->world, &r->seconds, 1);
    collect_phases(m, r->seconds, r->phases);
    m->row->seconds[m->repeat++] = r->seconds;
    return STM_OK;
}

static int compare_repeats(const void *left, const void *right)
{
    const double a = ((const repeat *)left)->seconds, b = ((const repeat *)right)->seconds;
    return (a > b) - (a < b);
}

static double median_s(const repeat *sorted, size_t n)
{
    return (sorted[(n - 1) / 2].seconds + sorted[n / 2].seconds) / 2;
}

static void summarise(measuring *m)
{
    stm_bench_row *row = m->row;
    const size_t n = row->n_repeats, middle = (n - 1) / 2;
    qsort(m->repeats, n, sizeof *m->repeats, compare_repeats);
    row->best_s = m->repeats[0].seconds;
    row->median_s = median_s(m->repeats, n);
    for (size_t i = 0; i < STM_BENCH_N_PHASES; i++)
        row->phases[i] = m->repeats[middle].phases[i];
    if (row->work == STM_BENCH_DECODE)
        row->read_bytes = stm_bench_decode_bytes(m->bench->model, m->bench->grid, m->batch, stm_bench_largest(m->batch),
                                                 stm_bench_longest(m->batch), m->rounds);
    row->peak_bytes = (double)stm_engine_peak_bytes(m->engine);
    stm_all_reduce_max(m->bench->grid->world, &row->peak_bytes, 1);
}

/* Of repeats that ran one after the other, so that drift cancels. The repeats have been summarised: their place is
 * used. */
static void compare_with_first(measuring *m, const stm_bench_row *first)
{
    stm_bench_row *row = m->row;
    row->to_first = NAN;
    if (row->left_out_s > 0 || first->left_out_s > 0)
        return;
    for (size_t i = 0; i < row->n_repeats; i++)
        m->repeats[i].seconds = row->seconds[i] / first->seconds[i];
    qsort(m->repeats, row->n_repeats, sizeof *m->repeats, compare_repeats);
    row->to_first = median_s(m->repeats, row->n_repeats);
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

/* Every rank has the same numbers, so all decide alike. */
static void leave_out_what_is_too_long(measuring *m, double gemm_rate)
{
    const double limit_s = m->bench->options->bench.limit_s;
    const double rate = m->bench->seconds_per_flop > 0 ? 1 / m->bench->seconds_per_flop : gemm_rate;
    const double expected_s = (double)m->row->n_repeats * m->row->flops / rate;
    m->row->left_out_s = limit_s > 0 && expected_s > limit_s ? expected_s : 0;
}

/* The first update sets the rate at which the cost model predicts the others. */
static void predict(stm_bench *bench, stm_bench_row *row)
{
    row->predicted_s = NAN;
    if (row->work == STM_BENCH_DECODE)
        return;
    if (bench->seconds_per_flop == 0 && row->left_out_s == 0)
        bench->seconds_per_flop = row->best_s / row->flops;
    if (bench->seconds_per_flop > 0)
        row->predicted_s = row->flops * bench->seconds_per_flop;
}

static size_t static_bytes(const stm_bench *bench)
{
    return stm_model_weights_bytes(bench->model) + stm_model_own_bytes(bench->model); /* and the gradient */
}

static double update_bytes(const measuring *m, bool kept)
{
    return stm_bench_update_bytes(m->bench->model, static_bytes(m->bench),
                                  stm_engine_settings_of(m->engine)->chunk_rows, m->batch,
                                  m->row->work != STM_BENCH_REPEATED, kept);
}

static stm_status open_row(measuring *m)
{
    const stm_bench *bench = m->bench;
    stm_bench_row *row = m->row;
    stm_options options = *bench->options; /* not cleared: the strings are the caller's */
    options.forward = row->work == STM_BENCH_DECODE ? STM_FORWARD_TREE : (stm_forward_mode)row->work;
    row->n_repeats = (size_t)options.bench.repeats;
    stm_status status = stm_alloc(row->n_repeats, sizeof *row->seconds, &row->seconds);
    if (status == STM_OK)
        status = stm_alloc(row->n_repeats, sizeof *m->repeats, &m->repeats);
    STM_TRY(stm_agree(bench->grid, status));
    STM_TRY(stm_agree(bench->grid,
                      stm_engine_create(bench->model, bench->grid, &options, static_bytes(bench), &m->engine)));
    stm_engine_settings_of(m->engine)->log = stm_log;
    stm_engine_settings_of(m->engine)->profile = &m->profile;
    if (row->work != STM_BENCH_DECODE)
        row->recompute_bytes = update_bytes(m, false);
    return stm_agree(bench->grid, count_flops(m));
}

static void close_engine(measuring *m)
{
    stm_engine_destroy(m->engine);
    m->engine = NULL;
}

/* One repeat of each row in turn, until all have theirs. */
static stm_status run_in_turn(measuring *m, size_t n)
{
    for (int64_t turn = 0; turn < m->bench->options->bench.repeats; turn++)
        for (size_t i = 0; i < n; i++)
            if (m[i].row->left_out_s == 0)
                STM_TRY(run_repeat(&m[i]));
    for (size_t i = 0; i < n; i++) {
        if (m[i].row->left_out_s == 0)
            summarise(&m[i]);
        close_engine(&m[i]);
    }
    return STM_OK;
}

/* Whether the engines of all rows may hold their memory at once, when each keeps its activations. */
static bool fit_together(const measuring *m, size_t n)
{
    const double fixed = (double)static_bytes(m->bench);
    double bytes = fixed;
    for (size_t i = 0; i < n; i++)
        bytes += m[i].row->left_out_s == 0 ? update_bytes(&m[i], true) - fixed : 0;
    return bytes <= (double)stm_engine_settings_of(m->engine)->limit_bytes;
}

static stm_status run_rows(measuring *m, size_t n)
{
    if (fit_together(m, n))
        return run_in_turn(m, n);
    for (size_t i = 0; i < n; i++)
        STM_TRY(run_in_turn(&m[i], 1));
    return STM_OK;
}

/* Only where it will be asked for, since its arrays are large. Elsewhere than on a CPU the weights do not lie in the
 * host's memory. */
static stm_status measure_read_rate(const measuring *m, size_t n, double *rate)
{
    bool wanted = false;
    for (size_t i = 0; i < n; i++)
        wanted = wanted || (m[i].row->work == STM_BENCH_DECODE && m[i].row->left_out_s == 0);
    *rate = NAN;
    return wanted && strcmp(m->bench->model->backend->name, "cpu") == 0 ? stm_bench_read_rate(m->bench->grid, rate)
                                                                        : STM_OK;
}

static stm_status measure(measuring *m, size_t n)
{
    const stm_bench *bench = m->bench;
    const stm_model *model = bench->model;
    double before, after, read_rate;
    for (size_t i = 0; i < n; i++)
        STM_TRY(open_row(&m[i]));
    STM_TRY(stm_bench_gemm_rate(model->backend, model->stream, bench->grid, &before));
    for (size_t i = 0; i < n; i++)
        leave_out_what_is_too_long(&m[i], before);
    STM_TRY(measure_read_rate(m, n, &read_rate));
    STM_TRY(run_rows(m, n));
    STM_TRY(stm_bench_gemm_rate(model->backend, model->stream, bench->grid, &after));
    for (size_t i = 0; i < n; i++) {
        m[i].row->gemm_rate = fmax(before, after);
        m[i].row->read_rate = read_rate;
        compare_with_first(&m[i], m->row);
    }
    return STM_OK;
}

stm_status stm_bench_measure(stm_bench *bench, const stm_batch *batch, stm_bench_row *rows, size_t n)
{
    measuring *m;
    STM_TRY(stm_agree(bench->grid, stm_alloc(n, sizeof *m, &m)));
    for (size_t i = 0; i < n; i++)
        m[i] = (measuring){.bench = bench, .batch = batch, .row = &rows[i]};
    const stm_status status = measure(m, n);
    for (size_t i = 0; i < n; i++) {
        close_engine(&m[i]);
        free(m[i].repeats);
        if (status == STM_OK)
            predict(bench, &rows[i]);
    }
    free(m);
    return status;
}
