/* Weights that one rank reads and passes on are those that each rank would have read. */
#include "checkpoint/open.h"
#include "support/device.h"
#include "support/model.h"
#include "support/mpi.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

static int world_rank(void)
{
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}

static char *path_in(const char *folder, const char *name)
{
    char *path;
    assert_ok(stm_format(&path, "%s/%s", folder, name));
    return path;
}

/* A folder whose embedding is of several waves of portions; each number is exact in every format. Its name is freed by
 * the caller. Collective. */
static char *write_model(const char *folder, const char *dtype)
{
    char *path = path_in(folder, dtype);
    if (world_rank() == 0) {
        device d;
        stm_model_config config = stm_test_configs[STM_TEST_MISTRAL];
        config.vocab_size = 70001;
        device_open(&d, "cpu", 4, 1);
        stm_model *model = stm_test_model(d.backend, d.stream, &config, 5);
        float *weights = model->weights;
        for (size_t i = 0; i < model->n_parameters; i++)
            weights[i] = (float)((int)(i * 7 % 251) - 125) / 32;
        assert_ok(stm_model_export(model, path, dtype));
        stm_model_destroy(model);
        device_close(&d);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    return path;
}

static void every_rank_has_the_weights_and_the_hash_of_the_files(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    const int n_threads = omp_get_max_threads();
    for (size_t real_bytes = 4; real_bytes <= 8; real_bytes += 4) {
        for (int k = 0; k < 2; k++) {
            device d;
            stm_model *alone, *together;
            char *path = write_model(folder, k ? "bfloat16" : "float32");
            device_open(&d, "cpu", real_bytes, 1);
            omp_set_num_threads(1);
            assert_ok(stm_model_open(path, d.backend, d.stream, &alone));
            omp_set_num_threads(1 + (world_rank() + k) % 3); /* so that the ranks' waves differ, too */
            assert_ok(stm_model_open_on(MPI_COMM_WORLD, path, d.backend, d.stream, &together));
            assert_int_equal(together->n_parameters, alone->n_parameters);
            assert_memory_equal(together->weights, alone->weights, alone->n_parameters * real_bytes);
            assert_true(together->hash == alone->hash && alone->hash != 0);
            stm_model_destroy(together);
            stm_model_destroy(alone);
            device_close(&d);
            free(path);
        }
    }
    omp_set_num_threads(n_threads);
    stm_mpi_remove_folder(folder);
}

/* `place`: bytes from the end of the file, which is in the order of the parameters. Rank 0. */
static void write_number(const char *path, long place, float number)
{
    char *file_path = path_in(path, "model.safetensors");
    FILE *file = fopen(file_path, "r+b");
    assert_non_null(file);
    assert_true(fseek(file, -place, SEEK_END) == 0 && fwrite(&number, sizeof number, 1, file) == 1);
    assert_int_equal(fclose(file), 0);
    free(file_path);
}

/* With `number` at a place of the file. */
static void assert_refused_everywhere(const char *path, long place, float number, const char *words)
{
    device d;
    stm_model *model;
    if (world_rank() == 0)
        write_number(path, place, number);
    MPI_Barrier(MPI_COMM_WORLD);
    device_open(&d, "cpu", 4, 1);
    assert_fails(stm_model_open_on(MPI_COMM_WORLD, path, d.backend, d.stream, &model), STM_ERR_INPUT, words);
    device_close(&d);
}

static void a_number_that_is_not_finite_is_refused_on_every_rank(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder(), *path = write_model(folder, "float32");
    assert_refused_everywhere(path, 4, INFINITY, "lm_head.weight: element");             /* in the last portion */
    assert_refused_everywhere(path, 4 * 2200000, INFINITY, "model.embed_tokens.weight"); /* with many left to pass on */
    free(path);
    stm_mpi_remove_folder(folder);
}

/* Makes of a written model one whose head is the embedding, though its file still holds both. Rank 0. */
static void tie(const char *path)
{
    stm_model *model;
    device d;
    char *command;
    device_open(&d, "cpu", 4, 1);
    assert_ok(stm_model_open(path, d.backend, d.stream, &model));
    float *weights = model->weights;
    const stm_parameter *head = &model->tensors[model->n_tensors - 1];
    memcpy(weights + head->offset, weights + model->tensors[0].offset, head->n * sizeof *weights);
    assert_ok(stm_format(&command, "rm -r '%s'", path));
    assert_int_equal(system(command), 0);
    free(command);
    assert_ok(stm_model_export(model, path, "float32"));
    assert_ok(stm_format(&command, "sed -i '/tie_word_embeddings/s/false/true/' '%s/config.json'", path));
    assert_int_equal(system(command), 0);
    free(command);
    stm_model_destroy(model);
    device_close(&d);
}

static void a_head_that_is_the_embedding_is_compared_to_its_end(void **state)
{
    (void)state;
    device d;
    stm_model *alone, *together;
    char *folder = stm_mpi_make_folder(), *path = write_model(folder, "float32");
    if (world_rank() == 0)
        tie(path);
    MPI_Barrier(MPI_COMM_WORLD);
    device_open(&d, "cpu", 4, 1);
    assert_ok(stm_model_open(path, d.backend, d.stream, &alone));
    assert_ok(stm_model_open_on(MPI_COMM_WORLD, path, d.backend, d.stream, &together));
    assert_true(together->config.tied && together->hash == alone->hash);
    assert_memory_equal(together->weights, alone->weights, alone->n_parameters * sizeof(float));
    stm_model_destroy(together);
    stm_model_destroy(alone);
    device_close(&d);
    assert_refused_everywhere(path, 4, 77, "lm_head.weight: differs from model.embed_tokens.weight, expected an equal");
    free(path);
    stm_mpi_remove_folder(folder);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rank_has_the_weights_and_the_hash_of_the_files),
        cmocka_unit_test(a_number_that_is_not_finite_is_refused_on_every_rank),
        cmocka_unit_test(a_head_that_is_the_embedding_is_compared_to_its_end),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
