/* What `stemma bench` measures, counts and writes; no claim here depends on how fast the machine is. */
#include "bench/batch.h"

#include <jansson.h>
#include <math.h>
#include <sys/stat.h>

#include "bench/bytes.h"
#include "bench/rates.h"
#include "bench/report.h"
#include "group/chunk.h"
#include "support/batch.h"
#include "support/folder.h"
#include "support/model.h"

static const stm_bench_shape small = {.n_groups = 2, .n_prompt = 40, .n_answer = 6, .group_size = 3};

typedef struct {
    stm_stream *stream;
    stm_model *model;
    stm_grid grid;
    stm_options options;
    stm_batch batch;
    stm_bench bench;
    stm_bench_row rows[STM_BENCH_N_WORKS];
} fixture;

static int open_fixture(void **state)
{
    const stm_backend *backend = &stm_backend_cpu_f32;
    fixture *f = calloc(1, sizeof *f);
    assert_ok(backend->open(1, &f->stream));
    f->model = stm_test_model(backend, f->stream, &stm_test_configs[STM_TEST_LLAMA], 1);
    assert_ok(stm_grid_create(MPI_COMM_SELF, &(stm_axes){1, 1, 1}, 1, &f->grid));
    assert_ok(stm_options_init(&f->options));
    f->options.bench.repeats = 3;
    assert_ok(stm_bench_random_batch(&small, f->model->config.vocab_size, 1, &f->batch));
    f->bench = (stm_bench){.model = f->model, .grid = &f->grid, .options = &f->options};
    assert_ok(backend->alloc(f->stream, f->model->n_parameters * backend->real_bytes, &f->bench.gradient));
    *state = f;
    return 0;
}

static int close_fixture(void **state)
{
    fixture *f = *state;
    for (size_t i = 0; i < STM_BENCH_N_WORKS; i++)
        free(f->rows[i].seconds);
    stm_backend_cpu_f32.free(f->stream, f->bench.gradient);
    stm_batch_clear(&f->batch);
    stm_options_clear(&f->options);
    stm_grid_destroy(&f->grid);
    stm_model_destroy(f->model);
    stm_backend_cpu_f32.close(f->stream);
    free(f);
    return 0;
}

static void measure_all(fixture *f)
{
    for (stm_bench_work work = 0; work < STM_BENCH_N_WORKS; work++)
        f->rows[work] = (stm_bench_row){.shape = small, .work = work, .plotted = true};
    assert_ok(stm_bench_measure(&f->bench, &f->batch, f->rows, STM_BENCH_N_WORKS));
}

static void a_random_batch_has_its_shape_and_comes_again(void **state)
{
    (void)state;
    stm_batch a, b, other;
    assert_ok(stm_bench_random_batch(&small, 31, 7, &a));
    assert_ok(stm_bench_random_batch(&small, 31, 7, &b));
    assert_ok(stm_bench_random_batch(&small, 31, 8, &other));
    const stm_bench_shape shape = stm_bench_shape_of(&a);
    assert_memory_equal(&shape, &small, sizeof shape);
    assert_int_equal(stm_bench_longest(&a), 6);
    assert_int_equal(stm_bench_largest(&a), 3);
    for (size_t i = 0; i < 40; i++)
        assert_in_range(a.groups[1].prompt[i], 0, 30);
    assert_memory_equal(a.groups[1].prompt, b.groups[1].prompt, 40 * sizeof(int32_t));
    assert_memory_not_equal(a.groups[1].prompt, other.groups[1].prompt, 40 * sizeof(int32_t));
    assert_memory_not_equal(a.groups[0].prompt, a.groups[1].prompt, 40 * sizeof(int32_t));
    assert_memory_not_equal(a.groups[0].responses[0].ids, a.groups[0].responses[1].ids, 6 * sizeof(int32_t));
    stm_batch_clear(&a);
    stm_batch_clear(&b);
    stm_batch_clear(&other);
}

static void rows_count_tokens_work_and_time(void **state)
{
    fixture *f = *state;
    measure_all(f);
    const double prompt_rows = 39, answer_rows = 6;
    assert_near(f->rows[STM_BENCH_TREE].n_rows, 2 * (prompt_rows + 3 * answer_rows), 0);
    assert_near(f->rows[STM_BENCH_PROMPT].n_rows, f->rows[STM_BENCH_TREE].n_rows, 0);
    assert_near(f->rows[STM_BENCH_REPEATED].n_rows, 2 * 3 * (prompt_rows + answer_rows), 0);
    assert_near(f->rows[STM_BENCH_DECODE].n_rows, 2 * (prompt_rows + 3 * answer_rows), 0);
    assert_true(f->rows[STM_BENCH_REPEATED].flops > 1.5 * f->rows[STM_BENCH_TREE].flops);
    assert_near(f->rows[STM_BENCH_TREE].flops / f->rows[STM_BENCH_DECODE].flops, 3, 1e-12); /* forward alone */
    for (size_t i = 0; i < STM_BENCH_N_WORKS; i++) {
        const stm_bench_row *row = &f->rows[i];
        double sum = 0;
        assert_int_equal(row->n_repeats, 3);
        for (size_t k = 0; k < 3; k++)
            assert_true(row->seconds[k] >= row->best_s && row->best_s > 0);
        assert_true(row->median_s >= row->best_s);
        for (size_t k = 0; k < STM_BENCH_N_PHASES; k++)
            sum += row->phases[k];
        assert_near(sum, row->median_s, 1e-9);
        assert_true(row->phases[STM_STAGE_PREFIX] > 0);
        assert_int_equal(row->phases[STM_STAGE_BACKWARD] > 0, i != STM_BENCH_DECODE);
        assert_int_equal(row->phases[STM_BENCH_DECODING] > 0, i == STM_BENCH_DECODE);
        assert_true(row->gemm_rate > 0);
        assert_true(row->peak_bytes > 8.0 * (double)f->model->n_parameters); /* weights and gradient */
    }
}

static void the_cost_model_predicts_from_the_first_update(void **state)
{
    fixture *f = *state;
    measure_all(f);
    const stm_bench_row *tree = &f->rows[STM_BENCH_TREE], *repeated = &f->rows[STM_BENCH_REPEATED];
    assert_near(tree->predicted_s, tree->best_s, 1e-12);
    assert_near(repeated->predicted_s, tree->best_s * repeated->flops / tree->flops, 1e-12);
    assert_true(isnan(f->rows[STM_BENCH_DECODE].predicted_s));
}

static int compare_doubles(const void *left, const void *right)
{
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static void works_of_a_case_are_compared_turn_by_turn(void **state)
{
    fixture *f = *state;
    double ratios[3];
    measure_all(f);
    for (size_t k = 0; k < 3; k++)
        ratios[k] = f->rows[STM_BENCH_REPEATED].seconds[k] / f->rows[STM_BENCH_TREE].seconds[k];
    qsort(ratios, 3, sizeof *ratios, compare_doubles);
    assert_near(f->rows[STM_BENCH_REPEATED].to_first, ratios[1], 1e-12);
    assert_near(f->rows[STM_BENCH_TREE].to_first, 1, 0);
}

/* llama fixture: what a token of a prompt or an answer leaves, and what a round reads of the weights, by hand. */
static void decoding_reads_weights_once_a_round_and_prompts_once_a_group(void **state)
{
    fixture *f = *state;
    const stm_model_config *c = &f->model->config;
    const double token = (double)(2 * c->n_layers * c->n_kv_heads * c->head_dim * 4);
    const double weights = 4.0 * (double)(f->model->n_parameters - (c->tied ? 0 : c->vocab_size * c->hidden_size));
    const double prompts = 2 * 6 * 39 * token, own = 2 * 3 * (1 + 2 + 3 + 4 + 5 + 6) * token; /* 2 groups of 3 */
    assert_near(stm_bench_decode_bytes(f->model, &f->grid, &f->batch, 3, 6, 6), 6 * weights + prompts + own, 1e-12);
    assert_near(stm_bench_decode_bytes(f->model, &f->grid, &f->batch, 3, 6, 12), 12 * weights + prompts + own, 1e-12);
    measure_all(f);
    const stm_bench_row *row = &f->rows[STM_BENCH_DECODE];
    assert_near(row->read_bytes, 6 * weights + prompts + own, 1e-12);
    assert_near(stm_bench_read_share(row), row->read_bytes / row->phases[STM_BENCH_DECODING] / row->read_rate, 1e-12);
    assert_true(isnan(stm_bench_read_share(&f->rows[STM_BENCH_TREE])));
}

/* The parts of the memory model that are not this module's own: K, V and activations of so many rows. */
static void memory_of_an_update_follows_its_longest_path_not_its_answers(void **state)
{
    fixture *f = *state;
    const size_t chunk = 16, few = 7, scratch = stm_chunk_scratch_bytes(f->model, chunk, true);
    const double kv = (double)stm_chunk_kv_bytes(f->model, 1, true),
                 kept = (double)stm_chunk_kept_bytes(f->model, chunk);
    assert_near(stm_bench_update_bytes(f->model, few, chunk, &f->batch, true, false),
                (double)few + kv * (39 + 16) + kept + (double)scratch, 1e-12);
    assert_near(stm_bench_update_bytes(f->model, few, chunk, &f->batch, false, false),
                (double)few + kv * 45 + kept + (double)scratch, 1e-12);
    assert_near(stm_bench_update_bytes(f->model, few, chunk, &f->batch, false, true),
                (double)few + kv * 45 + (double)stm_chunk_kept_bytes(f->model, 45) + (double)scratch, 1e-12);
    f->options.memory.recompute = STM_RECOMPUTE_ALWAYS;
    f->options.memory.chunk_tokens = 16;
    measure_all(f);
    assert_near(f->rows[STM_BENCH_TREE].recompute_bytes,
                stm_bench_update_bytes(f->model, 8 * f->model->n_parameters, chunk, &f->batch, true, false), 0);
}

/* A prompt of one token leaves nothing that its answers could share: they need no more than each by itself. */
static void answers_to_one_token_hold_one_chunk(void **state)
{
    fixture *f = *state;
    const stm_bench_shape shape = {.n_groups = 1, .n_prompt = 1, .n_answer = 32, .group_size = 8};
    stm_batch_clear(&f->batch);
    assert_ok(stm_bench_random_batch(&shape, f->model->config.vocab_size, 1, &f->batch));
    f->options.memory.chunk_tokens = 64;
    measure_all(f);
    assert_near(f->rows[STM_BENCH_TREE].n_rows, f->rows[STM_BENCH_REPEATED].n_rows, 0);
    assert_true(f->rows[STM_BENCH_TREE].peak_bytes < 1.02 * f->rows[STM_BENCH_REPEATED].peak_bytes);
}

static void every_word_is_read_once(void **state)
{
    uint64_t words[1001];
    (void)state;
    for (size_t i = 0; i < 1001; i++)
        words[i] = i + 1;
    assert_int_equal(stm_bench_read(words, 1001), 1001 * 1002 / 2);
    assert_int_equal(stm_bench_read(words, 0), 0);
}

static void what_would_take_too_long_is_left_out(void **state)
{
    fixture *f = *state;
    f->bench.seconds_per_flop = 1; /* a slow machine */
    measure_all(f);
    for (size_t i = 0; i < STM_BENCH_N_WORKS; i++)
        assert_near(f->rows[i].left_out_s, 3 * f->rows[i].flops, 1e-12);
    assert_near(f->rows[STM_BENCH_REPEATED].predicted_s, f->rows[STM_BENCH_REPEATED].flops, 1e-12);
    f->options.bench.limit_s = 0;
    stm_bench_row row = {.shape = small, .work = STM_BENCH_TREE};
    assert_ok(stm_bench_measure(&f->bench, &f->batch, &row, 1));
    assert_true(row.left_out_s == 0 && row.best_s > 0);
    assert_true(isnan(f->rows[STM_BENCH_REPEATED].to_first));
    free(row.seconds);
}

static size_t count(const char *text, char c)
{
    size_t n = 0;
    for (; *text; text++)
        n += *text == c;
    return n;
}

static char *read_text(const char *folder, const char *name)
{
    char *text;
    size_t n;
    assert_ok(stm_read_file(stm_test_path(folder, name), &text, &n));
    return text;
}

/* The fixture's rows, of which the last is left out, as files in a folder of their own. */
static char *write_report(fixture *f)
{
    char *folder = stm_test_folder_create();
    measure_all(f);
    f->rows[STM_BENCH_DECODE].left_out_s = 1234;
    stm_bench_report report = {.model_name = "a \"name\"", .model = f->model, .n_rows = 4, .rows = f->rows};
    stm_bench_machine_describe(&f->grid, &stm_backend_cpu_f32, 2, &report.machine);
    assert_ok(stm_bench_write(&report, stm_test_path(folder, "it's.json")));
    stm_bench_plot(&report, stm_test_path(folder, "it's.json"));
    return folder;
}

static void json_has_machine_model_and_every_row(void **state)
{
    fixture *f = *state;
    char *folder = write_report(f);
    json_error_t error;
    json_t *root = json_load_file(stm_test_path(folder, "it's.json"), 0, &error);
    assert_non_null(root);
    const json_t *machine = json_object_get(root, "machine"), *cases = json_object_get(root, "cases");
    assert_int_equal(json_integer_value(json_object_get(machine, "threads")), 2);
    assert_int_equal(strlen(json_string_value(json_object_get(machine, "date"))), 20);
    assert_true(strlen(json_string_value(json_object_get(machine, "processor"))) > 0);
    assert_string_equal(json_string_value(json_object_get(json_object_get(root, "model"), "name")), "a \"name\"");
    assert_int_equal(json_array_size(cases), 4);
    for (size_t i = 0; i < 3; i++) {
        const json_t *row = json_array_get(cases, i);
        assert_string_equal(json_string_value(json_object_get(row, "what")), stm_bench_work_name((stm_bench_work)i));
        assert_int_equal(json_array_size(json_object_get(row, "seconds")), 3);
        assert_near(json_number_value(json_object_get(row, "median_s")), f->rows[i].median_s, 1e-8);
        assert_near(json_number_value(json_object_get(row, "gemm_share")),
                    f->rows[i].flops / f->rows[i].best_s / f->rows[i].gemm_rate, 1e-8);
        assert_int_equal(json_object_size(json_object_get(row, "phases")), STM_BENCH_N_PHASES);
    }
    const json_t *last = json_array_get(cases, 3);
    assert_non_null(json_object_get(last, "left_out"));
    assert_null(json_object_get(last, "median_s"));
    json_decref(root);
    stm_test_folder_remove(folder);
}

static void csv_has_as_many_cells_in_each_line(void **state)
{
    char *folder = write_report(*state), *text = read_text(folder, "it's.csv");
    size_t n_lines = 0, n_commas = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), n_lines++) {
        n_commas = n_lines == 0 ? count(line, ',') : n_commas;
        assert_int_equal(count(line, ','), n_commas);
    }
    assert_int_equal(n_lines, 5);
    assert_int_equal(n_commas + 1, 18 + STM_BENCH_N_PHASES);
    free(text);
    stm_test_folder_remove(folder);
}

/* A gnuplot that keeps its script: points of what was measured, lines of what was predicted, in both panels. */
static void plot_has_a_curve_for_each_forward(void **state)
{
    char *bin = stm_test_folder_create(), *path_before = strdup(getenv("PATH")), *path;
    stm_test_write_text(stm_test_path(bin, "gnuplot"), "#!/bin/sh\ncat > script\necho picture > \"it's.png.part\"\n");
    assert_int_equal(chmod(stm_test_path(bin, "gnuplot"), 0755), 0);
    assert_ok(stm_format(&path, "%s:%s", bin, path_before));
    setenv("PATH", path, 1);
    char *folder = write_report(*state), *script = read_text(folder, "script");
    setenv("PATH", path_before, 1);
    assert_true(stm_test_exists(stm_test_path(folder, "it's.png")));
    assert_non_null(strstr(script, "set output 'it''s.png.part'"));
    for (size_t i = 0; i < 3; i++) {
        char curve[64];
        snprintf(curve, sizeof curve, "title '%s, prompt 40'", stm_bench_work_name((stm_bench_work)i));
        assert_non_null(strstr(script, curve));
        snprintf(curve, sizeof curve, "title '%s, G 3'", stm_bench_work_name((stm_bench_work)i));
        assert_non_null(strstr(script, curve));
    }
    assert_null(strstr(script, "decode"));
    free(script);
    free(path);
    free(path_before);
    stm_test_folder_remove(folder);
    stm_test_folder_remove(bin);
}

static void files_beside_it_have_its_name(void **state)
{
    static const char *const names[][2] = {{"a/b.json", "a/b.csv"}, {"a/b", "a/b.csv"}, {".json", ".json.csv"}};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        char *name;
        assert_ok(stm_bench_beside(names[i][0], ".csv", &name));
        assert_string_equal(name, names[i][1]);
        free(name);
    }
}

int main(int argc, char **argv)
{
#define WITH_MODEL(test) cmocka_unit_test_setup_teardown(test, open_fixture, close_fixture)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_random_batch_has_its_shape_and_comes_again),
        WITH_MODEL(rows_count_tokens_work_and_time),
        WITH_MODEL(the_cost_model_predicts_from_the_first_update),
        WITH_MODEL(works_of_a_case_are_compared_turn_by_turn),
        WITH_MODEL(decoding_reads_weights_once_a_round_and_prompts_once_a_group),
        WITH_MODEL(memory_of_an_update_follows_its_longest_path_not_its_answers),
        WITH_MODEL(answers_to_one_token_hold_one_chunk),
        cmocka_unit_test(every_word_is_read_once),
        WITH_MODEL(what_would_take_too_long_is_left_out),
        WITH_MODEL(json_has_machine_model_and_every_row),
        WITH_MODEL(csv_has_as_many_cells_in_each_line),
        WITH_MODEL(plot_has_a_curve_for_each_forward),
        cmocka_unit_test(files_beside_it_have_its_name),
    };
    MPI_Init(&argc, &argv);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    MPI_Finalize();
    return failed;
}
