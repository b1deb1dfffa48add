/* Gradients and log-probs in float64 on every layout: pipeline x suffix x replica, against one rank that shares
 * nothing.
 */
#include "support/batch.h"
#include "support/model.h"
#include "support/mpi.h"

enum { N_GROUPS = 6, N_LAYERS = 5 };

typedef struct {
    stm_stream *stream;
    stm_model *model;
    stm_batch batch;
    stm_test_result alone;
    stm_scores scores;
} fixture;

static void set_up(fixture *f, stm_test_config config, uint64_t seed)
{
    static const char *const plain[] = {"--forward=repeated"};
    const stm_backend *backend = &stm_backend_cpu_f64;
    stm_model_config deep = stm_test_configs[config];
    stm_options options;
    deep.n_layers = N_LAYERS;
    assert_ok(backend->open(1, &f->stream));
    f->model = stm_test_model(backend, f->stream, &deep, 5);
    stm_test_batch(seed, N_GROUPS, f->model->config.vocab_size, &f->batch);
    stm_test_options(&options, plain, 1);
    stm_test_gradient(MPI_COMM_SELF, f->model, &f->batch, &options, &f->alone);
    stm_test_scores(MPI_COMM_SELF, f->model, &f->batch, &options, &f->scores);
    stm_options_clear(&options);
}

static void tear_down(fixture *f)
{
    const stm_backend *backend = f->model->backend;
    stm_test_result_clear(&f->alone);
    stm_scores_clear(&f->scores);
    stm_batch_clear(&f->batch);
    stm_model_destroy(f->model);
    backend->close(f->stream);
}

/* The same on the ranks of comm, under the overrides. */
static void compare_on(MPI_Comm comm, const fixture *f, const int64_t *axes, const char *const *overrides, size_t n)
{
    stm_options options;
    stm_test_result together;
    stm_scores scores;
    stm_test_options(&options, overrides, n);
    options.parallel.pipeline = axes[0];
    options.parallel.suffix = axes[1];
    options.parallel.replica = axes[2];
    stm_test_gradient(comm, f->model, &f->batch, &options, &together);
    assert_near(together.loss, f->alone.loss, 1e-12);
    assert_near(together.sums.n_tokens, f->alone.sums.n_tokens, 1e-15);
    assert_true(stm_test_gradient_difference(f->model, together.gradient, f->alone.gradient) < 1e-12);
    stm_test_scores(comm, f->model, &f->batch, &options, &scores);
    assert_true(stm_relative_difference(scores.logp, f->scores.logp, scores.n_tokens) < 1e-12);
    assert_true(stm_relative_difference(scores.entropy, f->scores.entropy, scores.n_tokens) < 1e-12);
    stm_test_result_clear(&together);
    stm_scores_clear(&scores);
    stm_options_clear(&options);
}

/* On every pipeline x suffix x replica that the world has ranks for; those left over do nothing. */
static void compare(const fixture *f, const char *const *overrides, size_t n)
{
    static const int pipelines[] = {1, 2, 3, 5};
    int rank, n_ranks;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    for (size_t i = 0; i < sizeof pipelines / sizeof *pipelines; i++)
        for (int replica = 1; replica <= 2; replica++) {
            const int stage_size = n_ranks / pipelines[i];
            if (stage_size < replica)
                continue;
            MPI_Comm used;
            const bool takes_part = rank < stage_size * pipelines[i];
            MPI_Comm_split(MPI_COMM_WORLD, takes_part ? 0 : MPI_UNDEFINED, rank, &used);
            if (!takes_part)
                continue;
            for (stm_test_n_nodes = 0; stm_test_n_nodes <= 2 && stm_test_n_nodes < stage_size; stm_test_n_nodes++)
                compare_on(used, f, (const int64_t[]){pipelines[i], STM_AUTO, replica}, overrides, n);
            stm_test_n_nodes = 0;
            MPI_Comm_free(&used);
        }
}

#define COMPARE(f, ...)                                                                                                \
    compare(f, (const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

static void every_layout_gives_the_same_by_every_forward(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, STM_TEST_LLAMA, 3);
    COMPARE(&f, "--forward=tree");
    COMPARE(&f, "--forward=prompt", "memory.chunk_tokens=64");
    COMPARE(&f, "--forward=repeated", "memory.chunk_tokens=64");
    tear_down(&f);
}

static void every_layout_gives_the_same_however_chunks_are_cut(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, STM_TEST_QWEN3, 4);
    COMPARE(&f, "memory.chunk_tokens=7", "memory.recompute=always");
    COMPARE(&f, "memory.chunk_tokens=40", "memory.recompute=never", "memory.max_segment_tokens=11");
    COMPARE(&f, "memory.chunk_tokens=16", "memory.recompute=always", "parallel.prefixes_in_flight=1");
    COMPARE(&f, "memory.chunk_tokens=50", "parallel.prefixes_in_flight=7", "tree.min_shared_tokens=3");
    tear_down(&f);
}

static void a_tied_model_gives_the_same(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, STM_TEST_LLAMA_TIED, 5);
    COMPARE(&f, "memory.chunk_tokens=30");
    COMPARE(&f, "memory.chunk_tokens=30", "parallel.shared_kv=off");
    tear_down(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_gives_the_same_by_every_forward),
        cmocka_unit_test(every_layout_gives_the_same_however_chunks_are_cut),
        cmocka_unit_test(a_tied_model_gives_the_same),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
