/* A team, and the stages of a pipeline, that send while they compute: random forests, cut and placed in many ways, give
 * what one rank alone finds, and the same bits whoever is late. */
#include <unistd.h>

#include "base/random.h"
#include "support/batch.h"
#include "support/messages.h"
#include "support/model.h"
#include "support/mpi.h"

static int world_size(void)
{
    int n_ranks;
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    return n_ranks;
}

/* A backend that is late now and then, each rank and each run at its own times. */

static stm_backend slow;
static uint64_t run; /* 0: never late */
static uint32_t n_calls;

/* The longest of this run's delays. Half of the ranks are far slower than the others, in each run other ones. */
static double most_us(int rank)
{
    const stm_random_key key = {.seed = run, .use = STM_RANDOM_SHUFFLE, .step = 1, .slot = (uint32_t)rank};
    return stm_random_uniform(&key) < 0.5 ? 600 : 60;
}

static bool breaks; /* the highest rank, in its second call */

static stm_status slow_attend(stm_stream *stream, const stm_attend *args)
{
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    const stm_random_key key = {.seed = run, .use = STM_RANDOM_SHUFFLE, .slot = (uint32_t)rank, .token = n_calls++};
    const double x = stm_random_uniform(&key);
    if (breaks && n_calls == 2 && rank == world_size() - 1)
        return stm_fail(STM_ERR_DEVICE, "the device is gone");
    if (run > 0 && x < 0.3)
        usleep((useconds_t)(x / 0.3 * most_us(rank)));
    return args->d_o ? stm_backend_cpu_f64.attend_backward(stream, args) : stm_backend_cpu_f64.attend(stream, args);
}

typedef struct {
    stm_stream *stream;
    stm_model *model;
} fixture;

static void set_up_deep(fixture *f, stm_test_config config, size_t n_layers)
{
    stm_model_config deep = stm_test_configs[config];
    deep.n_layers = n_layers;
    slow = stm_backend_cpu_f64;
    slow.attend = slow.attend_backward = slow_attend;
    assert_ok(slow.open(1, &f->stream));
    f->model = stm_test_model(&slow, f->stream, &deep, 5);
}

static void set_up(fixture *f, stm_test_config config)
{
    set_up_deep(f, config, stm_test_configs[config].n_layers);
}

static void tear_down(fixture *f)
{
    stm_model_destroy(f->model);
    slow.close(f->stream);
}

/* Case c of many: how the forest is cut, placed and kept. */
static void draw_options(uint64_t c, int n_ranks, stm_options *options)
{
    static const char *const chunk[] = {"2048", "5", "16", "40", "64", "1"};
    static const char *const recompute[] = {"auto", "always", "never"};
    static const char *const pieces[] = {"4096", "7", "23"};
    static const char *const shared[] = {"16", "1", "3"};
    static const char *const in_flight[] = {"2", "1", "7"};
    static const char *const forward[] = {"tree", "prompt"};
    char text[7][64];
    const char *overrides[7];
    uint32_t n = 0;
#define DRAW(count) ((size_t)(stm_random_uniform(&(stm_random_key){.seed = c, .token = n++}) * (double)(count)))
    snprintf(text[0], sizeof text[0], "memory.chunk_tokens=%s", chunk[DRAW(6)]);
    snprintf(text[1], sizeof text[1], "memory.recompute=%s", recompute[DRAW(3)]);
    snprintf(text[2], sizeof text[2], "memory.max_segment_tokens=%s", pieces[DRAW(3)]);
    snprintf(text[3], sizeof text[3], "tree.min_shared_tokens=%s", shared[DRAW(3)]);
    snprintf(text[4], sizeof text[4], "parallel.prefixes_in_flight=%s", in_flight[DRAW(3)]);
    snprintf(text[5], sizeof text[5], "--forward=%s", forward[DRAW(2)]);
    snprintf(text[6], sizeof text[6], "parallel.suffix=%zu", c % 3 == 0 ? 1 + DRAW(n_ranks) : (size_t)n_ranks);
#undef DRAW
    for (size_t i = 0; i < 7; i++)
        overrides[i] = text[i];
    stm_test_options(options, overrides, 7);
    stm_test_n_nodes = (int)(c % 4);
    options->parallel.shared_kv = c % 7 == 6 ? STM_SHARED_KV_OFF : STM_SHARED_KV_AUTO;
}

enum { N_CASES = 36 };

static void teams_find_what_one_rank_finds(void **state)
{
    (void)state;
    static const char *const plain[] = {"--forward=repeated"};
    fixture f;
    set_up(&f, STM_TEST_LLAMA);
    run = 0;
    for (uint64_t c = 0; c < N_CASES; c++) {
        stm_batch batch;
        stm_options alone, together;
        stm_test_result a, b;
        stm_scores d, e;
        stm_test_batch(c, 1 + c % 5, f.model->config.vocab_size, &batch);
        stm_test_options(&alone, plain, 1);
        draw_options(c, world_size(), &together);
        stm_test_gradient(MPI_COMM_SELF, f.model, &batch, &alone, &a);
        stm_test_gradient(MPI_COMM_WORLD, f.model, &batch, &together, &b);
        assert_near(b.loss, a.loss, 1e-12);
        assert_true(stm_test_gradient_difference(f.model, b.gradient, a.gradient) < 1e-12);
        stm_test_scores(MPI_COMM_SELF, f.model, &batch, &alone, &d);
        stm_test_scores(MPI_COMM_WORLD, f.model, &batch, &together, &e);
        assert_true(stm_relative_difference(e.logp, d.logp, d.n_tokens) < 1e-12);
        assert_true(stm_relative_difference(e.entropy, d.entropy, d.n_tokens) < 1e-12);
        stm_scores_clear(&d);
        stm_scores_clear(&e);
        stm_test_result_clear(&a);
        stm_test_result_clear(&b);
        stm_options_clear(&alone);
        stm_options_clear(&together);
        stm_batch_clear(&batch);
    }
    tear_down(&f);
}

/* Case c on the ranks of comm: on time, late in several ways, and late where no message leaves before its receive. */
static void compare_bits(MPI_Comm comm, const fixture *f, uint64_t c, const stm_options *options)
{
    enum { N_RUNS = 4 };
    const bool synchronous = stm_test_messages_are_synchronous();
    stm_batch batch;
    stm_test_result first, again;
    stm_test_batch(c, 1 + c % 4, f->model->config.vocab_size, &batch);
    run = 0;
    stm_test_gradient(comm, f->model, &batch, options, &first);
    for (run = 1; run <= N_RUNS; run++) {
        if (run == N_RUNS)
            stm_test_messages_synchronize(!synchronous);
        stm_test_gradient(comm, f->model, &batch, options, &again);
        assert_true(again.loss == first.loss);
        assert_memory_equal(again.gradient, first.gradient, f->model->n_parameters * sizeof(double));
        stm_test_result_clear(&again);
    }
    stm_test_messages_synchronize(synchronous);
    stm_test_result_clear(&first);
    stm_batch_clear(&batch);
}

static void being_late_changes_no_bit(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, STM_TEST_QWEN3);
    for (uint64_t c = 0; c < N_CASES / 3; c++) {
        stm_options options;
        draw_options(c, world_size(), &options);
        compare_bits(MPI_COMM_WORLD, &f, c, &options);
        stm_options_clear(&options);
    }
    tear_down(&f);
}

/* Case c in a pipeline of all the ranks that its stages have alike, with one replica or two; the others do nothing. */
static void compare_bits_of_stages(const fixture *f, int n_stages, int n_teams, uint64_t c)
{
    const int stage_size = world_size() / n_stages;
    int rank;
    MPI_Comm used;
    stm_options options;
    if (stage_size < n_teams)
        return;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_split(MPI_COMM_WORLD, rank < stage_size * n_stages ? 0 : MPI_UNDEFINED, rank, &used);
    if (used == MPI_COMM_NULL)
        return;
    draw_options(c, world_size(), &options);
    options.parallel.pipeline = n_stages;
    options.parallel.replica = n_teams;
    options.parallel.suffix = stage_size % n_teams == 0 ? stage_size / n_teams : STM_AUTO;
    compare_bits(used, f, c, &options);
    stm_options_clear(&options);
    MPI_Comm_free(&used);
}

static void a_late_stage_changes_no_bit(void **state)
{
    (void)state;
    fixture f;
    set_up_deep(&f, STM_TEST_QWEN3, 5);
    for (uint64_t c = 0; c < N_CASES / 6; c++)
        for (int n_stages = 2; n_stages <= 3; n_stages++)
            for (int n_teams = 1; n_teams <= 2; n_teams++)
                compare_bits_of_stages(&f, n_stages, n_teams, N_CASES + 4 * c + (uint64_t)(2 * n_stages + n_teams));
    tear_down(&f);
}

/* K and V of all segments, in the order of the forest: the caller frees. */
static double *prompt_kv(MPI_Comm comm, const fixture *f, const stm_batch *batch, const stm_options *options, size_t *n)
{
    stm_grid grid;
    stm_engine *engine;
    const stm_pass *pass;
    const stm_model_config *config = &f->model->config;
    size_t groups[8], most = 0;
    double *kv;
    int n_ranks;
    MPI_Comm_size(comm, &n_ranks);
    assert_ok(stm_grid_create(comm, &(stm_axes){1, n_ranks, 1}, batch->n_groups, &grid));
    stm_test_play_nodes(&grid);
    assert_ok(stm_engine_create(f->model, &grid, options, 0, &engine));
    for (size_t g = 0; g < batch->n_groups; g++) {
        groups[g] = g;
        most += batch->groups[g].n_prompt * 2 * config->n_layers * config->n_kv_heads * config->head_dim;
    }
    assert_ok(stm_alloc(most, sizeof *kv, &kv));
    assert_ok(stm_engine_prefill(engine, batch, groups, batch->n_groups, &pass));
    *n = 0;
    for (size_t s = 0; s < pass->forest->n_segments; s++)
        for (size_t l = 0; l < config->n_layers; l++)
            for (size_t h = 0; h < 2 * config->n_kv_heads; h++) {
                const stm_place *place = &pass->places[s];
                const double *at = stm_chunk_kv(pass, place->chunk, l);
                const size_t reals = pass->forest->segments[s].n_rows * config->head_dim;
                memcpy(kv + *n, at + (h * stm_chunk_n_rows(place->chunk) + place->first_row) * config->head_dim,
                       reals * sizeof *kv);
                *n += reals;
            }
    stm_engine_release(engine);
    stm_engine_destroy(engine);
    stm_grid_destroy(&grid);
    return kv;
}

static void every_rank_has_the_prompts_to_sample_from(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, STM_TEST_LLAMA);
    for (uint64_t c = 0; c < N_CASES / 3; c++) {
        stm_batch batch;
        stm_options options;
        size_t n, n_alone;
        stm_test_batch(c, 1 + c % 7, f.model->config.vocab_size, &batch);
        draw_options(c, world_size(), &options);
        run = c;
        double *together = prompt_kv(MPI_COMM_WORLD, &f, &batch, &options, &n);
        double *alone = prompt_kv(MPI_COMM_SELF, &f, &batch, &options, &n_alone);
        assert_int_equal(n, n_alone);
        assert_true(stm_relative_difference(together, alone, n) < 1e-12);
        free(together);
        free(alone);
        stm_options_clear(&options);
        stm_batch_clear(&batch);
    }
    tear_down(&f);
}

/* Numbers that are none are data: each rank goes on to the end and says so. */
static void what_is_not_a_number_stops_nobody(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, STM_TEST_LLAMA);
    const stm_parameter *norm = stm_test_parameter(f.model, "model.layers.1.input_layernorm.weight");
    ((double *)f.model->weights)[norm->offset] = NAN;
    for (uint64_t c = 0; c < 6; c++) {
        stm_batch batch;
        stm_options options;
        stm_grid grid;
        stm_engine *engine;
        stm_scores scores;
        stm_test_batch(c, 1 + c % 4, f.model->config.vocab_size, &batch);
        draw_options(c, world_size(), &options);
        assert_ok(stm_grid_create(MPI_COMM_WORLD, &(stm_axes){1, world_size(), 1}, batch.n_groups, &grid));
        assert_ok(stm_engine_create(f.model, &grid, &options, 0, &engine));
        assert_int_equal(stm_score_batch(engine, &grid, &batch, &scores), STM_ERR_NUMERIC);
        assert_non_null(strstr(stm_failure(), "are not finite numbers"));
        stm_scores_clear(&scores);
        stm_engine_destroy(engine);
        stm_grid_destroy(&grid);
        stm_options_clear(&options);
        stm_batch_clear(&batch);
    }
    tear_down(&f);
}

/* Run alone, by name: a rank that fails in the middle ends the run, for the others wait for it. */
static void a_device_that_fails_ends_the_run(void **state)
{
    (void)state;
    static const char *const overrides[] = {"memory.chunk_tokens=16"};
    fixture f;
    stm_batch batch;
    stm_options options;
    stm_test_result result;
    set_up(&f, STM_TEST_LLAMA);
    stm_test_batch(2, 3, f.model->config.vocab_size, &batch);
    stm_test_options(&options, overrides, 1);
    options.parallel.suffix = world_size();
    breaks = true;
    stm_test_gradient(MPI_COMM_WORLD, f.model, &batch, &options, &result);
    fail_msg("the run went on");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest failure[] = {cmocka_unit_test(a_device_that_fails_ends_the_run)};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(teams_find_what_one_rank_finds),
        cmocka_unit_test(being_late_changes_no_bit),
        cmocka_unit_test(a_late_stage_changes_no_bit),
        cmocka_unit_test(every_rank_has_the_prompts_to_sample_from),
        cmocka_unit_test(what_is_not_a_number_stops_nobody),
    };
    if (argc > 1 && strcmp(argv[1], "failure") == 0)
        return stm_mpi_tests(1, argv, failure, 1);
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
