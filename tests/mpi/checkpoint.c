/* Checkpoints: what is saved on some ranks and stages is loaded on others, and opened as a model.
 *
 * `mpi_checkpoint save-until-killed FOLDER`, `save-in-background-until-killed` and `load-newest` serve
 * tests/system/checkpoint.sh.
 */
#include <hdf5.h>

#include "checkpoint/open.h"
#include "model/layout.h"
#include "model/stages.h"
#include "support/checkpoint.h"

static const char *step_name(int64_t step)
{
    static char name[32];
    snprintf(name, sizeof name, "step-%08d.h5", (int)step);
    return name;
}

static void a_save_on_some_ranks_loads_on_any_others(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    for (int n_save = 1; n_save <= world_size(); n_save++) {
        const size_t real_bytes = n_save % 2 ? 8 : 4;
        const stm_model_config *config = &stm_test_configs[n_save % STM_TEST_N_CONFIGS];
        MPI_Comm savers = stm_mpi_first_ranks(n_save);
        if (savers != MPI_COMM_NULL) {
            run r;
            run_open(&r, savers, real_bytes, config, 501, n_save);
            assert_ok(run_save(&r, folder));
            run_close(&r);
            MPI_Comm_free(&savers);
        }
        MPI_Barrier(MPI_COMM_WORLD);
        char name[32];
        snprintf(name, sizeof name, "step-%08d.h5", n_save);
        for (int n_load = 1; n_load <= world_size(); n_load++) {
            MPI_Comm loaders = stm_mpi_first_ranks(n_load);
            if (loaders == MPI_COMM_NULL)
                continue;
            run r;
            run_open(&r, loaders, real_bytes, config, 64 + 1000 * (size_t)n_load, n_save);
            assert_ok(stm_checkpoint_verify(loaders, path_of(folder, name)));
            run_load(&r, path_of(folder, name), 0);
            run_close(&r);
            MPI_Comm_free(&loaders);
        }
    }
    stm_mpi_remove_folder(folder);
}

/* Five layers, so that three stages differ. */
static void stages_load_what_other_stages_saved(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    const int most = STM_MIN(world_size(), 3);
    for (int tied = 0; tied < 2; tied++)
        for (int save = 1; save <= most; save++) {
            stm_model_config config = stm_test_configs[tied ? STM_TEST_LLAMA_TIED : STM_TEST_QWEN2];
            config.n_layers = 5;
            const int64_t step = 10 * tied + save;
            run r;
            MPI_Comm savers = stm_mpi_ranks_of_stages(save);
            if (savers != MPI_COMM_NULL) {
                run_open_stages(&r, savers, save, 8, &config, 501, step);
                assert_ok(run_save(&r, folder));
                run_close(&r);
                MPI_Comm_free(&savers);
            }
            MPI_Barrier(MPI_COMM_WORLD);
            char name[32];
            snprintf(name, sizeof name, "step-%08d.h5", (int)step);
            for (int load = 1; load <= most; load++) {
                MPI_Comm loaders = stm_mpi_ranks_of_stages(load);
                if (loaders == MPI_COMM_NULL)
                    continue;
                run_open_stages(&r, loaders, load, 8, &config, 777, step);
                assert_ok(stm_checkpoint_verify(loaders, path_of(folder, name)));
                run_load(&r, path_of(folder, name), 0);
                run_close(&r);
                MPI_Comm_free(&loaders);
            }
        }
    stm_mpi_remove_folder(folder);
}

static void a_shard_may_be_empty(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    run r; /* one element a bucket: only rank 0 owns any */
    run_open(&r, MPI_COMM_WORLD, 8, &stm_test_configs[STM_TEST_MISTRAL], 1, 1);
    assert_int_equal(r.owned_n == 0, r.rank > 0);
    assert_ok(run_save(&r, folder));
    run_load(&r, path_of(folder, "step-00000001.h5"), 0);
    run_close(&r);
    stm_mpi_remove_folder(folder);
}

static void tensors_larger_than_a_block_are_whole(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    stm_model_config config = stm_test_configs[STM_TEST_LLAMA];
    config.vocab_size = 2 * 1100003 / config.hidden_size; /* 17.6 MB in float64 */
    run r;
    run_open(&r, MPI_COMM_WORLD, 8, &config, (size_t)1 << 24, 3);
    assert_ok(run_save(&r, folder));
    assert_found(folder, "step-00000003.h5", NULL);
    run_load(&r, path_of(folder, "step-00000003.h5"), 0);
    run_close(&r);
    stm_mpi_remove_folder(folder);
}

static void a_run_may_go_on_in_the_other_precision(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    for (size_t real_bytes = 4; real_bytes <= 8; real_bytes += 4) {
        run r;
        run_open(&r, MPI_COMM_WORLD, real_bytes, &stm_test_configs[STM_TEST_QWEN3], 300, (int64_t)real_bytes);
        assert_ok(run_save(&r, folder));
        run_close(&r);
        run_open(&r, MPI_COMM_WORLD, 12 - real_bytes, &stm_test_configs[STM_TEST_QWEN3], 300, (int64_t)real_bytes);
        char name[32];
        snprintf(name, sizeof name, "step-%08zu.h5", real_bytes);
        run_load(&r, path_of(folder, name), 1e-6); /* numbers of about 1, rounded to float */
        run_close(&r);
    }
    stm_mpi_remove_folder(folder);
}

static void assert_same_file(const char *folder, const char *a, const char *b)
{
    char *texts[2];
    size_t n[2];
    assert_ok(stm_read_file(path_of(folder, a), &texts[0], &n[0]));
    assert_ok(stm_read_file(path_of(folder, b), &texts[1], &n[1]));
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(texts[0], texts[1], n[0]);
    free(texts[0]);
    free(texts[1]);
}

static void a_save_in_the_background_leaves_the_same_file(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    const int most = STM_MIN(world_size(), 3);
    for (int n_stages = 1; n_stages <= most; n_stages++) {
        stm_model_config config = stm_test_configs[STM_TEST_QWEN3];
        config.n_layers = 5;
        run r;
        MPI_Comm savers = stm_mpi_ranks_of_stages(n_stages);
        if (savers != MPI_COMM_NULL) {
            run_open_stages(&r, savers, n_stages, n_stages % 2 ? 8 : 4, &config, 501, n_stages);
            assert_ok(run_save(&r, folder));
            char *expected = strdup(path_of(folder, "expected.h5"));
            if (r.rank == 0)
                assert_int_equal(rename(path_of(folder, step_name(n_stages)), expected), 0);
            free(expected);
            assert_ok(run_save_in_background(&r, folder));
            assert_same_file(folder, step_name(n_stages), "expected.h5");
            run_close(&r);
            MPI_Comm_free(&savers);
        }
        assert_int_equal(count_files(folder), 1 + n_stages);
    }
    stm_mpi_remove_folder(folder);
}

/* As where a run fails while one is under way: nothing is left of it. */
static void a_save_in_the_background_may_be_given_up(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    save_step(folder, 1);
    run r;
    run_open(&r, MPI_COMM_WORLD, 8, &stm_test_configs[STM_TEST_LLAMA], 1000, 2);
    void *exp_avg = device_reals(&r.device, r.owned[0], r.owned_n);
    void *exp_avg_sq = device_reals(&r.device, r.owned[1], r.owned_n);
    void *copy = malloc(stm_checkpoint_copy_bytes(r.owned_n, 0, 8) + 1);
    for (int n_advances = 0; n_advances < 3; n_advances++) {
        stm_background_save *save;
        bool done = false;
        assert_ok(
            stm_checkpoint_save_begin(r.comm, folder, &r.state, r.model, &r.shards, exp_avg, exp_avg_sq, copy, &save));
        for (int i = 0; i < n_advances && !done; i++)
            assert_ok(stm_checkpoint_save_advance(save, false, &done));
        stm_checkpoint_save_end(save);
        assert_int_equal(count_files(folder), done ? 2 : 1);
        assert_found(folder, done ? "step-00000002.h5" : "step-00000001.h5", NULL);
    }
    free(copy);
    device_release(&r.device);
    run_close(&r);
    stm_mpi_remove_folder(folder);
}

static void hdf5_reads_every_tensor_under_its_name(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    run r;
    run_open(&r, MPI_COMM_WORLD, 4, &stm_test_configs[STM_TEST_QWEN2], 100, 12);
    assert_ok(run_save(&r, folder));
    double *weights = stm_test_weights(r.model);
    const double *const expected[] = {weights, r.moments[0], r.moments[1]};
    const char *const groups[] = {"/parameters", "/optimizer/exp_avg", "/optimizer/exp_avg_sq"};
    const hid_t file = H5Fopen(path_of(folder, "step-00000012.h5"), H5F_ACC_RDONLY, H5P_DEFAULT);
    assert_true(file >= 0);
    for (size_t k = 0; k < 3; k++)
        for (size_t i = 0; i < r.model->n_tensors; i++) {
            const stm_parameter *parameter = &r.model->tensors[i];
            char name[160];
            hsize_t dims[2] = {0, 1};
            snprintf(name, sizeof name, "%s/%s", groups[k], parameter->name);
            const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT), space = H5Dget_space(dataset);
            assert_int_equal(H5Sget_simple_extent_dims(space, dims, NULL), parameter->n_dims);
            assert_true(dims[0] == parameter->shape[0] && dims[1] == parameter->shape[1]);
            double *values = calloc(parameter->n, sizeof *values);
            assert_true(H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
            for (size_t e = 0; e < parameter->n; e++)
                assert_true(values[e] == round_to(4, expected[k][parameter->offset + e]));
            free(values);
            H5Sclose(space);
            H5Dclose(dataset);
        }
    H5Fclose(file);
    free(weights);
    run_close(&r);
    stm_mpi_remove_folder(folder);
}

static void assert_same_model(const stm_model *found, const stm_model *expected)
{
    double *a = stm_test_weights(found), *b = stm_test_weights(expected);
    assert_int_equal(found->n_parameters, expected->n_parameters);
    assert_memory_equal(a, b, found->n_parameters * sizeof *a);
    assert_string_equal(found->config_json, expected->config_json);
    assert_string_equal(found->tensors[0].name, expected->tensors[0].name);
    assert_true(found->hash == expected->hash && found->hash != 0);
    free(a);
    free(b);
}

/* Stage by stage, as a rank of each. */
static void open_stages(const char *path, const stm_model *whole)
{
    const int n_stages = STM_MIN(world_size(), (int)whole->config.n_layers), stage = world_rank() % n_stages;
    stm_model *model;
    assert_ok(stm_model_describe_on(MPI_COMM_WORLD, path, &model));
    stm_model_hold_stage(model, (size_t)n_stages, (size_t)stage);
    assert_ok(stm_model_allocate(model, whole->backend, whole->stream));
    assert_ok(stm_model_load_on(MPI_COMM_WORLD, path, model));
    assert_holds(model, whole, 0);
    assert_true(model->hash == whole->hash);
    assert_string_equal(model->tensors[0].name, whole->tensors[0].name);
    stm_model_destroy(model);
}

static void a_checkpoint_opens_as_the_model_it_was_saved_from(void **state)
{
    (void)state;
    const char *const names[] = {"parity/llama", "parity/qwen2", "models/TinyStories-656K",
                                 "models/tiny-random/tiny_llama3"};
    char *folder = stm_mpi_make_folder();
    size_t n_seen = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!stm_fixture(names[i]))
            continue;
        n_seen++;
        char *path = strdup(stm_fixture(names[i]));
        run r; /* for its device, and for the optimizer state of a model of any size */
        run_open(&r, MPI_COMM_WORLD, 4, &stm_test_configs[STM_TEST_LLAMA], 1000, 1);
        stm_model *from_folder, *alone, *from_file;
        assert_ok(stm_model_open_on(MPI_COMM_WORLD, path, r.device.backend, r.device.stream, &from_folder));
        assert_ok(stm_model_open(path, r.device.backend, r.device.stream, &alone));
        assert_same_model(from_folder, alone);
        const stm_shards shards = {.n = alone->n_parameters, .bucket_n = 100000, .n_ranks = world_size()};
        void *moments = device_reals(&r.device, NULL, stm_shards_count(&shards, world_rank()));
        assert_ok(stm_checkpoint_save(MPI_COMM_WORLD, folder, &r.state, from_folder, &shards, moments, moments));
        assert_ok(stm_model_open_on(MPI_COMM_WORLD, path_of(folder, "step-00000001.h5"), r.device.backend,
                                    r.device.stream, &from_file));
        assert_same_model(from_file, alone);
        open_stages(path, alone);
        open_stages(path_of(folder, "step-00000001.h5"), alone);
        stm_model_destroy(from_folder);
        stm_model_destroy(from_file);
        stm_model_destroy(alone);
        run_close(&r);
        free(path);
    }
    assert_true(n_seen > 0);
    stm_mpi_remove_folder(folder);
}

/* For tests/system/checkpoint.sh: */

static void save_until_killed(const char *folder, void save(const char *, int64_t))
{
    assert_ok(stm_checkpoint_prepare(MPI_COMM_WORLD, folder));
    for (int64_t step = 1;; step++) {
        save(folder, step);
        assert_ok(stm_checkpoint_retain(MPI_COMM_WORLD, folder, 2));
    }
}

/* Prints the step that loads, with the numbers that belong to it; 0: there is none. */
static void load_newest(const char *folder)
{
    char *path = NULL, *refused = NULL;
    int64_t step = 0;
    assert_ok(stm_checkpoint_find(MPI_COMM_WORLD, folder, NULL, &path, &refused));
    if (path) {
        stm_checkpoint_state found;
        assert_ok(stm_checkpoint_read_state(MPI_COMM_WORLD, path, &found));
        step = found.step;
        stm_checkpoint_state_clear(&found);
        load_step(path, step);
    }
    if (world_rank() == 0)
        printf("%lld%s%s\n", (long long)step, refused ? " refused " : "", refused ? refused : "");
    free(path);
    free(refused);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_save_on_some_ranks_loads_on_any_others),
        cmocka_unit_test(stages_load_what_other_stages_saved),
        cmocka_unit_test(a_shard_may_be_empty),
        cmocka_unit_test(tensors_larger_than_a_block_are_whole),
        cmocka_unit_test(a_run_may_go_on_in_the_other_precision),
        cmocka_unit_test(a_save_in_the_background_leaves_the_same_file),
        cmocka_unit_test(a_save_in_the_background_may_be_given_up),
        cmocka_unit_test(hdf5_reads_every_tensor_under_its_name),
        cmocka_unit_test(a_checkpoint_opens_as_the_model_it_was_saved_from),
    };
    if (argc == 3) {
        MPI_Init(&argc, &argv);
        if (strcmp(argv[1], "save-until-killed") == 0)
            save_until_killed(argv[2], save_step);
        else if (strcmp(argv[1], "save-in-background-until-killed") == 0)
            save_until_killed(argv[2], save_step_in_background);
        else
            load_newest(argv[2]);
        MPI_Finalize();
        return 0;
    }
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
