/* Checkpoints: what is saved on some ranks is loaded on others, and what is damaged is refused.
 *
 * `mpi_checkpoint save-until-killed FOLDER` and `mpi_checkpoint load-newest FOLDER` serve tests/system/checkpoint.sh.
 */
#include "checkpoint/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "checkpoint/open.h"
#include "support/device.h"
#include "support/model.h"
#include "support/mpi.h"

/* A disk that fails: these stand before the C library's own, and do what it does until `countdown` reaches 0. */
static struct {
    enum { SOUND, GARBLES, FULL, FORGETS, POOR } disk; /* POOR: reserves nothing, writes a little at once */
    int countdown;
} fault;

static bool fault_strikes(void)
{
    return fault.countdown > 0 && --fault.countdown == 0;
}

ssize_t pwrite(int descriptor, const void *bytes, size_t n, off_t offset)
{
    if (fault.disk == FULL && fault_strikes()) {
        errno = ENOSPC;
        return -1;
    }
    if (fault.disk == POOR)
        n = STM_MIN(n, (size_t)1000);
    char *copy = NULL;
    if (fault.disk == GARBLES && n && fault_strikes()) {
        copy = malloc(n);
        memcpy(copy, bytes, n);
        copy[n / 2] ^= 1;
    }
    const ssize_t written = syscall(SYS_pwrite64, descriptor, copy ? copy : bytes, n, offset);
    free(copy);
    return written;
}

int fsync(int descriptor)
{
    if (fault.disk == FORGETS && fault_strikes()) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, descriptor);
}

int fallocate(int descriptor, int mode, off_t offset, off_t n)
{
    if (fault.disk == POOR) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return (int)syscall(SYS_fallocate, descriptor, mode, offset, n);
}

/* A run's state on one rank of a communicator; its numbers are a function of the step and the place in the buffer. */
typedef struct {
    MPI_Comm comm;
    int rank;
    device device;
    stm_model *model;
    stm_shards shards;
    double *moments[2]; /* [n_parameters]: exp_avg and exp_avg_sq of the whole model */
    double *owned[2];   /* [owned_n]: those of this rank */
    size_t owned_n;
    stm_checkpoint_state state;
} run;

static int world_rank(void)
{
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}

static int world_size(void)
{
    int n;
    MPI_Comm_size(MPI_COMM_WORLD, &n);
    return n;
}

/* The first n ranks of the world; MPI_COMM_NULL on the others. Collective over the world. */
static MPI_Comm first_ranks(int n)
{
    MPI_Comm comm;
    MPI_Comm_split(MPI_COMM_WORLD, world_rank() < n ? 0 : MPI_UNDEFINED, world_rank(), &comm);
    return comm;
}

static double round_to(size_t real_bytes, double x)
{
    return real_bytes == 4 ? (double)(float)x : x;
}

/* Local, though each rank of comm does it. */
static void run_open(run *r, MPI_Comm comm, size_t real_bytes, const stm_model_config *config, size_t bucket_n,
                     int64_t step)
{
    int n_ranks;
    *r = (run){.comm = comm};
    MPI_Comm_rank(comm, &r->rank);
    MPI_Comm_size(comm, &n_ranks);
    device_open(&r->device, "cpu", real_bytes, 1);
    r->model = stm_test_model(r->device.backend, r->device.stream, config, (uint64_t)step);
    r->shards = (stm_shards){.n = r->model->n_parameters, .bucket_n = bucket_n, .n_ranks = n_ranks};
    r->owned_n = stm_shards_count(&r->shards, r->rank);
    for (size_t k = 0; k < 2; k++) {
        r->moments[k] = random_numbers(100 * (uint64_t)step + k, r->shards.n);
        r->owned[k] = calloc(r->owned_n + 1, sizeof(double));
        size_t at = 0;
        for (size_t i = 0; i < stm_shards_n_ranges(&r->shards); i++) {
            size_t first, n;
            stm_shards_range(&r->shards, r->rank, i, &first, &n);
            for (size_t e = 0; e < n; e++)
                r->owned[k][at++] = round_to(real_bytes, r->moments[k][first + e]);
        }
    }
    r->state = (stm_checkpoint_state){.step = step,
                                      .seed = UINT64_MAX - 7,
                                      .cursor = (uint64_t)step * 3,
                                      .options_yaml = "run: { seed: 7 }\nname: \"\xc3\xa9\"\n",
                                      .trainer_json = "{\"kl\": 0.25}",
                                      .best = step ? 1.0 / (double)step : NAN,
                                      .model_hash = 0xfedcba9876543210u};
}

static void run_close(run *r)
{
    for (size_t k = 0; k < 2; k++) {
        free(r->moments[k]);
        free(r->owned[k]);
    }
    stm_model_destroy(r->model);
    device_close(&r->device);
}

static stm_status run_save(run *r, const char *folder)
{
    void *exp_avg = device_reals(&r->device, r->owned[0], r->owned_n);
    void *exp_avg_sq = device_reals(&r->device, r->owned[1], r->owned_n);
    const stm_status status =
        stm_checkpoint_save(r->comm, folder, &r->state, r->model, &r->shards, exp_avg, exp_avg_sq);
    device_release(&r->device);
    return status;
}

/* Loads into r, whose own numbers are those that are expected, within `tolerance` of each. */
static void run_load(run *r, const char *path, double tolerance)
{
    double *expected = stm_test_weights(r->model);
    r->device.backend->zero(r->device.stream, r->model->weights, r->shards.n * r->device.backend->real_bytes);
    void *moments[] = {device_reals(&r->device, NULL, r->owned_n), device_reals(&r->device, NULL, r->owned_n)};
    stm_checkpoint_state state;
    assert_ok(stm_checkpoint_load(r->comm, path, r->model, &r->shards, moments[0], moments[1], &state));
    double *found = stm_test_weights(r->model), *owned = calloc(r->owned_n + 1, sizeof *owned);
    size_t n_wrong = 0;
    for (size_t i = 0; i < r->shards.n; i++)
        n_wrong += !(fabs(found[i] - expected[i]) <= tolerance);
    for (size_t k = 0; k < 2; k++) {
        device_read(&r->device, moments[k], owned, r->owned_n);
        for (size_t i = 0; i < r->owned_n; i++)
            n_wrong += !(fabs(owned[i] - r->owned[k][i]) <= tolerance);
    }
    assert_int_equal(n_wrong, 0);
    assert_true(state.step == r->state.step && state.seed == r->state.seed && state.cursor == r->state.cursor);
    assert_true(state.best == r->state.best && state.model_hash == r->state.model_hash);
    assert_string_equal(state.options_yaml, r->state.options_yaml);
    assert_string_equal(state.trainer_json, r->state.trainer_json);
    assert_string_equal(state.version, STEMMA_VERSION);
    stm_checkpoint_state_clear(&state);
    device_release(&r->device);
    free(expected);
    free(found);
    free(owned);
}

/* Saves a step with all ranks of the world. */
static void save_step(const char *folder, int64_t step)
{
    run r;
    run_open(&r, MPI_COMM_WORLD, 8, &stm_test_configs[STM_TEST_LLAMA], 1000, step);
    assert_ok(run_save(&r, folder));
    run_close(&r);
}

static void load_step(const char *path, int64_t step)
{
    run r;
    run_open(&r, MPI_COMM_WORLD, 8, &stm_test_configs[STM_TEST_LLAMA], 777, step);
    run_load(&r, path, 0);
    run_close(&r);
}

static char *path_of(const char *folder, const char *name)
{
    static char path[4200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* What rank 0 removes last is gone, and what it makes next is not yet there. Collective. */
static size_t count_files(const char *folder)
{
    MPI_Barrier(MPI_COMM_WORLD);
    DIR *listing = opendir(folder);
    size_t n = 0;
    assert_non_null(listing);
    while (readdir(listing))
        n++;
    closedir(listing);
    MPI_Barrier(MPI_COMM_WORLD);
    return n - 2; /* itself and its parent */
}

/* The newest one that is found must be `expected` (NULL: none), and the refusals must hold `words` (NULL: none). */
static void assert_found(const char *folder, const char *expected, const char *words)
{
    char *path = NULL, *refused = NULL;
    assert_ok(stm_checkpoint_find(MPI_COMM_WORLD, folder, &path, &refused));
    if (expected)
        assert_string_equal(path, path_of(folder, expected));
    else
        assert_null(path);
    if (words) {
        assert_non_null(refused);
        if (!strstr(refused, words))
            assert_string_equal(refused, words);
    } else {
        assert_null(refused);
    }
    free(path);
    free(refused);
}

static void a_save_on_some_ranks_loads_on_any_others(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    for (int n_save = 1; n_save <= world_size(); n_save++) {
        const size_t real_bytes = n_save % 2 ? 8 : 4;
        const stm_model_config *config = &stm_test_configs[n_save % STM_TEST_N_CONFIGS];
        MPI_Comm savers = first_ranks(n_save);
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
            MPI_Comm loaders = first_ranks(n_load);
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

/* Changes one bit of a byte, on rank 0; the ranks before and after are in step. */
static void flip(const char *path, long place)
{
    MPI_Barrier(MPI_COMM_WORLD);
    if (world_rank() == 0) {
        FILE *file = fopen(path, "r+b");
        assert_non_null(file);
        fseek(file, place, SEEK_SET);
        const int byte = fgetc(file);
        fseek(file, place, SEEK_SET);
        fputc(byte ^ 16, file);
        fclose(file);
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

static long place_of(const char *path, const char *name)
{
    const hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT), dataset = H5Dopen2(file, name, H5P_DEFAULT);
    const haddr_t place = H5Dget_offset(dataset);
    H5Dclose(dataset);
    H5Fclose(file);
    assert_true(place != HADDR_UNDEF);
    return (long)place;
}

static void one_wrong_bit_anywhere_is_refused_and_the_older_one_loads(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    save_step(folder, 1);
    save_step(folder, 2);
    assert_found(folder, "step-00000002.h5", NULL);
    struct stat newest;
    assert_int_equal(stat(path_of(folder, "step-00000002.h5"), &newest), 0);
    for (long k = 0, place; k <= 60; k++) {
        place = k < 60 ? k * (long)newest.st_size / 60 + k : (long)newest.st_size - 1;
        flip(path_of(folder, "step-00000002.h5"), place);
        assert_found(folder, "step-00000001.h5", "step-00000002.h5: ");
        flip(path_of(folder, "step-00000002.h5"), place);
    }
    assert_found(folder, "step-00000002.h5", NULL);
    flip(path_of(folder, "step-00000001.h5"), 2000);
    flip(path_of(folder, "step-00000002.h5"),
         place_of(path_of(folder, "step-00000002.h5"), "/parameters/lm_head.weight"));
    assert_found(folder, NULL, "differ from their hash");
    assert_fails(stm_checkpoint_verify(MPI_COMM_WORLD, path_of(folder, "step-00000002.h5")), STM_ERR_INPUT,
                 "step-00000002.h5: damaged: bytes ");
    assert_non_null(strstr(stm_failure(), "(/parameters) differ from their hash"));
    stm_mpi_remove_folder(folder);
}

static void what_is_no_whole_checkpoint_is_refused_by_name(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    save_step(folder, 3);
    save_step(folder, 30);
    MPI_Barrier(MPI_COMM_WORLD);
    if (world_rank() == 0) {
        assert_int_equal(truncate(path_of(folder, "step-00000030.h5"), 100000), 0);
        FILE *file = fopen(path_of(folder, "step-00000050.h5"), "w");
        fputs("short", file);
        fclose(file);
        file = fopen(path_of(folder, "step-00000060.h5"), "w");
        for (int i = 0; i < 200; i++)
            fputs("something else\n", file);
        fclose(file);
        assert_int_equal(mkdir(path_of(folder, "step-00000070.h5"), 0777), 0);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    assert_found(folder, "step-00000003.h5", "step-00000030.h5: truncated: has 100000 bytes, expected ");
    assert_found(folder, "step-00000003.h5", "step-00000050.h5: has 5 bytes, expected a checkpoint");
    assert_found(folder, "step-00000003.h5", "step-00000060.h5: does not begin as a checkpoint does");
    assert_found(folder, "step-00000003.h5", "step-00000070.h5: ");
    load_step(path_of(folder, "step-00000003.h5"), 3);
    stm_mpi_remove_folder(folder);
}

static void left_over_partial_files_are_ignored_and_removed(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    save_step(folder, 5);
    if (world_rank() == 0) {
        const char *const names[] = {".step-00000006.h5.partial", ".best.h5.partial", ".step-1000000000.h5.partial"};
        for (size_t i = 0; i < 3; i++) {
            FILE *file = fopen(path_of(folder, names[i]), "w");
            fputs("stemma checkpoint 1\n", file);
            fclose(file);
        }
    }
    MPI_Barrier(MPI_COMM_WORLD);
    assert_found(folder, "step-00000005.h5", NULL);
    assert_ok(stm_checkpoint_prepare(MPI_COMM_WORLD, folder));
    assert_int_equal(count_files(folder), 1);
    assert_ok(stm_checkpoint_prepare(MPI_COMM_WORLD, path_of(folder, "new/sub"))); /* makes it */
    assert_found(path_of(folder, "new/sub"), NULL, NULL);
    assert_found(path_of(folder, "absent"), NULL, NULL);
    stm_mpi_remove_folder(folder);
}

static void the_newest_and_the_best_are_kept(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    for (int64_t step = 9; step <= 12; step++) {
        save_step(folder, step);
        if (step == 9 || step == 10)
            for (int again = 0; again < 2; again++)
                assert_ok(stm_checkpoint_mark_best(MPI_COMM_WORLD, folder, step));
        assert_ok(stm_checkpoint_retain(MPI_COMM_WORLD, folder, 2));
        assert_int_equal(access(path_of(folder, "step-00000010.h5"), F_OK) == 0, step == 10 || step == 11);
        MPI_Barrier(MPI_COMM_WORLD);
    }
    assert_int_equal(count_files(folder), 3);
    assert_found(folder, "step-00000012.h5", NULL);
    load_step(path_of(folder, "best.h5"), 10);
    flip(path_of(folder, "step-00000011.h5"), 4000);
    flip(path_of(folder, "step-00000012.h5"), 4000);
    assert_found(folder, "best.h5", "step-00000011.h5: ");
    assert_fails(stm_checkpoint_mark_best(MPI_COMM_WORLD, folder, 99), STM_ERR_IO, "step-00000099.h5");
    stm_mpi_remove_folder(folder);
}

static void a_model_of_another_layout_is_refused_by_name(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    save_step(folder, 4);
    stm_model_config wider = stm_test_configs[STM_TEST_LLAMA], deeper = wider;
    wider.intermediate_size += 2;
    deeper.n_layers += 1;
    const struct {
        const stm_model_config *config;
        const char *words;
    } cases[] = {{&wider, "/parameters/model.layers.0.mlp.gate_proj.weight: found shape ["},
                 {&deeper, "/parameters/model.layers.3.input_layernorm.weight: missing"}};
    assert_int_equal(deeper.n_layers, 4);
    for (size_t i = 0; i < 2; i++) {
        run r;
        run_open(&r, MPI_COMM_WORLD, 8, cases[i].config, 100, 4);
        stm_checkpoint_state found;
        void *moments = device_reals(&r.device, NULL, r.owned_n);
        assert_fails(stm_checkpoint_load(MPI_COMM_WORLD, path_of(folder, "step-00000004.h5"), r.model, &r.shards,
                                         moments, moments, &found),
                     STM_ERR_INPUT, cases[i].words);
        run_close(&r);
    }
    stm_mpi_remove_folder(folder);
}

static void a_missing_folder_fails_on_every_rank(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    run r;
    run_open(&r, MPI_COMM_WORLD, 8, &stm_test_configs[STM_TEST_LLAMA], 1000, 1);
    assert_fails(run_save(&r, path_of(folder, "absent")), STM_ERR_IO, "absent/.step-00000001.h5.partial: cannot be");
    assert_ok(run_save(&r, folder)); /* and the run goes on */
    run_close(&r);
    stm_mpi_remove_folder(folder);
}

/* A limit on the size of files acts as a full disk does, and needs no rights. */
static void a_file_that_may_not_be_so_large_is_refused_cleanly(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    save_step(folder, 1);
    struct rlimit saved, small;
    getrlimit(RLIMIT_FSIZE, &saved);
    small = (struct rlimit){.rlim_cur = 65536, .rlim_max = saved.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    run r;
    run_open(&r, MPI_COMM_WORLD, 8, &stm_test_configs[STM_TEST_LLAMA], 1000, 2);
    setrlimit(RLIMIT_FSIZE, &small);
    const stm_status status = run_save(&r, folder);
    setrlimit(RLIMIT_FSIZE, &saved);
    assert_fails(status, STM_ERR_IO, "no room for its");
    assert_int_equal(count_files(folder), 1);
    MPI_Barrier(MPI_COMM_WORLD);
    assert_found(folder, "step-00000001.h5", NULL);
    assert_ok(run_save(&r, folder));
    assert_found(folder, "step-00000002.h5", NULL);
    run_close(&r);
    stm_mpi_remove_folder(folder);
}

/* A rank other than 0 that cannot write: its own file size limit lies between the skeleton and its piece. */
static void a_failed_write_on_one_rank_is_known_to_all(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    const int last = world_size() - 1;
    struct rlimit saved, small;
    getrlimit(RLIMIT_FSIZE, &saved);
    small = (struct rlimit){.rlim_cur = 4096, .rlim_max = saved.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    run r;
    run_open(&r, MPI_COMM_WORLD, 8, &stm_test_configs[STM_TEST_LLAMA], 1000, 2);
    if (world_rank() == last)
        setrlimit(RLIMIT_FSIZE, &small);
    const stm_status status = run_save(&r, folder);
    setrlimit(RLIMIT_FSIZE, &saved);
    char words[64];
    snprintf(words, sizeof words, last ? "rank %d: " : "no room", last);
    assert_fails(status, STM_ERR_IO, words);
    assert_int_equal(count_files(folder), 0);
    MPI_Barrier(MPI_COMM_WORLD);
    assert_ok(run_save(&r, folder));
    assert_found(folder, "step-00000002.h5", NULL);
    run_close(&r);
    stm_mpi_remove_folder(folder);
}

/* The n-th write or sync of one rank fails, for many n: every rank hears of it and nothing is left, or, where what was
 * garbled was written once more, all is well. */
static void a_failing_disk_never_leaves_a_bad_checkpoint(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    save_step(folder, 1);
    run r;
    run_open(&r, MPI_COMM_WORLD, 8, &stm_test_configs[STM_TEST_LLAMA], 1000, 2);
    const struct {
        int disk;
        const char *words;
    } disks[] = {{GARBLES, "reading back what was written"},
                 {FULL, "No space left on device"},
                 {FORGETS, "cannot be synced: Input/output error"}};
    for (int victim = 0; victim < world_size(); victim += STM_MAX(1, world_size() - 1))
        for (size_t d = 0; d < 3; d++) {
            int n_refused = 0;
            for (int n = 1; n < 100; n = 2 * n + 1) {
                fault.disk = disks[d].disk;
                fault.countdown = world_rank() == victim ? n : 0;
                const stm_status status = run_save(&r, folder);
                fault.countdown = 0;
                fault.disk = SOUND;
                n_refused += status != STM_OK;
                if (status != STM_OK) {
                    assert_fails(status, STM_ERR_IO, disks[d].words);
                    assert_int_equal(count_files(folder), 1);
                    assert_found(folder, "step-00000001.h5", NULL);
                } else {
                    assert_found(folder, "step-00000002.h5", NULL);
                }
                MPI_Barrier(MPI_COMM_WORLD);
                if (world_rank() == 0)
                    unlink(path_of(folder, "step-00000002.h5"));
                MPI_Barrier(MPI_COMM_WORLD);
            }
            assert_true(n_refused > 0);
        }
    assert_ok(run_save(&r, folder));
    assert_found(folder, "step-00000002.h5", NULL);
    run_close(&r);
    stm_mpi_remove_folder(folder);
}

static void a_file_system_may_reserve_nothing_and_write_little_at_once(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    fault.disk = POOR;
    save_step(folder, 1);
    fault.disk = SOUND;
    assert_found(folder, "step-00000001.h5", NULL);
    load_step(path_of(folder, "step-00000001.h5"), 1);
    stm_mpi_remove_folder(folder);
}

static char mounted_on[4200]; /* rank 0: the tmpfs that is there */

/* Also after a failure, so that no mount is left. */
static int unmount(void **state)
{
    (void)state;
    if (*mounted_on)
        umount2(mounted_on, MNT_DETACH);
    *mounted_on = 0;
    return 0;
}

/* Needs the right to mount; where it is not given, the two tests above stand alone. */
static void a_full_disk_is_refused_cleanly_and_the_run_goes_on(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    int mounted = 0;
    if (world_rank() == 0)
        mounted = mount("tmpfs", folder, "tmpfs", 0, "size=2m") == 0;
    if (mounted)
        snprintf(mounted_on, sizeof mounted_on, "%s", folder);
    MPI_Bcast(&mounted, 1, MPI_INT, 0, MPI_COMM_WORLD);
    if (mounted) {
        save_step(folder, 1);
        int filler_bytes = 0;
        if (world_rank() == 0) {
            FILE *filler = fopen(path_of(folder, "filler"), "w");
            char zeros[4096] = {0};
            setvbuf(filler, NULL, _IONBF, 0);
            while (fwrite(zeros, sizeof zeros, 1, filler) == 1)
                filler_bytes += (int)sizeof zeros;
            fclose(filler);
            assert_int_equal(truncate(path_of(folder, "filler"), filler_bytes - 100000), 0);
        }
        MPI_Barrier(MPI_COMM_WORLD);
        run r;
        run_open(&r, MPI_COMM_WORLD, 8, &stm_test_configs[STM_TEST_LLAMA], 1000, 2);
        assert_fails(run_save(&r, folder), STM_ERR_IO, "No space left on device");
        assert_int_equal(count_files(folder), 2);
        MPI_Barrier(MPI_COMM_WORLD);
        assert_found(folder, "step-00000001.h5", NULL);
        if (world_rank() == 0)
            unlink(path_of(folder, "filler"));
        MPI_Barrier(MPI_COMM_WORLD);
        assert_ok(run_save(&r, folder));
        assert_found(folder, "step-00000002.h5", NULL);
        run_close(&r);
        MPI_Barrier(MPI_COMM_WORLD);
        unmount(state);
    } else if (world_rank() == 0) {
        fprintf(stderr, "no right to mount a small tmpfs: a full disk was tried by a limit on file sizes alone\n");
    }
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
        stm_model_destroy(from_folder);
        stm_model_destroy(from_file);
        stm_model_destroy(alone);
        run_close(&r);
        free(path);
    }
    assert_true(n_seen > 0);
    stm_mpi_remove_folder(folder);
}

static void what_is_no_model_is_refused_on_every_rank(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    save_step(folder, 1);
    flip(path_of(folder, "step-00000001.h5"), 3000);
    if (world_rank() == 0) {
        FILE *file = fopen(path_of(folder, "text"), "w");
        fputs("something else\n", file);
        fclose(file);
    }
    device d;
    stm_model *model;
    device_open(&d, "cpu", 8, 1);
    const struct {
        const char *name, *words;
    } cases[] = {{"absent", "/absent: cannot be read: No such file"},
                 {"text", "/text: found a file that is no checkpoint"},
                 {"step-00000001.h5", "/step-00000001.h5: damaged"},
                 {".", "config.json"}};
    for (size_t i = 0; i < 4; i++)
        assert_fails(stm_model_open_on(MPI_COMM_WORLD, path_of(folder, cases[i].name), d.backend, d.stream, &model),
                     STM_ERR_INPUT, cases[i].words);
    device_close(&d);
    stm_mpi_remove_folder(folder);
}

/* For tests/system/checkpoint.sh: */

static void save_until_killed(const char *folder)
{
    assert_ok(stm_checkpoint_prepare(MPI_COMM_WORLD, folder));
    for (int64_t step = 1;; step++) {
        save_step(folder, step);
        assert_ok(stm_checkpoint_retain(MPI_COMM_WORLD, folder, 2));
    }
}

/* Prints the step that loads, with the numbers that belong to it; 0: there is none. */
static void load_newest(const char *folder)
{
    char *path = NULL, *refused = NULL;
    int64_t step = 0;
    assert_ok(stm_checkpoint_find(MPI_COMM_WORLD, folder, &path, &refused));
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
        cmocka_unit_test(a_shard_may_be_empty),
        cmocka_unit_test(tensors_larger_than_a_block_are_whole),
        cmocka_unit_test(a_run_may_go_on_in_the_other_precision),
        cmocka_unit_test(hdf5_reads_every_tensor_under_its_name),
        cmocka_unit_test(one_wrong_bit_anywhere_is_refused_and_the_older_one_loads),
        cmocka_unit_test(what_is_no_whole_checkpoint_is_refused_by_name),
        cmocka_unit_test(left_over_partial_files_are_ignored_and_removed),
        cmocka_unit_test(the_newest_and_the_best_are_kept),
        cmocka_unit_test(a_model_of_another_layout_is_refused_by_name),
        cmocka_unit_test(a_missing_folder_fails_on_every_rank),
        cmocka_unit_test(a_file_that_may_not_be_so_large_is_refused_cleanly),
        cmocka_unit_test(a_failed_write_on_one_rank_is_known_to_all),
        cmocka_unit_test(a_failing_disk_never_leaves_a_bad_checkpoint),
        cmocka_unit_test(a_file_system_may_reserve_nothing_and_write_little_at_once),
        cmocka_unit_test_teardown(a_full_disk_is_refused_cleanly_and_the_run_goes_on, unmount),
        cmocka_unit_test(a_checkpoint_opens_as_the_model_it_was_saved_from),
        cmocka_unit_test(what_is_no_model_is_refused_on_every_rank),
    };
    if (argc == 3) {
        MPI_Init(&argc, &argv);
        if (strcmp(argv[1], "save-until-killed") == 0)
            save_until_killed(argv[2]);
        else
            load_newest(argv[2]);
        MPI_Finalize();
        return 0;
    }
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
