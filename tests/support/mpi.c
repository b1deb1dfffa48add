#include "support/mpi.h"

#include <unistd.h>

#include "support/messages.h"

enum { PATIENCE_S = 10 };

static int verdict_of_all(MPI_Comm comm, int failed, const char *name)
{
    int any = 0, done = 0;
    MPI_Request request;
    MPI_Iallreduce(&failed, &any, 1, MPI_INT, MPI_MAX, comm, &request);
    const double start = stm_now_s();
    while (!done) {
        MPI_Test(&request, &done, MPI_STATUS_IGNORE);
        if (!done && failed && stm_now_s() - start > PATIENCE_S) {
            fprintf(stderr, "%s failed on this rank, and the others wait for it\n", name);
            MPI_Abort(MPI_COMM_WORLD, 1);
        }
        if (!done)
            usleep(200);
    }
    return any;
}

/* Runs one test with cmocka's own account of it kept from the terminal; shows the account if the test fails. */
static int run_one(const struct CMUnitTest *test, int rank, int n_ranks)
{
    rewind(stdout);
    if (ftruncate(STDOUT_FILENO, 0) != 0)
        perror("ftruncate");
    const int failed = _cmocka_run_group_tests(test->name, test, 1, NULL, NULL) != 0;
    if (!failed)
        return 0;
    fprintf(stderr, "rank %d of %d: FAILED %s\n", rank, n_ranks, test->name);
    char account[4096];
    fflush(stdout);
    const ssize_t n = pread(STDOUT_FILENO, account, sizeof account - 1, 0);
    account[n > 0 ? n : 0] = 0;
    fprintf(stderr, "%s", account);
    return 1;
}

static bool is_wanted(int argc, char **argv, const char *name)
{
    bool wanted = argc < 2;
    for (int i = 1; i < argc; i++)
        wanted = wanted || strcmp(argv[i], name) == 0;
    return wanted;
}

int stm_mpi_tests(int argc, char **argv, const struct CMUnitTest *tests, size_t n)
{
    int provided, rank, n_ranks, n_failed = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm verdicts;
    MPI_Comm_dup(MPI_COMM_WORLD, &verdicts);
    MPI_Comm_rank(verdicts, &rank);
    MPI_Comm_size(verdicts, &n_ranks);
    cmocka_set_message_output(CM_OUTPUT_TAP); /* all of it on stdout */
    FILE *terminal = fdopen(dup(STDOUT_FILENO), "w"), *account = tmpfile();
    if (!terminal || !account || dup2(fileno(account), STDOUT_FILENO) < 0) {
        perror("the terminal");
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    for (size_t i = 0; i < n; i++) {
        if (!is_wanted(argc, argv, tests[i].name))
            continue;
        const int any = verdict_of_all(verdicts, run_one(tests + i, rank, n_ranks), tests[i].name);
        n_failed += any;
        if (rank == 0)
            fprintf(terminal, "%s %s (%d rank%s%s)\n", any ? "FAILED" : "ok", tests[i].name, n_ranks,
                    n_ranks > 1 ? "s" : "", stm_test_messages_are_synchronous() ? ", synchronous sends" : "");
        fflush(terminal);
    }
    fclose(terminal);
    MPI_Comm_free(&verdicts);
    MPI_Finalize();
    return n_failed != 0;
}

char *stm_mpi_make_folder(void)
{
    char *folder = calloc(1, 4096);
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    const char *parent = getenv("TMPDIR");
    if (folder && rank == 0) {
        snprintf(folder, 4096, "%s/stemma-test-XXXXXX", parent ? parent : "/tmp");
        if (!mkdtemp(folder))
            *folder = 0;
    }
    MPI_Bcast(folder, 4096, MPI_CHAR, 0, MPI_COMM_WORLD);
    assert_true(folder && *folder);
    return folder;
}

void stm_mpi_remove_folder(char *folder)
{
    int rank;
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    char command[4200];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (rank == 0 && system(command) != 0)
        print_error("%s was not removed\n", folder);
    free(folder);
}

MPI_Comm stm_mpi_first_ranks(int n)
{
    MPI_Comm comm;
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_split(MPI_COMM_WORLD, rank < n ? 0 : MPI_UNDEFINED, rank, &comm);
    return comm;
}

MPI_Comm stm_mpi_ranks_of_stages(int n_stages)
{
    int n_ranks;
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    return stm_mpi_first_ranks(n_ranks / n_stages * n_stages);
}
