/* The neutral point of KTO (train/mismatched.h) on every layout, against log-probs of each pair by one rank. */
#include "train/mismatched.h"
#include "model/stages.h"
#include "support/batch.h"
#include "support/model.h"
#include "support/mpi.h"
#include "train/optimizer.h"

enum { N_GROUPS = 4 };

typedef struct {
    stm_stream *stream;
    stm_model *model;
    stm_options options;
    stm_batch batch;
} fixture;

static void set_up(fixture *f)
{
    *f = (fixture){0};
    stm_test_options(&f->options, NULL, 0);
    assert_ok(stm_backend_cpu_f64.open(1, &f->stream));
    f->model = stm_test_model(&stm_backend_cpu_f64, f->stream, &stm_test_configs[STM_TEST_LLAMA], 5);
    stm_test_batch(3, N_GROUPS, f->model->config.vocab_size, &f->batch);
}

static void tear_down(fixture *f)
{
    stm_batch_clear(&f->batch);
    stm_model_destroy(f->model);
    stm_backend_cpu_f64.close(f->stream);
    stm_options_clear(&f->options);
}

/* S of a response below a prompt, alone; *has_loss stays where it has some. */
static double sum_alone(fixture *f, const stm_group *prompt, const stm_response *response, bool *has_loss)
{
    stm_response copy = *response;
    stm_group group = *prompt;
    stm_scores scores;
    double sum = 0;
    group.n_responses = 1;
    group.responses = &copy;
    const stm_batch batch = {1, &group};
    stm_test_scores(MPI_COMM_SELF, f->model, &batch, &f->options, &scores);
    for (size_t k = 0; k < response->n; k++)
        if (response->mask[k]) {
            sum += scores.logp[k];
            *has_loss = true;
        }
    stm_scores_clear(&scores);
    return sum;
}

/* The mean of S over all pairs that fit, with the weights that the model has; *n: pairs. */
static double mean_alone(fixture *f, const stm_batch *batch, size_t *n)
{
    double sum = 0;
    *n = 0;
    for (size_t g = 0; g < batch->n_groups; g++) {
        const stm_group *prompt = &batch->groups[g], *from = &batch->groups[(g + 1) % batch->n_groups];
        for (size_t i = 0; i < from->n_responses; i++) {
            bool has_loss = false;
            if (prompt->n_prompt + from->responses[i].n > f->model->config.max_positions)
                continue;
            sum += sum_alone(f, prompt, &from->responses[i], &has_loss);
            *n += has_loss;
        }
    }
    return sum / (double)*n;
}

/* Each model's weights are random by a seed. */
static double estimate(fixture *f, MPI_Comm comm, int n_stages, uint64_t reference, uint64_t seed,
                       const stm_batch *batch)
{
    stm_grid grid;
    stm_parameter_set *set;
    stm_model stage = *f->model;
    double kl_point;
    assert_ok(stm_grid_create(comm, &(stm_axes){n_stages, STM_AUTO, STM_AUTO}, N_GROUPS, &grid));
    stm_model_hold_stage(&stage, (size_t)n_stages, (size_t)grid.stage);
    f->options.parallel.pipeline = n_stages;
    stm_policy policy = {.options = &f->options, .model = &stage, .grid = &grid};
    assert_ok(stm_model_randomize(f->model, reference));
    assert_ok(stm_engine_create(&stage, &grid, &f->options, 0, &policy.engine));
    assert_ok(stm_parameter_set_create(&stage, &grid, stm_optimizer_bucket(grid.stage_size), &set));
    assert_ok(stm_model_randomize(f->model, seed));
    assert_ok(stm_mismatched_kl(set, &policy, batch, &kl_point));
    stm_parameter_set_destroy(set);
    stm_engine_destroy(policy.engine);
    stm_grid_destroy(&grid);
    f->options.parallel.pipeline = 1;
    return kl_point;
}

static void it_is_the_mean_over_other_prompts(void **state)
{
    (void)state;
    static const uint64_t seeds[] = {5, 20};
    fixture f;
    double mean[2];
    size_t n;
    int rank, n_ranks;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    set_up(&f);
    for (size_t i = 0; i < 2; i++) {
        assert_ok(stm_model_randomize(f.model, seeds[i]));
        mean[i] = mean_alone(&f, &f.batch, &n);
    }
    assert_true(n > 10 && fabs(mean[1] - mean[0]) > 0.01);
    for (int n_stages = 1; n_stages <= STM_MIN(2, n_ranks); n_stages++) {
        const bool takes_part = rank < n_ranks / n_stages * n_stages;
        MPI_Comm used;
        MPI_Comm_split(MPI_COMM_WORLD, takes_part ? 0 : MPI_UNDEFINED, rank, &used);
        for (size_t i = 0; takes_part && i < 2; i++) { /* once above 0, and once held there */
            const double found = estimate(&f, used, n_stages, seeds[1 - i], seeds[i], &f.batch);
            assert_true(fabs(found - fmax(mean[i] - mean[1 - i], 0.0)) < 1e-10);
        }
        if (takes_part)
            MPI_Comm_free(&used);
    }
    tear_down(&f);
}

static void a_group_alone_has_no_other_prompt(void **state)
{
    (void)state;
    fixture f;
    set_up(&f);
    const stm_batch one = {1, f.batch.groups};
    assert_true(estimate(&f, MPI_COMM_WORLD, 1, 5, 20, &one) == 0.0);
    tear_down(&f);
}

/* Responses that the model has no positions for below the other prompt are left out. */
static void what_has_no_positions_is_left_out(void **state)
{
    (void)state;
    fixture f;
    size_t n_all, n, longest = 0;
    set_up(&f);
    assert_ok(stm_model_randomize(f.model, 5));
    const double all = mean_alone(&f, &f.batch, &n_all);
    for (size_t g = 0; g < N_GROUPS; g++) {
        const stm_group *group = &f.batch.groups[g], *next = &f.batch.groups[(g + 1) % N_GROUPS];
        for (size_t i = 0; i < next->n_responses; i++)
            longest = STM_MAX(longest, group->n_prompt + next->responses[i].n);
    }
    const size_t positions = f.model->config.max_positions;
    f.model->config.max_positions = longest - 1;
    const double start = mean_alone(&f, &f.batch, &n);
    assert_true(n < n_all && start != all);
    assert_ok(stm_model_randomize(f.model, 21));
    const double h = mean_alone(&f, &f.batch, &n) - start;
    assert_true(fabs(estimate(&f, MPI_COMM_WORLD, 1, 5, 21, &f.batch) - fmax(h, 0.0)) < 1e-10);
    f.model->config.max_positions = positions;
    tear_down(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_the_mean_over_other_prompts),
        cmocka_unit_test(a_group_alone_has_no_other_prompt),
        cmocka_unit_test(what_has_no_positions_is_left_out),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
