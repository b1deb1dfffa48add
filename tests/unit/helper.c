/* The helper process beside a rank: it runs commands, survives bad ones, and ends with the rank, however that ends. */
#include "base/helper.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/pulse.h"
#include "support/support.h"

static void commands_run_and_bad_ones_do_no_harm(void **state)
{
    (void)state;
    char *output;
    size_t n;
    char *input = malloc(3 << 20);
    memset(input, 'x', 3 << 20);
    assert_int_equal(stm_helper_run("exit 3", "", 0, 20, 1000, &output, &n), STM_ERR_IO);
    assert_string_equal(stm_failure(), "ended with exit code 3");
    assert_int_equal(stm_helper_run("kill -9 $$", "", 0, 20, 1000, &output, &n), STM_ERR_IO);
    assert_string_equal(stm_failure(), "was ended by signal 9");
    assert_int_equal(stm_helper_run("sleep 100 & sleep 100", "", 0, 0.2, 1000, &output, &n), STM_ERR_IO);
    assert_string_equal(stm_failure(), "timed out after 0.2 s");
    assert_int_equal(stm_helper_run("yes", "", 0, 20, 1000, &output, &n), STM_ERR_IO);
    assert_string_equal(stm_failure(), "printed more than 1000 bytes");
    assert_ok(stm_helper_run("cat", input, 3 << 20, 20, 4 << 20, &output, &n));
    assert_int_equal(n, 3 << 20);
    assert_memory_equal(output, input, n);
    free(output);
    free(input);
}

/* A rank would be killed by the first of them in its group, and by a launcher that closes its files. */
static void commands_have_nothing_of_the_rank(void **state)
{
    (void)state;
    char *output;
    size_t n;
    assert_ok(stm_helper_run("ls /proc/self/fd; trap 'echo caught' TERM; kill -TERM $$", "", 0, 20, 1000, &output, &n));
    /* the last is the folder that ls reads; signals are not ignored, though the helper does */
    assert_string_equal(output, "0\n1\n2\n3\ncaught\n");
    free(output);
    assert_ok(stm_helper_run("ps -o sid= -p $$", "", 0, 20, 1000, &output, &n));
    assert_true(atoi(output) != (int)getsid(0));
    free(output);
}

/* One that stays, and one command beside it, each in its own time. */
static void a_server_stays_until_it_fails_or_is_stopped(void **state)
{
    (void)state;
    const char *echo = "echo $$; while read -r word; do echo $word; done; sleep 0.1; true";
    const size_t one = stm_helper_server(), other = stm_helper_server();
    char *first, *second, *output;
    size_t n;
    assert_ok(stm_helper_ask(one, echo, "a\n", 2, 2, 20, 1000, &first, &n));
    assert_ok(stm_helper_ask(other, echo, "b\n", 2, 2, 20, 1000, &second, &n));
    assert_true(atoi(first) != atoi(second));
    assert_string_equal(strchr(second, '\n'), "\nb\n");
    assert_ok(stm_helper_run("echo c", "", 0, 20, 1000, &output, &n));
    free(output);
    assert_ok(stm_helper_ask(one, "echo another", "d\ne\n", 4, 2, 20, 1000, &output, &n));
    assert_string_equal(output, "d\ne\n"); /* the command is no matter once it runs */
    free(output);
    assert_int_equal(stm_helper_ask(one, echo, "f\n", 2, 2, 0.2, 1000, &output, &n), STM_ERR_IO);
    assert_string_equal(stm_failure(), "timed out after 0.2 s");
    assert_string_equal(output, "f\n"); /* what it had said */
    free(output);
    assert_int_equal(kill(atoi(first), 0), -1);
    assert_ok(stm_helper_ask(one, echo, "g\n", 2, 2, 20, 1000, &output, &n));
    assert_true(atoi(output) != atoi(first));
    free(output);
    stm_helper_stop(one, 1.0);
    stm_helper_stop(other, 0.0);
    assert_ok(stm_helper_run("true", "", 0, 20, 1000, &output, &n)); /* waits until they are gone */
    assert_int_equal(kill(atoi(second), 0), -1);
    free(output);
    free(first);
    free(second);
}

/* A rank of its own, killed while a command runs and another one stays; returns what its helper says on stderr. */
static void kill_a_rank(bool told, char *said, size_t room)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    const pid_t rank = fork();
    if (rank == 0) {
        char *output;
        size_t n;
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        if (stm_helper_begin() != STM_OK)
            _exit(1);
        stm_pulse_own->rank = 7;
        strcpy(stm_pulse_own->host, "here");
        stm_pulse_phase(STM_PHASE_REWARD);
        stm_pulse_step(3);
        if (told)
            stm_pulse_told_to_end();
        (void)stm_helper_ask(stm_helper_server(), "read -r word; echo $word; sleep 1234567", "a\n", 2, 1, 60, 1000,
                             &output, &n);
        (void)stm_helper_run("echo ready >&2; sleep 1234567", "", 0, 60, 1000, &output, &n);
        _exit(1);
    }
    close(ends[1]);
    char ready[6];
    for (size_t got = 0; got < sizeof ready;)
        got += (size_t)read(ends[0], ready + got, sizeof ready - got);
    kill(rank, SIGKILL);
    waitpid(rank, NULL, 0);
    size_t n = 0; /* to the end of the pipe: when the helper, and what it ran, are gone, too */
    for (ssize_t got; n < room - 1 && (got = read(ends[0], said + n, room - 1 - n)) > 0;)
        n += (size_t)got;
    said[n] = 0;
    close(ends[0]);
}

static void it_says_where_a_rank_died_and_ends_its_command(void **state)
{
    (void)state;
    char said[1000];
    kill_a_rank(false, said, sizeof said);
    assert_string_equal(said,
                        "stemma: rank 7 on here died without a word: killed, or out of memory (phase reward, step "
                        "3)\n");
    kill_a_rank(true, said, sizeof said);
    assert_string_equal(said, "");
}

static void a_rank_ends_though_its_helper_has_been_stopped(void **state)
{
    (void)state;
    const pid_t rank = fork();
    if (rank == 0) {
        char *output;
        size_t n;
        if (stm_helper_begin() != STM_OK || stm_helper_run("echo $PPID", "", 0, 20, 1000, &output, &n) != STM_OK)
            _exit(1);
        kill(atoi(output), SIGSTOP);
        stm_helper_end();
        _exit(kill(atoi(output), 0) == 0 ? 1 : 0);
    }
    int status;
    assert_int_equal(waitpid(rank, &status, 0), rank);
    assert_int_equal(status, 0);
}

int main(void)
{
    if (stm_helper_begin() != STM_OK)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commands_run_and_bad_ones_do_no_harm),
        cmocka_unit_test(commands_have_nothing_of_the_rank),
        cmocka_unit_test(a_server_stays_until_it_fails_or_is_stopped),
        cmocka_unit_test(it_says_where_a_rank_died_and_ends_its_command),
        cmocka_unit_test(a_rank_ends_though_its_helper_has_been_stopped),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    stm_helper_end();
    return failed;
}
