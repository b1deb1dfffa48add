/* Checkpoints that are damaged, broken off, out of date or another model's: refused, and an older one found. */
#include <hdf5.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/open.h"
#include "support/checkpoint.h"

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
        stm_checkpoint_state found = {0};
        void *moments = device_reals(&r.device, NULL, r.owned_n);
        assert_fails(stm_checkpoint_load(MPI_COMM_WORLD, path_of(folder, "step-00000004.h5"), r.model, &r.shards,
                                         moments, moments, &found),
                     STM_ERR_INPUT, cases[i].words);
        run_close(&r);
    }
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

/* The first 512 bytes with another format, and the hash that belongs to them. */
static void set_format(const char *path, const char *format)
{
    char first[512];
    MPI_Barrier(MPI_COMM_WORLD);
    if (world_rank() == 0) {
        FILE *file = fopen(path, "r+b");
        assert_int_equal(fread(first, 1, sizeof first, file), sizeof first);
        memcpy(first + strlen("stemma checkpoint "), format, strlen(format));
        const uint64_t hash = stm_hash(first, sizeof first - sizeof hash);
        memcpy(first + sizeof first - sizeof hash, &hash, sizeof hash);
        rewind(file);
        fwrite(first, 1, sizeof first, file);
        fclose(file);
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

/* An older program must not go back to an older step behind the user's back. */
static void a_later_format_ends_the_search(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder(), *path, *refused;
    save_step(folder, 1);
    save_step(folder, 2);
    set_format(path_of(folder, "step-00000002.h5"), "3");
    assert_fails(stm_checkpoint_find(MPI_COMM_WORLD, folder, NULL, &path, &refused), STM_ERR_INPUT,
                 "step-00000002.h5: has format 3, and stemma " STEMMA_VERSION " reads formats 1 to 2");
    assert_null(path);
    assert_null(refused);
    set_format(path_of(folder, "step-00000002.h5"), "0");
    assert_found(folder, "step-00000001.h5", "step-00000002.h5: has format 0, and stemma");
    set_format(path_of(folder, "step-00000002.h5"), "1");
    assert_found(folder, "step-00000002.h5", NULL);
    stm_mpi_remove_folder(folder);
}

static void assert_format(const char *path, const char *first_line)
{
    char line[64] = "";
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_non_null(fgets(line, sizeof line, file));
    fclose(file);
    assert_string_equal(line, first_line);
}

/* A program that knows format 1 alone goes on with what it can read, and refuses the rest as newer, not as damaged. */
static void only_what_holds_copies_has_the_format_that_knows_them(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    save_step(folder, 2);
    assert_format(path_of(folder, "step-00000002.h5"), "stemma checkpoint 1\n");
    save_step(folder, 3); /* with a copy */
    assert_format(path_of(folder, "step-00000003.h5"), "stemma checkpoint 2\n");
    save_step_in_background(folder, 5);
    assert_format(path_of(folder, "step-00000005.h5"), "stemma checkpoint 2\n");
    assert_found(folder, "step-00000005.h5", NULL);
    load_step(path_of(folder, "step-00000005.h5"), 5);
    set_format(path_of(folder, "step-00000005.h5"), "1"); /* as the first programs with copies saved them */
    assert_found(folder, "step-00000005.h5", NULL);
    load_step(path_of(folder, "step-00000005.h5"), 5);
    stm_mpi_remove_folder(folder);
}

static void assert_found_besides(const char *folder, const char *tired, const char *expected, const char *words)
{
    char *path, *refused;
    assert_ok(stm_checkpoint_find(MPI_COMM_WORLD, folder, tired, &path, &refused));
    assert_string_equal(path, path_of(folder, expected));
    const char *last = strstr(refused, words);
    assert_non_null(last);
    assert_int_equal(strlen(last), strlen(words));
    free(path);
    free(refused);
}

static void tired_checkpoints_come_last(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder();
    save_step(folder, 1);
    save_step(folder, 2);
    assert_found_besides(folder, "step-00000002.h5\n", "step-00000001.h5",
                         "step-00000002.h5: runs that went on from it came to no step\n");
    assert_found_besides(folder, "step-00000001.h5\nstep-00000002.h5\n", "step-00000002.h5",
                         "step-00000002.h5: taken once more, for want of an earlier one\n");
    flip(path_of(folder, "step-00000001.h5"), 2000);
    assert_found_besides(folder, "step-00000002.h5\n", "step-00000002.h5",
                         "step-00000002.h5: taken once more, for want of an earlier one\n");
    stm_mpi_remove_folder(folder);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_wrong_bit_anywhere_is_refused_and_the_older_one_loads),
        cmocka_unit_test(what_is_no_whole_checkpoint_is_refused_by_name),
        cmocka_unit_test(left_over_partial_files_are_ignored_and_removed),
        cmocka_unit_test(the_newest_and_the_best_are_kept),
        cmocka_unit_test(a_model_of_another_layout_is_refused_by_name),
        cmocka_unit_test(what_is_no_model_is_refused_on_every_rank),
        cmocka_unit_test(a_later_format_ends_the_search),
        cmocka_unit_test(only_what_holds_copies_has_the_format_that_knows_them),
        cmocka_unit_test(tired_checkpoints_come_last),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
