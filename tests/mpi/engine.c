/* The engine at any number of ranks: log-probs, loss and gradients do not depend on what is shared, how it is cut, or
 * who computes it. The reference is one rank that shares nothing. */
#include "support/batch.h"
#include "support/model.h"
#include "support/mpi.h"

enum { N_GROUPS = 9 };

typedef struct {
    stm_stream *stream;
    stm_model *model;
    stm_batch batch;
} fixture;

static void set_up(fixture *f, stm_test_config config, const stm_backend *backend)
{
    assert_ok(backend->open(1, &f->stream));
    f->model = stm_test_model(backend, f->stream, &stm_test_configs[config], 5);
    stm_test_batch(3, N_GROUPS, f->model->config.vocab_size, &f->batch);
}

static void tear_down(fixture *f)
{
    const stm_backend *backend = f->model->backend;
    stm_batch_clear(&f->batch);
    stm_model_destroy(f->model);
    backend->close(f->stream);
}

/* Gradients and scores under the overrides on all ranks, against one rank under `--forward=repeated`. */
static void compare(const fixture *f, const char *const *overrides, size_t n, double tolerance)
{
    static const char *const plain[] = {"--forward=repeated"};
    stm_options alone, together;
    stm_test_options(&alone, plain, 1);
    stm_test_options(&together, overrides, n);
    stm_test_result a, b;
    stm_test_gradient(MPI_COMM_SELF, f->model, &f->batch, &alone, &a);
    stm_test_gradient(MPI_COMM_WORLD, f->model, &f->batch, &together, &b);
    assert_near(b.loss, a.loss, tolerance);
    assert_near(b.sums.n_tokens, a.sums.n_tokens, 1e-15);
    assert_near(b.sums.kl_k3, a.sums.kl_k3, tolerance);
    assert_true(stm_test_gradient_difference(f->model, b.gradient, a.gradient) < tolerance);
    stm_test_result_clear(&a);
    stm_test_result_clear(&b);
    stm_scores c, d;
    stm_test_scores(MPI_COMM_SELF, f->model, &f->batch, &alone, &c);
    stm_test_scores(MPI_COMM_WORLD, f->model, &f->batch, &together, &d);
    assert_true(stm_relative_difference(d.logp, c.logp, c.n_tokens) < tolerance);
    assert_true(stm_relative_difference(d.entropy, c.entropy, c.n_tokens) < tolerance);
    stm_scores_clear(&c);
    stm_scores_clear(&d);
    stm_options_clear(&alone);
    stm_options_clear(&together);
}

#define COMPARE(f, tolerance, ...)                                                                                     \
    compare(f, (const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *),        \
            tolerance)

static void every_architecture_gives_the_same_by_tree_prompt_and_repetition(void **state)
{
    (void)state;
    for (stm_test_config config = 0; config < STM_TEST_N_CONFIGS; config++) {
        fixture f;
        set_up(&f, config, &stm_backend_cpu_f64);
        COMPARE(&f, 1e-12, "--forward=tree");
        COMPARE(&f, 1e-12, "--forward=prompt");
        COMPARE(&f, 1e-12, "--forward=repeated");
        tear_down(&f);
    }
}

static void chunks_chains_and_recomputation_change_nothing(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, STM_TEST_QWEN3, &stm_backend_cpu_f64);
    COMPARE(&f, 1e-12, "memory.chunk_tokens=1");
    COMPARE(&f, 1e-12, "memory.chunk_tokens=7", "memory.recompute=always");
    COMPARE(&f, 1e-12, "memory.chunk_tokens=40", "memory.recompute=never", "memory.max_segment_tokens=11");
    COMPARE(&f, 1e-12, "memory.chunk_tokens=64", "tree.min_shared_tokens=1");
    COMPARE(&f, 1e-12, "memory.chunk_tokens=64", "tree.across_groups=false", "--forward=tree");
    COMPARE(&f, 1e-12, "memory.chunk_tokens=33", "--forward=prompt");
    tear_down(&f);
}

static void teams_of_any_size_give_the_same(void **state)
{
    (void)state;
    int n_ranks;
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    fixture f;
    set_up(&f, STM_TEST_LLAMA, &stm_backend_cpu_f64);
    for (int suffix = 1; suffix <= n_ranks; suffix++) {
        char text[64];
        snprintf(text, sizeof text, "parallel.suffix=%d", suffix);
        COMPARE(&f, 1e-12, text);
        COMPARE(&f, 1e-12, text, "memory.chunk_tokens=16", "memory.recompute=always", "parallel.prefixes_in_flight=1");
        COMPARE(&f, 1e-12, text, "memory.chunk_tokens=50", "parallel.prefixes_in_flight=7", "tree.min_shared_tokens=3");
        COMPARE(&f, 1e-12, text, "--forward=prompt");
        COMPARE(&f, 1e-12, text, "--forward=repeated");
    }
    tear_down(&f);
}

static void single_precision_agrees_to_its_own_tolerance(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, STM_TEST_LLAMA, &stm_backend_cpu_f32);
    COMPARE(&f, 1e-5, "--forward=tree");
    COMPARE(&f, 1e-5, "--forward=prompt", "memory.chunk_tokens=64");
    tear_down(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_architecture_gives_the_same_by_tree_prompt_and_repetition),
        cmocka_unit_test(chunks_chains_and_recomputation_change_nothing),
        cmocka_unit_test(teams_of_any_size_give_the_same),
        cmocka_unit_test(single_precision_agrees_to_its_own_tolerance),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
