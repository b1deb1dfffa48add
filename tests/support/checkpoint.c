#include "support/checkpoint.h"

#include <unistd.h>

#include "model/layout.h"
#include "model/stages.h"
#include "support/folder.h"

int world_rank(void)
{
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}

int world_size(void)
{
    int n;
    MPI_Comm_size(MPI_COMM_WORLD, &n);
    return n;
}

double round_to(size_t real_bytes, double x)
{
    return real_bytes == 4 ? (double)(float)x : x;
}

/* One stage of a model, with its weights. */
static stm_model *stage_of(const stm_model *whole, int n_stages, int stage)
{
    stm_model *model;
    assert_ok(stm_model_lay_out(&whole->config, &model));
    stm_model_hold_stage(model, (size_t)n_stages, (size_t)stage);
    assert_ok(stm_model_allocate(model, whole->backend, whole->stream));
    assert_ok(stm_model_array_copy(model, model->weights, whole->weights));
    model->config_json = strdup(whole->config_json);
    return model;
}

void run_open_stages(run *r, MPI_Comm comm, int n_stages, size_t real_bytes, const stm_model_config *config,
                     size_t bucket_n, int64_t step)
{
    int n_ranks;
    *r = (run){.comm = comm};
    MPI_Comm_rank(comm, &r->rank);
    MPI_Comm_size(comm, &n_ranks);
    device_open(&r->device, "cpu", real_bytes, 1);
    r->whole = stm_test_model(r->device.backend, r->device.stream, config, (uint64_t)step);
    const int stage_size = n_ranks / n_stages, place = r->rank % stage_size;
    r->model = n_stages == 1 ? r->whole : stage_of(r->whole, n_stages, r->rank / stage_size);
    r->shards =
        (stm_shards){.first = r->model->own.first, .n = r->model->own.n, .bucket_n = bucket_n, .n_ranks = stage_size};
    r->owned_n = stm_shards_count(&r->shards, place);
    r->n_moments = step % 2 ? 3 : 2;
    for (size_t k = 0; k < r->n_moments; k++) {
        r->moments[k] = random_numbers(100 * (uint64_t)step + k, r->whole->n_parameters);
        r->owned[k] = calloc(r->owned_n + 1, sizeof(double));
        size_t at = 0;
        for (size_t i = 0; i < stm_shards_n_ranges(&r->shards); i++) {
            size_t first, n;
            stm_shards_range(&r->shards, place, i, &first, &n);
            for (size_t e = 0; e < n; e++)
                r->owned[k][at++] = round_to(real_bytes, r->moments[k][first + e]);
        }
    }
    r->state = (stm_checkpoint_state){.step = step,
                                      .seed = UINT64_MAX - 7,
                                      .cursor = (uint64_t)step * 3,
                                      .options_yaml = "run: { seed: 7 }\nname: \"\xc3\xa9\"\n",
                                      .trainer_json = "{\"kl\": 0.25}",
                                      .kept[STM_KEPT_REWARDS] = {.bytes = "kept\0\xff\n", .n = step % 2 ? 7 : 0},
                                      .best = step ? 1.0 / (double)step : NAN,
                                      .model_hash = 0xfedcba9876543210u};
}

void run_open(run *r, MPI_Comm comm, size_t real_bytes, const stm_model_config *config, size_t bucket_n, int64_t step)
{
    run_open_stages(r, comm, 1, real_bytes, config, bucket_n, step);
}

void run_close(run *r)
{
    for (size_t k = 0; k < r->n_moments; k++) {
        free(r->moments[k]);
        free(r->owned[k]);
    }
    if (r->model != r->whole)
        stm_model_destroy(r->model);
    stm_model_destroy(r->whole);
    device_close(&r->device);
}

stm_status run_save(run *r, const char *folder)
{
    void *exp_avg = device_reals(&r->device, r->owned[0], r->owned_n);
    void *exp_avg_sq = device_reals(&r->device, r->owned[1], r->owned_n);
    r->state.copies[STM_COPY_TARGET] = r->n_moments > 2 ? device_reals(&r->device, r->owned[2], r->owned_n) : NULL;
    const stm_status status =
        stm_checkpoint_save(r->comm, folder, &r->state, r->model, &r->shards, exp_avg, exp_avg_sq);
    device_release(&r->device);
    return status;
}

static stm_status advance_to_the_end(stm_background_save *save)
{
    stm_status status = STM_OK;
    bool done = false;
    for (int i = 0; i < 100000 && !done; i++) {
        status = stm_checkpoint_save_advance(save, i > 2000, &done); /* at last it waits */
        usleep(100);
    }
    assert_true(done);
    assert_true(status != STM_OK || stm_checkpoint_save_busy_s(save) > 0);
    return status;
}

stm_status run_save_in_background(run *r, const char *folder)
{
    const stm_backend *backend = r->device.backend;
    const size_t own_bytes = r->model->own.n * backend->real_bytes;
    void *own = stm_at(backend, r->model->weights, r->model->own.first);
    void *exp_avg = device_reals(&r->device, r->owned[0], r->owned_n);
    void *exp_avg_sq = device_reals(&r->device, r->owned[1], r->owned_n);
    void *target = r->n_moments > 2 ? device_reals(&r->device, r->owned[2], r->owned_n) : NULL;
    void *copy = malloc(stm_checkpoint_copy_bytes(r->owned_n, STM_CHECKPOINT_N_COPIES, backend->real_bytes) + 1);
    void *weights = malloc(own_bytes);
    stm_background_save *save = NULL;
    memcpy(weights, own, own_bytes);
    r->state.copies[STM_COPY_TARGET] = target;
    stm_status status =
        stm_checkpoint_save_begin(r->comm, folder, &r->state, r->model, &r->shards, exp_avg, exp_avg_sq, copy, &save);
    memset(own, 7, own_bytes);
    if (r->owned_n > 0) {
        memset(exp_avg, 7, r->owned_n * backend->real_bytes);
        memset(exp_avg_sq, 7, r->owned_n * backend->real_bytes);
        if (target)
            memset(target, 7, r->owned_n * backend->real_bytes);
    }
    if (status == STM_OK) {
        status = advance_to_the_end(save);
        stm_checkpoint_save_end(save);
    }
    memcpy(own, weights, own_bytes);
    free(weights);
    free(copy);
    device_release(&r->device);
    return status;
}

void assert_holds(const stm_model *model, const stm_model *whole, double tolerance)
{
    const stm_backend *backend = model->backend;
    double *expected = stm_test_weights(whole);
    size_t n_wrong = 0;
    for (size_t k = 0; k < 2; k++) {
        const stm_range held = stm_model_held(model, k);
        for (size_t i = held.first; i < held.first + held.n; i++) {
            const void *at = stm_at(backend, model->weights, i);
            const double found = backend->real_bytes == 8 ? *(const double *)at : (double)*(const float *)at;
            n_wrong += !(fabs(found - expected[i]) <= tolerance);
        }
    }
    assert_int_equal(n_wrong, 0);
    free(expected);
}

void run_load(run *r, const char *path, double tolerance)
{
    stm_model *whole = stm_test_model(r->device.backend, r->device.stream, &r->whole->config, (uint64_t)r->state.step);
    assert_ok(stm_model_array_zero(r->model, r->model->weights));
    void *moments[3];
    for (size_t k = 0; k < 3; k++)
        moments[k] = device_reals(&r->device, NULL, r->owned_n);
    stm_checkpoint_state state = {.copies = {r->n_moments > 2 ? moments[2] : NULL}};
    assert_ok(stm_checkpoint_load(r->comm, path, r->model, &r->shards, moments[0], moments[1], &state));
    double *owned = calloc(r->owned_n + 1, sizeof *owned);
    size_t n_wrong = 0;
    assert_holds(r->model, whole, tolerance);
    for (size_t k = 0; k < r->n_moments; k++) {
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
    for (size_t i = 0; i < STM_CHECKPOINT_N_KEPT; i++) {
        assert_int_equal(state.kept[i].n, r->state.kept[i].n);
        assert_memory_equal(state.kept[i].bytes, r->state.kept[i].bytes, state.kept[i].n);
    }
    stm_checkpoint_state_clear(&state);
    device_release(&r->device);
    stm_model_destroy(whole);
    free(owned);
}

void save_step(const char *folder, int64_t step)
{
    run r;
    run_open(&r, MPI_COMM_WORLD, 8, &stm_test_configs[STM_TEST_LLAMA], 1000, step);
    assert_ok(run_save(&r, folder));
    run_close(&r);
}

void save_step_in_background(const char *folder, int64_t step)
{
    run r;
    run_open(&r, MPI_COMM_WORLD, 8, &stm_test_configs[STM_TEST_LLAMA], 1000, step);
    assert_ok(run_save_in_background(&r, folder));
    run_close(&r);
}

void load_step(const char *path, int64_t step)
{
    run r;
    run_open(&r, MPI_COMM_WORLD, 8, &stm_test_configs[STM_TEST_LLAMA], 777, step);
    run_load(&r, path, 0);
    run_close(&r);
}

char *path_of(const char *folder, const char *name)
{
    static char path[4200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

size_t count_files(const char *folder)
{
    MPI_Barrier(MPI_COMM_WORLD);
    const size_t n = stm_test_count_files(folder);
    MPI_Barrier(MPI_COMM_WORLD);
    return n;
}

void assert_found(const char *folder, const char *expected, const char *words)
{
    char *path = NULL, *refused = NULL;
    assert_ok(stm_checkpoint_find(MPI_COMM_WORLD, folder, NULL, &path, &refused));
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

void flip(const char *path, long place)
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
