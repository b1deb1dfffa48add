/* `stemma bench`: what an update costs by tree, by prompt and repeated, and what sampling costs, over lengths of
 * prompts, ratios and sizes of groups. */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/report.h"
#include "cli/commands.h"
#include "cli/groups_input.h"
#include "model/stages.h"

typedef struct {
    stm_bench_shape shape;
    bool plotted; /* of the first ratio: the plot shows one */
} bench_case;

typedef struct {
    const stm_options *options;
    stm_session session;
    stm_batch batch; /* of --groups; else empty, and each case draws its own */
    bench_case *cases;
    size_t n_cases;
    bool works[STM_BENCH_N_WORKS];
    stm_bench bench;
    stm_bench_row *rows; /* [n_cases * STM_BENCH_N_WORKS] */
    stm_bench_report report;
} bench_run;

/* Cases */

/* The list of an option, or that of the sweep where the user gave none. */
static stm_numbers list_of(const stm_options *options, const char *name, stm_numbers list, double *sweep, size_t n)
{
    return options->bench.sweep && !stm_options_given(options, name) ? (stm_numbers){n, sweep} : list;
}

static stm_status list_cases(bench_run *run)
{
    static double prompts[] = {4096, 8192, 16384}, ratios[] = {0.5, 1, 2, 4, 8, 16, 32}, sizes[] = {2, 4, 8, 16};
    const stm_options *o = run->options;
    const stm_numbers prompt = list_of(o, "bench.prompt", o->bench.prompt, prompts, 3);
    const stm_numbers size = list_of(o, "bench.group_size", o->bench.group_size, sizes, 4);
    const stm_numbers ratio =
        stm_options_given(o, "bench.answer") ? o->bench.ratio : list_of(o, "bench.ratio", o->bench.ratio, ratios, 7);
    const size_t n_answers = STM_MAX(ratio.n, (size_t)1);
    STM_TRY(stm_alloc(prompt.n * n_answers * size.n, sizeof *run->cases, &run->cases));
    for (size_t p = 0; p < prompt.n; p++)
        for (size_t a = 0; a < n_answers; a++)
            for (size_t g = 0; g < size.n; g++) {
                const double answer = ratio.n > 0 ? round(prompt.items[p] / ratio.items[a]) : (double)o->bench.answer;
                run->cases[run->n_cases++] = (bench_case){.shape = {.n_groups = (double)o->bench.groups_n,
                                                                    .n_prompt = prompt.items[p],
                                                                    .n_answer = fmax(answer, 1),
                                                                    .group_size = size.items[g]},
                                                          .plotted = a == 0};
            }
    return STM_OK;
}

static stm_status list_file(bench_run *run)
{
    STM_TRY(stm_alloc(1, sizeof *run->cases, &run->cases));
    run->cases[run->n_cases++] = (bench_case){.shape = stm_bench_shape_of(&run->batch), .plotted = true};
    return STM_OK;
}

static void choose_works(bench_run *run)
{
    const stm_strings *names = &run->options->bench.forwards;
    for (stm_bench_work work = 0; work < STM_BENCH_N_WORKS; work++) {
        run->works[work] = names->n == 0;
        for (size_t i = 0; i < names->n; i++)
            run->works[work] = run->works[work] || strcmp(names->items[i], stm_bench_work_name(work)) == 0;
    }
}

static stm_status check_positions(const bench_run *run)
{
    const size_t most = run->session.model->config.max_positions;
    for (size_t i = 0; i < run->n_cases; i++) {
        const stm_bench_shape *s = &run->cases[i].shape;
        if (run->batch.n_groups == 0 && s->n_prompt + s->n_answer > (double)most)
            return stm_fail(STM_ERR_INPUT,
                            "bench.prompt: found %.0f with answers of %.0f, expected at most %zu together, "
                            "the model's positions",
                            s->n_prompt, s->n_answer, most);
    }
    return STM_OK;
}

/* Opening */

static stm_model_config config_of(const bench_run *run)
{
    const stm_options *o = run->options;
    double longest = 0;
    for (size_t i = 0; i < run->n_cases; i++)
        longest = fmax(longest, run->cases[i].shape.n_prompt + run->cases[i].shape.n_answer);
    return (stm_model_config){.architecture = "llama",
                              .vocab_size = (size_t)o->bench.vocab,
                              .hidden_size = (size_t)o->bench.hidden,
                              .intermediate_size = (size_t)o->bench.intermediate,
                              .n_layers = (size_t)o->bench.layers,
                              .n_heads = (size_t)o->bench.heads,
                              .n_kv_heads = (size_t)o->bench.kv_heads,
                              .head_dim = (size_t)(o->bench.hidden / o->bench.heads),
                              .max_positions = (size_t)longest,
                              .rms_eps = 1e-5,
                              .rope_theta = 1e4,
                              .bos = -1};
}

static stm_status open_model(bench_run *run)
{
    const stm_options *o = run->options;
    if (*o->bench.model)
        return stm_session_open(o, o->bench.model, stm_session_gradient_bytes, &run->session);
    const stm_model_config config = config_of(run);
    return stm_session_open_random(o, &config, stm_session_gradient_bytes, &run->session);
}

static stm_status open_all(bench_run *run)
{
    const stm_options *o = run->options;
    const bool file = *o->bench.groups;
    STM_TRY(stm_agree_on(MPI_COMM_WORLD, stm_check_output(o->out)));
    choose_works(run);
    if (!file)
        STM_TRY(stm_agree_on(MPI_COMM_WORLD, list_cases(run)));
    STM_TRY(open_model(run));
    if (run->session.idle)
        return STM_OK;
    if (file) {
        STM_TRY(stm_groups_input_read(o->bench.groups, 0, &run->session, &run->batch));
        STM_TRY(stm_agree_on(run->session.comm, list_file(run)));
    }
    STM_TRY(check_positions(run));
    return stm_session_grid(&run->session, o, (size_t)run->cases[0].shape.n_groups);
}

/* Measuring */

static void print_case(const stm_bench_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        stm_bench_print_row(&rows[i]);
    if (rows->work == STM_BENCH_TREE)
        for (size_t i = 1; i < n; i++)
            if (rows[i].work == STM_BENCH_REPEATED)
                stm_bench_print_ratio(rows, &rows[i]);
}

static stm_status measure_case(bench_run *run, const bench_case *c, const stm_batch *batch)
{
    const bool speaks = run->session.grid.rank == 0;
    stm_bench_row *rows = run->rows + run->report.n_rows;
    size_t n = 0;
    for (stm_bench_work work = 0; work < STM_BENCH_N_WORKS; work++)
        if (run->works[work])
            rows[n++] = (stm_bench_row){.shape = c->shape, .work = work, .plotted = c->plotted};
    const stm_status status = stm_bench_measure(&run->bench, batch, rows, n);
    run->report.n_rows += n; /* their memory is ours, also after a failure */
    STM_TRY(status);
    run->report.resident_bytes = stm_bench_resident_bytes(&run->session.grid);
    if (speaks)
        print_case(rows, n);
    /* After each case: a sweep takes long, and what it has measured must not be lost with it. */
    return stm_agree(&run->session.grid, speaks ? stm_bench_write(&run->report, run->options->out) : STM_OK);
}

static stm_status run_case(bench_run *run, const bench_case *c)
{
    if (run->batch.n_groups > 0)
        return measure_case(run, c, &run->batch);
    stm_batch batch;
    stm_status status =
        stm_agree(&run->session.grid, stm_bench_random_batch(&c->shape, run->session.model->config.vocab_size,
                                                             (uint64_t)run->options->run.seed, &batch));
    if (status == STM_OK)
        status = measure_case(run, c, &batch);
    stm_batch_clear(&batch);
    return status;
}

static stm_status measure(bench_run *run)
{
    stm_session *s = &run->session;
    run->report = (stm_bench_report){.model_name = *run->options->bench.model ? run->options->bench.model : "random",
                                     .model = s->model,
                                     .rows = run->rows};
    run->bench = (stm_bench){.model = s->model, .grid = &s->grid, .options = run->options};
    stm_bench_machine_describe(&s->grid, s->backend, omp_get_max_threads(), &run->report.machine);
    if (s->grid.rank == 0)
        stm_bench_print_head(&run->report);
    stm_status status = stm_model_array_create(s->model, &run->bench.gradient);
    STM_TRY(stm_agree(&s->grid, status));
    for (size_t i = 0; i < run->n_cases && status == STM_OK; i++)
        status = run_case(run, &run->cases[i]);
    stm_model_array_destroy(s->model, run->bench.gradient);
    if (status == STM_OK && s->grid.rank == 0)
        stm_bench_plot(&run->report, run->options->out);
    return status;
}

/* `--check`: layout, memory, and how many rows there would be. */
static stm_status print_plan(bench_run *run)
{
    size_t n_works = 0;
    for (size_t i = 0; i < STM_BENCH_N_WORKS; i++)
        n_works += run->works[i];
    STM_TRY(stm_session_engine(&run->session, run->options));
    stm_session_print_layout(&run->session);
    if (run->session.grid.rank == 0)
        printf("%zu shapes, %zu measurements of %lld repeats\n", run->n_cases, run->n_cases * n_works,
               (long long)run->options->bench.repeats);
    return STM_OK;
}

static void clear(bench_run *run)
{
    for (size_t i = 0; i < run->report.n_rows; i++)
        free(run->rows[i].seconds);
    free(run->rows);
    free(run->cases);
    stm_batch_clear(&run->batch);
    stm_session_close(&run->session);
}

stm_status stm_cli_bench(const stm_options *options)
{
    bench_run run = {.options = options};
    stm_status status = open_all(&run);
    const bool works = status == STM_OK && !run.session.idle;
    if (works && options->check) {
        status = print_plan(&run);
    } else if (works) {
        status =
            stm_agree_on(run.session.comm, stm_alloc(run.n_cases * STM_BENCH_N_WORKS, sizeof *run.rows, &run.rows));
        if (status == STM_OK)
            status = measure(&run);
    }
    clear(&run);
    return status;
}
