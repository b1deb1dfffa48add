/* The folder of a run: lock, log, requests, rollouts. */
#include "metrics/run_folder.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/folder.h"

static int make_folder(void **state)
{
    *state = stm_test_folder_create();
    return 0;
}

static int remove_folder(void **state)
{
    stm_test_folder_remove(*state);
    return 0;
}

static void assert_text(const char *folder, const char *name, const char *expected)
{
    char *text;
    size_t n;
    assert_ok(stm_read_file(stm_test_path(folder, name), &text, &n));
    assert_string_equal(text, expected);
    free(text);
}

static size_t count_in_file(const char *folder, const char *name, const char *words)
{
    char *text;
    size_t n, count = 0;
    assert_ok(stm_read_file(stm_test_path(folder, name), &text, &n));
    for (const char *c = text; (c = strstr(c, words)) != NULL; c++)
        count++;
    free(text);
    return count;
}

static void folder_is_made_with_its_parents(void **state)
{
    stm_run_folder *run;
    const char *folder = stm_test_path(*state, "runs/lookup");
    assert_ok(stm_run_folder_open(folder, &run));
    assert_string_equal(stm_run_folder_path(run), folder);
    assert_ok(stm_run_folder_begin(run, "run: { seed: 1 }\n"));
    assert_text(*state, "runs/lookup/input.yaml", "run: { seed: 1 }\n");
    assert_true(stm_test_exists(stm_test_path(*state, "runs/lookup/rollouts")));
    assert_true(stm_test_exists(stm_test_path(*state, "runs/lookup/checkpoints")));
    stm_run_folder_close(run);
}

static void folder_that_cannot_be_made_is_named(void **state)
{
    stm_run_folder *run = NULL;
    stm_test_write_text(stm_test_path(*state, "file"), "");
    assert_fails(stm_run_folder_open(stm_test_path(*state, "file/run"), &run), STM_ERR_INPUT,
                 "file/run: cannot be made: ");
    assert_fails(stm_run_folder_open(stm_test_path(*state, "file"), &run), STM_ERR_INPUT,
                 "file: found a file, expected a folder");
    assert_null(run);
}

static void second_job_is_refused_until_the_first_has_ended(void **state)
{
    stm_run_folder *first, *second;
    char words[64];
    assert_ok(stm_run_folder_open(*state, &first));
    snprintf(words, sizeof words, "is in use by another running job (host ");
    assert_fails(stm_run_folder_open(*state, &second), STM_ERR_INPUT, words);
    snprintf(words, sizeof words, ", process %ld)", (long)getpid());
    assert_non_null(strstr(stm_failure(), words));
    stm_log("the first still writes"); /* the refused one left its log alone */
    assert_int_equal(count_in_file(*state, "log.txt", "the first still writes\n"), 1);
    stm_run_folder_close(first);
    assert_ok(stm_run_folder_open(*state, &second));
    stm_run_folder_close(second);
}

static void lock_of_a_killed_job_does_not_stay(void **state)
{
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    const pid_t child = fork();
    if (child == 0) {
        stm_run_folder *run;
        const char failed = stm_run_folder_open(*state, &run) != STM_OK;
        if (write(ready[1], &failed, 1) == 1)
            pause();
        _exit(1);
    }
    char failed = 1;
    assert_int_equal(read(ready[0], &failed, 1), 1);
    assert_int_equal(failed, 0);
    stm_run_folder *run;
    const stm_status while_it_runs = stm_run_folder_open(*state, &run);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(ready[0]);
    close(ready[1]);
    assert_int_equal(while_it_runs, STM_ERR_INPUT);
    assert_ok(stm_run_folder_open(*state, &run));
    stm_run_folder_close(run);
}

static void a_command_that_outlives_the_job_does_not_hold_the_lock(void **state)
{
    stm_run_folder *run;
    assert_ok(stm_run_folder_open(*state, &run));
    const pid_t child = fork();
    if (child == 0) {
        execl("/bin/sleep", "sleep", "20", (char *)NULL);
        _exit(1);
    }
    stm_run_folder_close(run);
    stm_status again = STM_ERR_INPUT;
    for (int i = 0; i < 1000 && again != STM_OK; i++) { /* until exec has closed what is closed on exec */
        again = stm_run_folder_open(*state, &run);
        usleep(5000);
    }
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_int_equal(again, STM_OK);
    stm_run_folder_close(run);
}

static void log_gets_all_that_is_printed_and_grows_over_jobs(void **state)
{
    for (int job = 0; job < 2; job++) {
        stm_run_folder *run;
        assert_ok(stm_run_folder_open(*state, &run));
        stm_log("step %d", job);
        stm_log("two\nlines\n");
        stm_run_folder_close(run);
        stm_log("not in the log");
    }
    assert_int_equal(count_in_file(*state, "log.txt", "\nstep 0\ntwo\nlines\n"), 1);
    assert_int_equal(count_in_file(*state, "log.txt", "\nstep 1\ntwo\nlines\n"), 1);
    assert_int_equal(count_in_file(*state, "log.txt", "stemma " STEMMA_VERSION), 2);
    assert_int_equal(count_in_file(*state, "log.txt", "not in the log"), 0);
}

static void stop_and_save_are_seen_and_removed_once_acted_on(void **state)
{
    stm_run_folder *run;
    assert_ok(stm_run_folder_open(*state, &run));
    assert_int_equal(stm_run_folder_requests(run, 100.0), 0);
    stm_test_write_text(stm_test_path(*state, "SAVE"), "");
    assert_int_equal(stm_run_folder_requests(run, 101.0), STM_REQUEST_SAVE);
    stm_test_write_text(stm_test_path(*state, "STOP"), "");
    assert_int_equal(stm_run_folder_requests(run, 102.0), STM_REQUEST_SAVE | STM_REQUEST_STOP);
    assert_true(stm_test_exists(stm_test_path(*state, "SAVE")));
    assert_ok(stm_run_folder_acknowledge(run, STM_REQUEST_SAVE));
    assert_false(stm_test_exists(stm_test_path(*state, "SAVE")));
    assert_true(stm_test_exists(stm_test_path(*state, "STOP")));
    assert_int_equal(stm_run_folder_requests(run, 102.5), STM_REQUEST_STOP);
    assert_ok(stm_run_folder_acknowledge(run, STM_REQUEST_STOP));
    assert_int_equal(stm_run_folder_requests(run, 104.0), 0);
    assert_ok(stm_run_folder_acknowledge(run, STM_REQUEST_STOP)); /* not there: nothing to remove */
    stm_run_folder_close(run);
}

static void disk_is_looked_at_once_a_second(void **state)
{
    stm_run_folder *run;
    assert_ok(stm_run_folder_open(*state, &run));
    assert_int_equal(stm_run_folder_requests(run, 10.0), 0);
    stm_test_write_text(stm_test_path(*state, "STOP"), "");
    assert_int_equal(stm_run_folder_requests(run, 10.9), 0);
    assert_int_equal(stm_run_folder_requests(run, 11.0), STM_REQUEST_STOP);
    stm_run_folder_close(run);
}

static void done_marks_the_end_and_goes_when_training_goes_on(void **state)
{
    stm_run_folder *run;
    assert_ok(stm_run_folder_open(*state, &run));
    assert_ok(stm_run_folder_begin(run, "a"));
    assert_ok(stm_run_folder_done(run, 200));
    assert_text(*state, "DONE", "step 200\n");
    stm_run_folder_close(run);
    assert_ok(stm_run_folder_open(*state, &run));
    assert_true(stm_test_exists(stm_test_path(*state, "DONE"))); /* a job that is refused later leaves it */
    assert_ok(stm_run_folder_begin(run, "b"));
    assert_false(stm_test_exists(stm_test_path(*state, "DONE")));
    assert_text(*state, "input.yaml", "b\n");
    assert_ok(stm_run_folder_done(run, 201));
    mkdir(stm_test_path(*state, "input.yaml.part"), 0777); /* the new input.yaml cannot be written */
    assert_fails(stm_run_folder_begin(run, "c"), STM_ERR_IO, "input.yaml.part");
    assert_false(stm_test_exists(stm_test_path(*state, "DONE")));
    stm_run_folder_close(run);
}

static void rollouts_are_whole_files_of_lines(void **state)
{
    stm_run_folder *run;
    static const char lines[] = "{\"a\":1}\n{\"b\":2}";
    assert_ok(stm_run_folder_open(*state, &run));
    assert_ok(stm_run_folder_rollouts(run, "step", 12, lines, sizeof lines - 1));
    assert_text(*state, "rollouts/step-00000012.jsonl", "{\"a\":1}\n{\"b\":2}\n");
    assert_ok(stm_run_folder_rollouts(run, "step", 12, lines, 8)); /* the step again, after a resume */
    assert_text(*state, "rollouts/step-00000012.jsonl", "{\"a\":1}\n");
    assert_ok(stm_run_folder_rollouts(run, "eval", 7, lines, 0));
    assert_text(*state, "rollouts/eval-00000007.jsonl", "");
    assert_int_equal(stm_test_count_files(stm_test_path(*state, "rollouts")), 2); /* no temporary file stays */
    stm_run_folder_close(run);
}

static void full_disk_leaves_the_old_file_whole(void **state)
{
    stm_run_folder *run;
    struct rlimit all, few;
    char lines[4096];
    memset(lines, 'x', sizeof lines);
    assert_ok(stm_run_folder_open(*state, &run));
    assert_ok(stm_run_folder_rollouts(run, "step", 1, "old\n", 4));
    getrlimit(RLIMIT_FSIZE, &all);
    few = all;
    few.rlim_cur = 1024; /* bytes a file: as a full disk, but for the name of the error */
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &few);
    const stm_status status = stm_run_folder_rollouts(run, "step", 1, lines, sizeof lines);
    setrlimit(RLIMIT_FSIZE, &all);
    assert_fails(status, STM_ERR_IO, "step-00000001.jsonl.part: cannot be written: File too large");
    assert_text(*state, "rollouts/step-00000001.jsonl", "old\n");
    assert_int_equal(stm_test_count_files(stm_test_path(*state, "rollouts")), 1);
    stm_run_folder_close(run);
}

static void ranks_without_the_folder_may_call_too(void **state)
{
    (void)state;
    assert_int_equal(stm_run_folder_requests(NULL, 1.0), 0);
    assert_ok(stm_run_folder_begin(NULL, ""));
    assert_ok(stm_run_folder_acknowledge(NULL, STM_REQUEST_STOP));
    assert_ok(stm_run_folder_rollouts(NULL, "step", 1, "", 0));
    assert_ok(stm_run_folder_done(NULL, 1));
    stm_run_folder_close(NULL);
}

int main(void)
{
#define IN_A_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        IN_A_FOLDER(folder_is_made_with_its_parents),
        IN_A_FOLDER(folder_that_cannot_be_made_is_named),
        IN_A_FOLDER(second_job_is_refused_until_the_first_has_ended),
        IN_A_FOLDER(lock_of_a_killed_job_does_not_stay),
        IN_A_FOLDER(a_command_that_outlives_the_job_does_not_hold_the_lock),
        IN_A_FOLDER(log_gets_all_that_is_printed_and_grows_over_jobs),
        IN_A_FOLDER(stop_and_save_are_seen_and_removed_once_acted_on),
        IN_A_FOLDER(disk_is_looked_at_once_a_second),
        IN_A_FOLDER(done_marks_the_end_and_goes_when_training_goes_on),
        IN_A_FOLDER(rollouts_are_whole_files_of_lines),
        IN_A_FOLDER(full_disk_leaves_the_old_file_whole),
        cmocka_unit_test(ranks_without_the_folder_may_call_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
