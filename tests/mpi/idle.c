/* More ranks than groups: who has nothing to compute of a gradient sums it, all the same, while others compute. */
#include <unistd.h>

#include "model/stages.h"
#include "mpi/collectives.h"
#include "mpi/reduction.h"
#include "support/batch.h"
#include "support/model.h"
#include "support/mpi.h"
#include "train/optimizer.h"

enum { N_LAYERS = 5, BUCKET = 1000, PATIENCE_S = 8 };

typedef struct {
    stm_stream *stream;
    stm_model *model;
    stm_batch batch;
    stm_options options;
    stm_test_result alone;
} fixture;

static stm_backend waiting; /* float64; the embedding's backward, the last of a chunk, waits for what is before it */
static stm_reduction *reduction;
static size_t n_to_sum, n_calls, n_summed_meanwhile;

/* Returns how many buckets are summed, soon all that are asked for. */
static size_t wait_for_sums(void)
{
    const double end_s = stm_now_s() + PATIENCE_S;
    while (stm_reduction_n_done(reduction) < n_to_sum && stm_now_s() < end_s) {
        stm_reduction_drive(reduction);
        usleep(100);
    }
    return stm_reduction_n_done(reduction);
}

static stm_status embed_backward_waits(stm_stream *stream, const stm_embed *args)
{
    n_calls++;
    if (reduction)
        n_summed_meanwhile = wait_for_sums();
    return stm_backend_cpu_f64.embed_backward(stream, args);
}

/* One group of one response, in one chunk: a single rank of each stage computes. */
static void set_up(fixture *f)
{
    static const char *const overrides[] = {"--forward=repeated", "memory.chunk_tokens=2048"};
    stm_model_config deep = stm_test_configs[STM_TEST_LLAMA];
    deep.n_layers = N_LAYERS;
    waiting = stm_backend_cpu_f64;
    waiting.embed_backward = embed_backward_waits;
    assert_ok(waiting.open(1, &f->stream));
    f->model = stm_test_model(&waiting, f->stream, &deep, 5);
    stm_test_batch_of(3, (const size_t[]){1}, 1, deep.vocab_size, &f->batch);
    stm_test_options(&f->options, overrides, 2);
    stm_test_gradient(MPI_COMM_SELF, f->model, &f->batch, &f->options, &f->alone);
}

static void tear_down(fixture *f)
{
    stm_test_result_clear(&f->alone);
    stm_options_clear(&f->options);
    stm_batch_clear(&f->batch);
    stm_model_destroy(f->model);
    waiting.close(f->stream);
}

/* Buckets that are whole when all layers have gone back. */
static size_t n_behind_embedding(const stm_model *model, const stm_shards *shards)
{
    size_t n = 0;
    for (size_t i = 0; i < stm_shards_n_ranges(shards); i++)
        n += stm_shards_bucket(shards, i) >= model->layers[model->first_layer].input_norm;
    return n;
}

static void expect_owned(const fixture *f, const stm_shards *shards, int rank, const double *gradient)
{
    double largest = 0;
    for (size_t i = 0; i < f->model->n_parameters; i++)
        largest = fmax(largest, fabs(f->alone.gradient[i]));
    for (size_t i = 0; i < stm_shards_n_ranges(shards); i++) {
        size_t first, n;
        stm_shards_range(shards, rank, i, &first, &n);
        for (size_t k = first; k < first + n; k++)
            assert_true(fabs(gradient[k] - f->alone.gradient[k]) <= 1e-12 * largest);
    }
}

static void gradient_on(MPI_Comm comm, fixture *f, int n_stages)
{
    stm_grid grid;
    stm_engine *engine;
    stm_objective_sums sums;
    stm_model stage = *f->model;
    void *gradient;
    assert_ok(stm_grid_create(comm, &(stm_axes){n_stages, 1, STM_AUTO}, 9, &grid));
    stm_model_hold_stage(&stage, (size_t)n_stages, (size_t)grid.stage);
    f->options.parallel.pipeline = n_stages;
    assert_ok(stm_engine_create(&stage, &grid, &f->options, 0, &engine));
    assert_ok(stm_model_array_create(&stage, &gradient));
    assert_ok(stm_model_array_zero(&stage, gradient));
    const stm_shards shards = stm_optimizer_cut(&stage, grid.stage_size, BUCKET);
    assert_ok(stm_reduction_create(grid.stage_comm, &shards, sizeof(double), NULL, &reduction));
    n_to_sum = n_behind_embedding(&stage, &shards);
    assert_true(n_to_sum > 8); /* more than may be under way at a time */

    n_calls = 0;
    stm_reduction_begin(reduction, gradient);
    stm_engine_settings_of(engine)->reduction = reduction;
    assert_ok(stm_objective_gradient(engine, &grid, &f->batch, stm_objective_find(f->options.objective.name),
                                     &f->options.objective, gradient, &sums));
    assert_int_equal(n_calls, grid.rank == 0);
    assert_true(n_calls == 0 || n_summed_meanwhile >= n_to_sum);
    assert_true(wait_for_sums() >= n_to_sum); /* the idle ranks have theirs, too */
    stm_reduction_finish(reduction);
    expect_owned(f, &shards, grid.stage_rank, gradient);

    stm_reduction_destroy(reduction);
    reduction = NULL;
    stm_model_array_destroy(&stage, gradient);
    stm_engine_destroy(engine);
    stm_grid_destroy(&grid);
}

static void who_is_idle_sums_while_others_compute(void **state)
{
    (void)state;
    fixture f;
    int n_ranks;
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    set_up(&f);
    for (int n_stages = 1; n_stages <= STM_MIN(2, n_ranks); n_stages++) {
        MPI_Comm used = stm_mpi_ranks_of_stages(n_stages);
        if (used == MPI_COMM_NULL)
            continue;
        gradient_on(used, &f, n_stages);
        MPI_Comm_free(&used);
    }
    tear_down(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_is_idle_sums_while_others_compute),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
