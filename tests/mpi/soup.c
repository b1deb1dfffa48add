/* The reference as an average of models (train/soup.h), on every layout: plain loops' average, and a policy that has
 * its weights back. */
#include "train/soup.h"

#include "model/stages.h"
#include "support/batch.h"
#include "support/model.h"
#include "support/mpi.h"
#include "train/optimizer.h"

enum { N_MODELS = 2, BUCKET = 1000 };

typedef struct {
    stm_options options;
    stm_stream *stream;
    stm_model *model; /* the policy, whole on every rank */
    double *weights[N_MODELS];
    char *folder, *paths[N_MODELS];
} fixture;

static stm_model *make_model(fixture *f, const stm_model_config *config, uint64_t seed)
{
    stm_model *model = stm_test_model(&stm_backend_cpu_f64, f->stream, config, 5);
    double *weights = model->weights;
    for (size_t i = 0; i < model->n_parameters; i++) /* exact in the files' float32 */
        weights[i] = (double)((int)((i * 7 + seed * 101) % 251) - 125) / 32;
    return model;
}

/* Collective. */
static void write_model(const fixture *f, const char *path, const stm_model *model)
{
    (void)f;
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (rank == 0)
        assert_ok(stm_model_export(model, path, "float32"));
    MPI_Barrier(MPI_COMM_WORLD);
}

static void set_up(fixture *f, stm_test_config which)
{
    *f = (fixture){.folder = stm_mpi_make_folder()};
    stm_test_options(&f->options, NULL, 0);
    assert_ok(stm_backend_cpu_f64.open(1, &f->stream));
    f->model = stm_test_model(&stm_backend_cpu_f64, f->stream, &stm_test_configs[which], 5);
    for (uint64_t i = 0; i < N_MODELS; i++) {
        stm_model *model = make_model(f, &stm_test_configs[which], i + 1);
        f->weights[i] = stm_test_weights(model);
        assert_ok(stm_format(&f->paths[i], "%s/%d", f->folder, (int)i));
        write_model(f, f->paths[i], model);
        stm_model_destroy(model);
    }
    f->options.reference.paths = (stm_strings){N_MODELS, f->paths};
}

static void tear_down(fixture *f)
{
    f->options.reference.paths = (stm_strings){0};
    f->options.reference.weights = (stm_numbers){0};
    for (size_t i = 0; i < N_MODELS; i++) {
        free(f->weights[i]);
        free(f->paths[i]);
    }
    stm_mpi_remove_folder(f->folder);
    stm_model_destroy(f->model);
    stm_backend_cpu_f64.close(f->stream);
    stm_options_clear(&f->options);
}

static void expect_average(const fixture *f, const stm_model *stage, double share)
{
    const double *found = stage->weights;
    for (size_t i = 0; i < 2; i++) {
        const stm_range held = stm_model_held(stage, i);
        for (size_t k = held.first; k < held.first + held.n; k++)
            assert_near(found[k], share * f->weights[0][k] + (1 - share) * f->weights[1][k], 1e-15);
    }
}

/* share: of the first model. */
static uint64_t form_on(MPI_Comm comm, fixture *f, int n_stages, double share)
{
    stm_grid grid;
    stm_parameter_set *set;
    uint64_t hash;
    stm_model stage = *f->model;
    assert_ok(stm_grid_create(comm, &(stm_axes){n_stages, STM_AUTO, STM_AUTO}, 4, &grid));
    stm_model_hold_stage(&stage, (size_t)n_stages, (size_t)grid.stage);
    stage.hash = 77;
    double *before = stm_test_weights(f->model);
    const stm_policy policy = {.options = &f->options, .model = &stage, .grid = &grid};
    assert_ok(stm_parameter_set_create(&stage, &grid, BUCKET, &set));
    assert_ok(stm_soup_form(&policy, BUCKET, set, &hash));
    assert_true(stage.hash == 77);
    assert_memory_equal(f->model->weights, before, f->model->n_parameters * sizeof *before);
    assert_ok(stm_parameter_set_exchange(set));
    expect_average(f, &stage, share);
    assert_ok(stm_parameter_set_exchange(set));
    assert_memory_equal(f->model->weights, before, f->model->n_parameters * sizeof *before);
    stm_parameter_set_destroy(set);
    stm_grid_destroy(&grid);
    free(before);
    return hash;
}

static void check(stm_test_config which)
{
    static double uneven[] = {0.5, 1.5};
    fixture f;
    int n_ranks;
    set_up(&f, which);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    for (int n_stages = 1; n_stages <= STM_MIN(2, n_ranks); n_stages++) {
        MPI_Comm used = stm_mpi_ranks_of_stages(n_stages);
        if (used == MPI_COMM_NULL)
            continue;
        f.options.reference.weights = (stm_numbers){0};
        const uint64_t even = form_on(used, &f, n_stages, 0.5);
        f.options.reference.weights = (stm_numbers){N_MODELS, uneven};
        const uint64_t other = form_on(used, &f, n_stages, 0.25);
        assert_true(even != 0 && other != 0 && even != other);
        assert_true(form_on(used, &f, n_stages, 0.25) == other);
        MPI_Comm_free(&used);
    }
    tear_down(&f);
}

static void a_soup_is_the_weighted_average_of_its_models(void **state)
{
    (void)state;
    check(STM_TEST_QWEN3);
}

static void a_tied_matrix_is_averaged_too(void **state)
{
    (void)state;
    check(STM_TEST_LLAMA_TIED);
}

static void a_model_of_another_configuration_is_refused(void **state)
{
    (void)state;
    fixture f;
    stm_grid grid;
    stm_parameter_set *set;
    uint64_t hash;
    set_up(&f, STM_TEST_QWEN3);
    stm_model_config other = stm_test_configs[STM_TEST_QWEN3];
    other.rope_theta *= 2;
    stm_model *model = make_model(&f, &other, 3);
    write_model(&f, f.paths[1], model);
    assert_ok(stm_grid_create(MPI_COMM_WORLD, &(stm_axes){1, STM_AUTO, STM_AUTO}, 4, &grid));
    double *before = stm_test_weights(f.model);
    const stm_policy policy = {.options = &f.options, .model = f.model, .grid = &grid};
    assert_ok(stm_parameter_set_create(f.model, &grid, BUCKET, &set));
    assert_fails(stm_soup_form(&policy, BUCKET, set, &hash), STM_ERR_INPUT, "rope_theta: found");
    assert_memory_equal(f.model->weights, before, f.model->n_parameters * sizeof *before);
    free(before);
    stm_parameter_set_destroy(set);
    stm_model_destroy(model);
    stm_grid_destroy(&grid);
    tear_down(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_soup_is_the_weighted_average_of_its_models),
        cmocka_unit_test(a_tied_matrix_is_averaged_too),
        cmocka_unit_test(a_model_of_another_configuration_is_refused),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
