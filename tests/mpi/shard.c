/* parallel.shard: gradients that are summed chunk by chunk into shards (mpi/rounds.h), on every layout, against one
 * rank that has them whole; and the bits from run to run. */
#include "model/stages.h"
#include "support/batch.h"
#include "support/layouts.h"
#include "support/model.h"
#include "support/mpi.h"
#include "train/optimizer.h"

enum { N_LAYERS = 5 };
static const size_t group_sizes[] = {3, 7, 1, 16, 3, 1, 7};
enum { N_GROUPS = sizeof group_sizes / sizeof *group_sizes };

typedef struct {
    stm_stream *stream;
    stm_model *model;
    stm_batch batch;
    stm_test_result alone;
} fixture;

static void set_up(fixture *f, stm_test_config config, uint64_t seed)
{
    stm_model_config deep = stm_test_configs[config];
    stm_options options;
    deep.n_layers = N_LAYERS;
    assert_ok(stm_backend_cpu_f64.open(1, &f->stream));
    f->model = stm_test_model(&stm_backend_cpu_f64, f->stream, &deep, 5);
    stm_test_batch_of(seed, group_sizes, N_GROUPS, f->model->config.vocab_size, &f->batch);
    stm_test_options(&options, NULL, 0);
    stm_test_gradient(MPI_COMM_SELF, f->model, &f->batch, &options, &f->alone);
    stm_options_clear(&options);
}

static void tear_down(fixture *f)
{
    stm_test_result_clear(&f->alone);
    stm_batch_clear(&f->batch);
    stm_model_destroy(f->model);
    stm_backend_cpu_f64.close(f->stream);
}

/* The shards of all ranks of all stages, in their places. */
static double *gather(const stm_optimizer *optimizer, const stm_grid *grid, size_t n)
{
    double *whole;
    size_t packed = 0;
    assert_ok(stm_alloc(n, sizeof *whole, &whole));
    memset(whole, 0, n * sizeof *whole);
    for (size_t i = 0; i < stm_shards_n_ranges(&optimizer->shards); i++) {
        size_t first, n_here;
        stm_shards_range(&optimizer->shards, grid->stage_rank, i, &first, &n_here);
        memcpy(whole + first, (double *)optimizer->exp_avg + packed, n_here * sizeof *whole);
        packed += n_here;
    }
    stm_all_reduce(grid->world, whole, n, sizeof *whole);
    return whole;
}

/* The summed gradient: AdamW's first moment, where it forgets all else, and weights stay. */
static double *gradient_by(MPI_Comm comm, const fixture *f, const stm_options *options, size_t bucket_n, int n_updates)
{
    stm_grid grid;
    stm_model stage = *f->model;
    stm_optimizer optimizer;
    stm_update_counts counts;
    const int64_t n_stages = options->parallel.pipeline;
    assert_ok(stm_grid_create(comm, &(stm_axes){n_stages, options->parallel.suffix, options->parallel.replica},
                              N_GROUPS, &grid));
    stm_test_play_nodes(&grid);
    stm_model_hold_stage(&stage, (size_t)n_stages, (size_t)grid.stage);
    stm_policy policy = {.options = options, .model = &stage, .grid = &grid};
    assert_ok(stm_engine_create(&stage, &grid, options, 0, &policy.engine));
    assert_ok(stm_optimizer_create(&stage, &grid, options->parallel.shard, bucket_n, &optimizer));
    for (int i = 0; i < n_updates; i++) {
        assert_ok(stm_optimizer_update(&optimizer, &policy, &f->batch, stm_objective_find(options->objective.name),
                                       &options->objective, 0, &counts));
        assert_false(counts.skipped);
        assert_near(counts.sums.loss, f->alone.loss, 1e-12);
    }
    double *whole = gather(&optimizer, &grid, f->model->n_parameters);
    stm_optimizer_destroy(&optimizer, &stage);
    stm_engine_destroy(policy.engine);
    stm_grid_destroy(&grid);
    return whole;
}

static void compare_on(MPI_Comm comm, const void *context, const int64_t *axes, const char *const *overrides, size_t n)
{
    const fixture *f = context;
    stm_options options;
    const stm_parameter *worst;
    stm_test_options(&options, overrides, n);
    options.parallel.pipeline = axes[0];
    options.parallel.suffix = axes[1];
    options.parallel.replica = axes[2];
    options.parallel.shard = STM_SHARD_GRADIENT;
    options.optim.betas[0] = options.optim.clip = 0;
    double *once = gradient_by(comm, f, &options, 1000, 1), *again = gradient_by(comm, f, &options, 1000, 2);
    const double difference = stm_test_worst_tensor(f->model, once, f->alone.gradient, &worst);
    if (!(difference < 1e-12))
        fail_msg("pipeline %d, suffix %d, replica %d, %s: %s differs by %.3g", (int)axes[0], (int)axes[1], (int)axes[2],
                 n > 0 ? overrides[0] : "", worst->name, difference);
    assert_memory_equal(once, again, f->model->n_parameters * sizeof *once);
    free(again);
    again = gradient_by(comm, f, &options, 77, 1); /* another cut, the same sums */
    assert_true(stm_test_worst_tensor(f->model, again, f->alone.gradient, &worst) < 1e-12);
    free(once);
    free(again);
}

static const int pipelines[] = {1, 2, 5};
static const stm_test_layouts layouts = {compare_on, pipelines, sizeof pipelines / sizeof *pipelines, 2};

static void sums_in_shards_are_those_of_one_rank(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, STM_TEST_LLAMA, 3);
    STM_TEST_ON_LAYOUTS(&layouts, &f, "memory.chunk_tokens=7", "memory.recompute=always");
    STM_TEST_ON_LAYOUTS(&layouts, &f, "memory.chunk_tokens=40", "memory.recompute=never",
                        "memory.max_segment_tokens=11");
    STM_TEST_ON_LAYOUTS(&layouts, &f, "memory.chunk_tokens=50", "parallel.prefixes_in_flight=7",
                        "tree.min_shared_tokens=3");
    tear_down(&f);
}

static void pieces_of_prompts_that_go_round_wait_in_no_circle(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, STM_TEST_QWEN2, 4);
    STM_TEST_ON_LAYOUTS(&layouts, &f, "parallel.context=on", "memory.max_segment_tokens=5", "memory.chunk_tokens=20");
    STM_TEST_ON_LAYOUTS(&layouts, &f, "parallel.context=on", "memory.max_segment_tokens=3",
                        "parallel.prefixes_in_flight=1");
    tear_down(&f);
}

static void a_tied_matrix_is_summed_once(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, STM_TEST_LLAMA_TIED, 5);
    STM_TEST_ON_LAYOUTS(&layouts, &f, "memory.chunk_tokens=30");
    tear_down(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_in_shards_are_those_of_one_rank),
        cmocka_unit_test(pieces_of_prompts_that_go_round_wait_in_no_circle),
        cmocka_unit_test(a_tied_matrix_is_summed_once),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
