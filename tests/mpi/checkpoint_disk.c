/* Checkpoints on disks that are full, fail or do little. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "support/checkpoint.h"

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
    assert_fails(status, STM_ERR_IO, "no room: ");
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
static void try_a_failing_disk(stm_status save(run *, const char *))
{
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
                const stm_status status = save(&r, folder);
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
    assert_ok(save(&r, folder));
    assert_found(folder, "step-00000002.h5", NULL);
    run_close(&r);
    stm_mpi_remove_folder(folder);
}

static void a_failing_disk_never_leaves_a_bad_checkpoint(void **state)
{
    (void)state;
    try_a_failing_disk(run_save);
}

static void a_failing_disk_in_the_background_does_not_either(void **state)
{
    (void)state;
    try_a_failing_disk(run_save_in_background);
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

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_missing_folder_fails_on_every_rank),
        cmocka_unit_test(a_file_that_may_not_be_so_large_is_refused_cleanly),
        cmocka_unit_test(a_failed_write_on_one_rank_is_known_to_all),
        cmocka_unit_test(a_failing_disk_never_leaves_a_bad_checkpoint),
        cmocka_unit_test(a_failing_disk_in_the_background_does_not_either),
        cmocka_unit_test(a_file_system_may_reserve_nothing_and_write_little_at_once),
        cmocka_unit_test_teardown(a_full_disk_is_refused_cleanly_and_the_run_goes_on, unmount),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
