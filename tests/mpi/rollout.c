/* Rollouts at any number of ranks: the same tokens whoever draws them, and log-probs that scoring finds again. */
#include "rollout/rollout.h"
#include "support/batch.h"
#include "support/model.h"
#include "support/mpi.h"

enum { N_GROUPS = 5 };

typedef struct {
    stm_stream *stream;
    stm_model *model;
} fixture;

static void set_up(fixture *f, stm_test_config config, const stm_backend *backend)
{
    assert_ok(backend->open(1, &f->stream));
    f->model = stm_test_model(backend, f->stream, &stm_test_configs[config], 5);
}

static void tear_down(fixture *f)
{
    const stm_backend *backend = f->model->backend;
    stm_model_destroy(f->model);
    backend->close(f->stream);
}

/* The prompts of a ragged batch, without its responses. */
static void make_prompts(const fixture *f, stm_batch *batch)
{
    stm_test_batch(3, N_GROUPS, f->model->config.vocab_size, batch);
    for (size_t g = 0; g < batch->n_groups; g++) {
        stm_batch shell = {.n_groups = 1};
        assert_ok(stm_alloc(1, sizeof *shell.groups, &shell.groups));
        shell.groups[0] = batch->groups[g];
        assert_ok(stm_alloc(batch->groups[g].n_prompt, sizeof(int32_t), &batch->groups[g].prompt));
        memcpy(batch->groups[g].prompt, shell.groups[0].prompt, batch->groups[g].n_prompt * sizeof(int32_t));
        batch->groups[g].responses = NULL;
        batch->groups[g].n_responses = 0;
        stm_batch_clear(&shell);
    }
}

static void sample(MPI_Comm comm, const fixture *f, const char *const *overrides, size_t n, stm_batch *batch)
{
    stm_options options;
    stm_grid grid;
    stm_engine *engine;
    stm_sampling sampling;
    assert_ok(stm_options_init(&options));
    assert_ok(
        stm_options_read_arguments(&options, STM_COMMAND_GENERATE, (int)n, (char *const *)(void *)(size_t)overrides));
    make_prompts(f, batch);
    assert_ok(stm_grid_create(comm, &(stm_axes){1, options.parallel.suffix, options.parallel.replica}, batch->n_groups,
                              &grid));
    assert_ok(stm_engine_create(f->model, &grid, &options, 0, &engine));
    stm_sampling_init(&options, f->model, NULL, STM_RANDOM_GENERATE, 0, &sampling);
    assert_ok(stm_rollout(engine, f->model, &grid, &sampling, batch, NULL));
    stm_engine_destroy(engine);
    stm_grid_destroy(&grid);
    stm_options_clear(&options);
}

#define SAMPLE(comm, f, batch, ...)                                                                                    \
    sample(comm, f, (const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *),   \
           batch)

static void assert_same(const stm_batch *a, const stm_batch *b)
{
    assert_int_equal(a->n_groups, b->n_groups);
    for (size_t g = 0; g < a->n_groups; g++) {
        assert_int_equal(a->groups[g].n_responses, b->groups[g].n_responses);
        for (size_t i = 0; i < a->groups[g].n_responses; i++) {
            const stm_response *x = &a->groups[g].responses[i], *y = &b->groups[g].responses[i];
            assert_int_equal(x->n, y->n);
            assert_int_equal(x->finish, y->finish);
            assert_memory_equal(x->ids, y->ids, x->n * sizeof *x->ids);
            for (size_t k = 0; k < x->n; k++) {
                assert_near(x->old_logprobs[k], y->old_logprobs[k], 1e-12);
                assert_near(x->kept_mass[k], y->kept_mass[k], 1e-12);
            }
        }
    }
}

static void tokens_do_not_depend_on_ranks_slots_or_memory(void **state)
{
    (void)state;
    for (stm_test_config config = 0; config < STM_TEST_N_CONFIGS; config++) {
        fixture f;
        stm_batch alone, together;
        set_up(&f, config, &stm_backend_cpu_f64);
        SAMPLE(MPI_COMM_SELF, &f, &alone, "rollout.group_size=7", "rollout.max_new_tokens=19", "rollout.top_k=40");
        SAMPLE(MPI_COMM_WORLD, &f, &together, "rollout.group_size=7", "rollout.max_new_tokens=19", "rollout.top_k=40");
        assert_same(&alone, &together);
        stm_batch_clear(&together);
        SAMPLE(MPI_COMM_WORLD, &f, &together, "rollout.group_size=7", "rollout.max_new_tokens=19", "rollout.top_k=40",
               "rollout.slots=3", "memory.chunk_tokens=16", "tree.min_shared_tokens=2", "tree.across_groups=false");
        assert_same(&alone, &together);
        stm_batch_clear(&together);
        stm_batch_clear(&alone);
        tear_down(&f);
    }
}

static void teams_sample_the_same(void **state)
{
    (void)state;
    int n_ranks;
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    fixture f;
    stm_batch alone, together;
    set_up(&f, STM_TEST_LLAMA, &stm_backend_cpu_f64);
    SAMPLE(MPI_COMM_SELF, &f, &alone, "rollout.group_size=3", "rollout.max_new_tokens=11");
    for (int suffix = 1; suffix <= n_ranks; suffix++) {
        char text[64];
        snprintf(text, sizeof text, "parallel.suffix=%d", suffix);
        SAMPLE(MPI_COMM_WORLD, &f, &together, "rollout.group_size=3", "rollout.max_new_tokens=11", text);
        assert_same(&alone, &together);
        stm_batch_clear(&together);
    }
    stm_batch_clear(&alone);
    tear_down(&f);
}

/* Sampled log-probs against those of the engine that trains, per token. */
static void compare_with_scores(const fixture *f, const stm_batch *batch, double tolerance)
{
    stm_options options;
    stm_scores scores;
    stm_test_options(&options, NULL, 0);
    stm_test_scores(MPI_COMM_WORLD, f->model, batch, &options, &scores);
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++) {
            const stm_response *r = &batch->groups[g].responses[i];
            const double *logp = scores.logp + scores.first[scores.response_0[g] + i];
            for (size_t k = 0; k < r->n; k++)
                assert_true(fabs(logp[k] - r->old_logprobs[k]) < tolerance);
        }
    stm_scores_clear(&scores);
    stm_options_clear(&options);
}

static void scoring_finds_the_log_probs_that_sampling_recorded(void **state)
{
    (void)state;
    fixture f;
    stm_batch batch;
    set_up(&f, STM_TEST_QWEN3, &stm_backend_cpu_f64);
    SAMPLE(MPI_COMM_WORLD, &f, &batch, "rollout.temperature=0.6", "rollout.max_new_tokens=30");
    compare_with_scores(&f, &batch, 1e-11);
    stm_batch_clear(&batch);
    SAMPLE(MPI_COMM_WORLD, &f, &batch, "rollout.temperature=0",
           "rollout.max_new_tokens=12"); /* greedy: recorded at 1 */
    for (size_t i = 1; i < batch.groups[2].n_responses; i++)
        assert_memory_equal(batch.groups[2].responses[i].ids, batch.groups[2].responses[0].ids,
                            batch.groups[2].responses[0].n * sizeof(int32_t));
    compare_with_scores(&f, &batch, 1e-11);
    stm_batch_clear(&batch);
    tear_down(&f);
    set_up(&f, STM_TEST_LLAMA, &stm_backend_cpu_f32);
    SAMPLE(MPI_COMM_WORLD, &f, &batch, "rollout.max_new_tokens=40");
    compare_with_scores(&f, &batch, 1e-4); /* the promise for float32 */
    stm_batch_clear(&batch);
    tear_down(&f);
}

static void end_ids_end_a_response_unless_ignored_or_early(void **state)
{
    (void)state;
    fixture f;
    stm_batch batch;
    set_up(&f, STM_TEST_LLAMA, &stm_backend_cpu_f64);
    f.model->config.n_eos = 16;
    for (int i = 0; i < 16; i++)
        f.model->config.eos[i] = 3 * i;
    SAMPLE(MPI_COMM_WORLD, &f, &batch, "rollout.max_new_tokens=60", "rollout.min_new_tokens=4");
    size_t n_stopped = 0;
    for (size_t g = 0; g < batch.n_groups; g++)
        for (size_t i = 0; i < batch.groups[g].n_responses; i++) {
            const stm_response *r = &batch.groups[g].responses[i];
            const bool ends = r->ids[r->n - 1] % 3 == 0 && r->ids[r->n - 1] < 48;
            assert_true(r->n > 4);
            assert_int_equal(ends, r->finish == STM_FINISH_STOP);
            assert_true(ends || r->n == 60);
            for (size_t k = 0; k + 1 < r->n; k++)
                assert_false(r->ids[k] % 3 == 0 && r->ids[k] < 48);
            n_stopped += ends;
        }
    assert_true(n_stopped > 0);
    stm_batch_clear(&batch);
    SAMPLE(MPI_COMM_WORLD, &f, &batch, "rollout.max_new_tokens=10", "rollout.ignore_eos=true");
    for (size_t g = 0; g < batch.n_groups; g++)
        assert_int_equal(batch.groups[g].responses[0].n, 10);
    stm_batch_clear(&batch);
    tear_down(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_do_not_depend_on_ranks_slots_or_memory),
        cmocka_unit_test(teams_sample_the_same),
        cmocka_unit_test(scoring_finds_the_log_probs_that_sampling_recorded),
        cmocka_unit_test(end_ids_end_a_response_unless_ignored_or_early),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
