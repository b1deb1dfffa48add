/* Who may work in a run folder: on a disk whose locks the kernel keeps, and on one where only touches tell. */
#include "metrics/run_lock.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/folder.h"

static const stm_run_lock_rules own_disk = {.kernel_decides = true, .touch_s = 0.05, .gone_s = 0.5};
static const stm_run_lock_rules network = {.touch_s = 0.05, .gone_s = 0.5};

static int make_folder(void **state)
{
    unsetenv("SLURM_JOB_ID");
    *state = stm_test_folder_create();
    return 0;
}

static int remove_folder(void **state)
{
    stm_test_folder_remove(*state);
    return 0;
}

static void write_lock(const char *folder, const char *text)
{
    stm_test_write_text(stm_test_path(folder, "lock"), text);
}

static void make_old(const char *folder, int seconds)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    now.tv_sec -= seconds;
    assert_int_equal(utimensat(AT_FDCWD, stm_test_path(folder, "lock"), (struct timespec[]){now, now}, 0), 0);
}

static void assert_taken_within(const char *folder, const stm_run_lock_rules *rules, double least_s, double most_s)
{
    stm_run_lock *lock;
    const double start = stm_now_s();
    assert_ok(stm_run_lock_take(folder, rules, &lock));
    const double took = stm_now_s() - start;
    assert_true(took >= least_s && took < most_s);
    stm_run_lock_release(lock);
}

/* Another host's process: it touches the lock every few milliseconds. */
typedef struct {
    const char *path;
    volatile bool ends;
} toucher;

static void *touch(void *context)
{
    const toucher *t = context;
    while (!t->ends) {
        utimensat(AT_FDCWD, t->path, NULL, 0);
        usleep(20000);
    }
    return NULL;
}

static void a_living_owner_on_another_host_is_named(void **state)
{
    char path[512];
    snprintf(path, sizeof path, "%s", stm_test_path(*state, "lock"));
    toucher other = {.path = path};
    pthread_t thread;
    stm_run_lock *lock;
    write_lock(*state, "host far, job 4711, process 12\n");
    assert_int_equal(pthread_create(&thread, NULL, touch, &other), 0);
    assert_fails(stm_run_lock_take(*state, &network, &lock), STM_ERR_INPUT,
                 "is in use by another running job (host far, job 4711, process 12)");
    other.ends = true;
    pthread_join(thread, NULL);
}

static void an_owner_that_has_not_touched_it_for_long_is_gone(void **state)
{
    write_lock(*state, "host far, job 4711, process 12\n");
    assert_taken_within(*state, &network, 0.4, 5); /* it may be alive for half a second */
    write_lock(*state, "host far, job 4711, process 12\n");
    make_old(*state, 3);
    assert_taken_within(*state, &network, 0, 0.3);
    write_lock(*state, "host far, job 4711, process 12\n");
    assert_taken_within(*state, &own_disk, 0, 0.3); /* the kernel says that nobody holds it */
}

static void a_restarted_job_takes_up_its_own_lock(void **state)
{
    write_lock(*state, "host far, job 4711, process 12\n");
    setenv("SLURM_JOB_ID", "4711", 1);
    assert_taken_within(*state, &network, 0, 0.3);
    write_lock(*state, "host far, job 471, process 12\n");
    assert_taken_within(*state, &network, 0.4, 5);
    unsetenv("SLURM_JOB_ID");
}

static void a_lock_that_a_dead_host_holds_is_replaced_when_it_is_old(void **state)
{
    stm_run_lock *lock;
    write_lock(*state, "host far, job 4711, process 12\n");
    const int held = open(stm_test_path(*state, "lock"), O_RDWR); /* a server that still keeps it */
    assert_int_equal(flock(held, LOCK_EX), 0);
    assert_fails(stm_run_lock_take(*state, &network, &lock), STM_ERR_INPUT, "(host far, job 4711, process 12)");
    make_old(*state, 3);
    assert_fails(stm_run_lock_take(*state, &own_disk, &lock), STM_ERR_INPUT, "(host far, job 4711, process 12)");
    assert_taken_within(*state, &network, 0, 0.3);
    close(held);
}

static void an_owner_that_was_stopped_learns_that_it_is_not_any_more(void **state)
{
    stm_run_lock *lock;
    char *text;
    size_t n;
    assert_ok(stm_run_lock_take(*state, &own_disk, &lock));
    usleep(200000);
    assert_false(stm_run_lock_is_lost(lock));
    write_lock(*state, "host far, job 4712, process 13\n");
    for (int i = 0; i < 200 && !stm_run_lock_is_lost(lock); i++)
        usleep(10000);
    assert_true(stm_run_lock_is_lost(lock));
    stm_run_lock_release(lock);
    assert_ok(stm_read_file(stm_test_path(*state, "lock"), &text, &n)); /* it is the other's */
    assert_string_equal(text, "host far, job 4712, process 13\n");
    free(text);
}

static double modified_s(const char *path)
{
    struct stat about;
    assert_int_equal(stat(path, &about), 0);
    return (double)about.st_mtim.tv_sec + 1e-9 * (double)about.st_mtim.tv_nsec;
}

static void the_owner_touches_it_names_itself_and_leaves_it_empty(void **state)
{
    stm_run_lock *lock;
    char *text, expected[512], host[128] = "";
    size_t n;
    gethostname(host, sizeof host - 1);
    setenv("SLURM_JOB_ID", "99", 1);
    assert_ok(stm_run_lock_take(*state, &own_disk, &lock));
    unsetenv("SLURM_JOB_ID");
    snprintf(expected, sizeof expected, "host %s, job 99, process %ld\n", host, (long)getpid());
    assert_ok(stm_read_file(stm_test_path(*state, "lock"), &text, &n));
    assert_string_equal(text, expected);
    free(text);
    make_old(*state, 100);
    const double before = modified_s(stm_test_path(*state, "lock"));
    for (int i = 0; i < 200 && modified_s(stm_test_path(*state, "lock")) == before; i++)
        usleep(10000);
    assert_true(modified_s(stm_test_path(*state, "lock")) > before + 50);
    stm_run_lock_release(lock);
    assert_ok(stm_read_file(stm_test_path(*state, "lock"), &text, &n));
    assert_int_equal(n, 0);
    free(text);
}

int main(void)
{
#define IN_A_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        IN_A_FOLDER(a_living_owner_on_another_host_is_named),
        IN_A_FOLDER(an_owner_that_has_not_touched_it_for_long_is_gone),
        IN_A_FOLDER(a_restarted_job_takes_up_its_own_lock),
        IN_A_FOLDER(a_lock_that_a_dead_host_holds_is_replaced_when_it_is_old),
        IN_A_FOLDER(an_owner_that_was_stopped_learns_that_it_is_not_any_more),
        IN_A_FOLDER(the_owner_touches_it_names_itself_and_leaves_it_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
