/* The files of `score` and `grad`, read back through HDF5. */
#include "checkpoint/results.h"

#include <hdf5.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/device.h"
#include "support/folder.h"
#include "support/model.h"

/* The batch below: two groups, of 3 and 1 responses of these lengths. */
static stm_response first[] = {{.n = 4}, {.n = 0}, {.n = 1}}, second[] = {{.n = 3}};
static stm_group groups[] = {{.n_responses = 3, .responses = first}, {.n_responses = 1, .responses = second}};
static const stm_batch batch = {.n_groups = 2, .groups = groups};
static const double logprobs[8] = {-1, -2, -3, -4, -5, -6, -7, -0.125};
static const double entropy[8] = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0 / 3.0};

static void remove_folder(char *folder, const char *file)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    unlink(path);
    assert_int_equal(rmdir(folder), 0); /* so nothing else is left in it */
    free(folder);
}

/* Dataset `name`, which must be float64 of this shape. The caller frees. */
static double *read_dataset(hid_t file, const char *name, size_t n_dims, const size_t *shape)
{
    const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
    assert_true(dataset >= 0);
    const hid_t type = H5Dget_type(dataset), space = H5Dget_space(dataset);
    assert_true(H5Tequal(type, H5T_IEEE_F64LE) > 0);
    assert_int_equal(H5Sget_simple_extent_ndims(space), n_dims);
    hsize_t dims[4];
    H5Sget_simple_extent_dims(space, dims, NULL);
    size_t n = 1;
    for (size_t d = 0; d < n_dims; d++) {
        assert_int_equal(dims[d], shape[d]);
        n *= shape[d];
    }
    double *values = calloc(n + 1, sizeof *values);
    assert_true(H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
    H5Tclose(type);
    H5Sclose(space);
    H5Dclose(dataset);
    return values;
}

static void scores_are_read_back_response_by_response(void **state)
{
    (void)state;
    char *folder = stm_test_folder_create(), path[4096];
    snprintf(path, sizeof path, "%s/scores.h5", folder);
    for (int again = 0; again < 2; again++) /* an old file is replaced */
        assert_ok(stm_results_write_scores(path, &batch, logprobs, entropy));
    const hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    assert_true(file >= 0);
    for (size_t g = 0, token = 0; g < 2; g++)
        for (size_t i = 0; i < groups[g].n_responses; i++) {
            const size_t n = groups[g].responses[i].n;
            const struct {
                const char *name;
                const double *values;
            } kinds[] = {{"logprobs", logprobs}, {"entropy", entropy}};
            for (size_t k = 0; k < 2; k++) {
                char name[64];
                snprintf(name, sizeof name, "/groups/%zu/%zu/%s", g, i, kinds[k].name);
                double *values = read_dataset(file, name, 1, &n);
                assert_memory_equal(values, kinds[k].values + token, n * sizeof *values);
                free(values);
            }
            token += n;
        }
    H5Fclose(file);
    remove_folder(folder, "scores.h5");
}

static void a_batch_without_tokens_is_a_file_too(void **state)
{
    (void)state;
    char *folder = stm_test_folder_create(), path[4096];
    snprintf(path, sizeof path, "%s/scores.h5", folder);
    assert_ok(stm_results_write_scores(path, &(stm_batch){0}, NULL, NULL));
    const hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    assert_true(H5Lexists(file, "/groups", H5P_DEFAULT) > 0);
    H5Fclose(file);
    remove_folder(folder, "scores.h5");
}

/* A gradient in device memory, for stm_results_write_gradient. */
typedef struct {
    const stm_model *model;
    const void *reals;
} array;

static stm_status read_array(void *context, size_t at, size_t n, void *reals)
{
    const array *from = context;
    const stm_backend *backend = from->model->backend;
    return backend->read(from->model->stream, reals, stm_at(backend, from->reals, at), n * backend->real_bytes);
}

static void gradients_have_their_parameters_names_and_shapes(void **state)
{
    (void)state;
    for (size_t real_bytes = 4; real_bytes <= 8; real_bytes += 4) {
        char *folder = stm_test_folder_create(), path[4096], name[128];
        snprintf(path, sizeof path, "%s/grad.h5", folder);
        device d;
        device_open(&d, "cpu", real_bytes, 1);
        stm_model *model = stm_test_model(d.backend, d.stream, &stm_test_configs[STM_TEST_QWEN2], 1);
        double *gradient = random_numbers(3, model->n_parameters);
        if (real_bytes == 4)
            for (size_t i = 0; i < model->n_parameters; i++)
                gradient[i] = (double)(float)gradient[i];
        assert_ok(stm_results_write_gradient(path, model, 0.1, read_array,
                                             &(array){model, device_reals(&d, gradient, model->n_parameters)}));
        const hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
        double *loss = read_dataset(file, "/loss", 0, NULL);
        assert_true(*loss == 0.1);
        free(loss);
        for (size_t i = 0; i < model->n_tensors; i++) {
            const stm_parameter *parameter = &model->tensors[i];
            snprintf(name, sizeof name, "/grad/%s", parameter->name);
            double *values = read_dataset(file, name, parameter->n_dims, parameter->shape);
            assert_memory_equal(values, gradient + parameter->offset, parameter->n * sizeof *values);
            free(values);
        }
        H5G_info_t group;
        assert_true(H5Gget_info_by_name(file, "/grad", &group, H5P_DEFAULT) >= 0);
        assert_int_equal(group.nlinks, model->n_tensors);
        H5Fclose(file);
        free(gradient);
        stm_model_destroy(model);
        device_close(&d);
        remove_folder(folder, "grad.h5");
    }
}

static void a_missing_folder_is_named_with_the_reason(void **state)
{
    (void)state;
    char *folder = stm_test_folder_create(), path[4096];
    snprintf(path, sizeof path, "%s/absent/scores.h5", folder);
    assert_fails(stm_results_write_scores(path, &batch, logprobs, entropy), STM_ERR_IO,
                 "/absent/scores.h5.part: cannot be written: No such file or directory");
    remove_folder(folder, "none");
}

static void a_folder_in_place_of_the_file_is_named_with_the_reason(void **state)
{
    (void)state;
    char *folder = stm_test_folder_create(), path[4096];
    snprintf(path, sizeof path, "%s/scores.h5", folder);
    assert_int_equal(mkdir(path, 0777), 0);
    assert_fails(stm_results_write_scores(path, &batch, logprobs, entropy), STM_ERR_IO, "cannot be renamed");
    assert_int_equal(rmdir(path), 0);
    remove_folder(folder, "none");
}

/* A limit on the size of files stands for a full disk: the same calls fail. */
static void what_does_not_fit_is_refused_and_leaves_the_old_file(void **state)
{
    (void)state;
    char *folder = stm_test_folder_create(), path[4096];
    snprintf(path, sizeof path, "%s/grad.h5", folder);
    assert_ok(stm_results_write_scores(path, &batch, logprobs, entropy));
    device d;
    device_open(&d, "cpu", 8, 1);
    stm_model *model = stm_test_model(d.backend, d.stream, &stm_test_configs[STM_TEST_LLAMA], 1);
    struct rlimit saved, small = {.rlim_cur = 16384};
    getrlimit(RLIMIT_FSIZE, &saved);
    small.rlim_max = saved.rlim_max;
    assert_true(model->n_parameters * sizeof(double) > small.rlim_cur);
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    const stm_status status = stm_results_write_gradient(path, model, 0.1, read_array, &(array){model, model->weights});
    setrlimit(RLIMIT_FSIZE, &saved);
    assert_fails(status, STM_ERR_IO, "grad.h5: cannot be written: no room: ");
    assert_non_null(strstr(stm_failure(), "File too large"));
    assert_int_equal(stm_test_count_files(folder), 1);
    const hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    assert_true(file >= 0 && H5Lexists(file, "/groups", H5P_DEFAULT) > 0);
    H5Fclose(file);
    stm_model_destroy(model);
    device_close(&d);
    remove_folder(folder, "grad.h5");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_are_read_back_response_by_response),
        cmocka_unit_test(a_batch_without_tokens_is_a_file_too),
        cmocka_unit_test(gradients_have_their_parameters_names_and_shapes),
        cmocka_unit_test(a_missing_folder_is_named_with_the_reason),
        cmocka_unit_test(a_folder_in_place_of_the_file_is_named_with_the_reason),
        cmocka_unit_test(what_does_not_fit_is_refused_and_leaves_the_old_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
