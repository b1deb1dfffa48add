#include "metrics/run_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

enum { TEXT_BYTES = 512, HOST_BYTES = 128, JOB_BYTES = 128, XFS_MAGIC = 0x58465342, ZFS_MAGIC = 0x2FC12FC1 };

typedef struct {
    char text[TEXT_BYTES]; /* "host H, job J, process P"; "": nobody */
    char host[HOST_BYTES], job[JOB_BYTES];
} owner;

struct stm_run_lock {
    char *path;
    stm_run_lock_rules rules;
    int file;
    owner me;
    pthread_t toucher;
    bool touches, ends, lost; /* touches: the thread runs; the others under the mutex */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
};

/* Who */

static void set_owner(owner *o, const char *host, const char *job, long process)
{
    snprintf(o->host, sizeof o->host, "%s", host);
    snprintf(o->job, sizeof o->job, "%s", job);
    if (*job)
        snprintf(o->text, sizeof o->text, "host %s, job %s, process %ld", o->host, o->job, process);
    else
        snprintf(o->text, sizeof o->text, "host %s, process %ld", o->host, process);
}

/* The batch system's name for this job; "": there is none. */
static const char *job_id(void)
{
    static const char *const names[] = {"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *id = getenv(names[i]);
        if (id && *id)
            return id;
    }
    return "";
}

static void find_me(owner *me)
{
    char host[HOST_BYTES] = "";
    gethostname(host, sizeof host - 1);
    set_owner(me, host, job_id(), (long)getpid());
}

/* What the file says; anything unknown is an owner whose host is not this one. */
static void read_owner(int file, owner *o)
{
    *o = (owner){0};
    const ssize_t n = pread(file, o->text, sizeof o->text - 1, 0);
    o->text[n > 0 ? n : 0] = 0;
    o->text[strcspn(o->text, "\n")] = 0;
    if (sscanf(o->text, "host %127[^,], job %127[^,]", o->host, o->job) < 1)
        o->host[0] = 0;
}

static stm_status failure(const stm_run_lock *lock, const char *what)
{
    return stm_fail(STM_ERR_IO, "%s: %s: %s", lock->path, what, strerror(errno));
}

static stm_status is_in_use(const stm_run_lock *lock, const owner *by)
{
    const int n = (int)(strrchr(lock->path, '/') - lock->path);
    return stm_fail(STM_ERR_INPUT,
                    "run.folder: %.*s is in use by another running job (%s); expected a folder of its own", n,
                    lock->path, *by->text ? by->text : "unknown");
}

/* Time, as the file system has it: clocks of hosts differ */

static double seconds_of(const struct timespec *t)
{
    return (double)t->tv_sec + 1e-9 * (double)t->tv_nsec;
}

static double touched_s(int file)
{
    struct stat about;
    return fstat(file, &about) == 0 ? seconds_of(&about.st_mtim) : 0.0;
}

/* How long ago the file was touched: against one that is made now. */
static stm_status age_of(const stm_run_lock *lock, int file, double *age_s)
{
    char *path;
    STM_TRY(stm_format(&path, "%s.%ld", lock->path, (long)getpid()));
    stm_status status = STM_OK;
    const int now = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (now < 0 || futimens(now, NULL) != 0)
        status = failure(lock, "the time cannot be told");
    else
        *age_s = touched_s(now) - touched_s(file);
    if (now >= 0)
        close(now);
    unlink(path);
    free(path);
    return status;
}

static void sleep_s(double seconds)
{
    const struct timespec time = {.tv_sec = (time_t)seconds,
                                  .tv_nsec = (long)(1e9 * (seconds - (double)(time_t)seconds))};
    nanosleep(&time, NULL);
}

/* Waits until the owner touches the file, or has not for so long that it is gone. */
static stm_status wait_for_a_touch(const stm_run_lock *lock, int file, const owner *by)
{
    const double before = touched_s(file);
    double age_s;
    while (true) {
        STM_TRY(age_of(lock, file, &age_s));
        if (age_s >= lock->rules.gone_s)
            return STM_OK;
        sleep_s(lock->rules.touch_s / 10);
        if (touched_s(file) != before)
            return is_in_use(lock, by);
    }
}

/* Taking */

typedef enum { FREE, HELD, UNKNOWN } kernel_word; /* of flock; unknown: the file system has none */

/* Whether the file is free for this process. */
static stm_status judge(const stm_run_lock *lock, int file, kernel_word word)
{
    owner by;
    double age_s;
    read_owner(file, &by);
    const bool is_here = strcmp(by.host, lock->me.host) == 0;
    if (word != UNKNOWN && (lock->rules.kernel_decides || is_here))
        return word == FREE ? STM_OK : is_in_use(lock, &by);
    if (!*by.text || (*by.job && strcmp(by.job, lock->me.job) == 0))
        return STM_OK;
    if (word != HELD)
        return wait_for_a_touch(lock, file, &by);
    STM_TRY(age_of(lock, file, &age_s));
    return age_s >= lock->rules.gone_s ? STM_OK : is_in_use(lock, &by);
}

/* A new file in the place of one that another process may still hold. */
static stm_status replace(stm_run_lock *lock)
{
    close(lock->file);
    unlink(lock->path);
    lock->file = open(lock->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (lock->file < 0)
        return failure(lock, "another job takes it now");
    (void)flock(lock->file, LOCK_EX | LOCK_NB);
    return STM_OK;
}

static stm_status take(stm_run_lock *lock)
{
    lock->file = open(lock->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock->file < 0)
        return failure(lock, "cannot be opened");
    const kernel_word word = flock(lock->file, LOCK_EX | LOCK_NB) == 0 ? FREE : errno == EWOULDBLOCK ? HELD : UNKNOWN;
    STM_TRY(judge(lock, lock->file, word));
    if (word == HELD)
        STM_TRY(replace(lock));
    if (ftruncate(lock->file, 0) != 0 || dprintf(lock->file, "%s\n", lock->me.text) < 0)
        return failure(lock, "cannot be written");
    return STM_OK;
}

/* Touching */

/* Whether the file still names this process. */
static bool is_mine(const stm_run_lock *lock)
{
    owner by = {0};
    const int file = open(lock->path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return errno != ENOENT; /* a disk that is away for a moment proves nothing */
    read_owner(file, &by);
    close(file);
    return strcmp(by.text, lock->me.text) == 0;
}

static void *touch(void *context)
{
    stm_run_lock *lock = context;
    pthread_mutex_lock(&lock->mutex);
    while (!lock->ends && !lock->lost) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        const double end = seconds_of(&until) + lock->rules.touch_s;
        until = (struct timespec){.tv_sec = (time_t)end, .tv_nsec = (long)(1e9 * (end - (double)(time_t)end))};
        pthread_cond_timedwait(&lock->changed, &lock->mutex, &until);
        if (!is_mine(lock))
            lock->lost = true;
        else if (!lock->ends)
            (void)futimens(lock->file, NULL);
    }
    pthread_mutex_unlock(&lock->mutex);
    return NULL;
}

/* Signals are the main thread's. */
static stm_status start_touching(stm_run_lock *lock)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(&lock->toucher, NULL, touch, lock);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    lock->touches = error == 0;
    return error == 0 ? STM_OK : stm_fail(STM_ERR_MEMORY, "%s: no thread: %s", lock->path, strerror(error));
}

/* Whole */

stm_run_lock_rules stm_run_lock_rules_of(const char *folder)
{
    static const long local[] = {EXT4_SUPER_MAGIC,      XFS_MAGIC,        BTRFS_SUPER_MAGIC, TMPFS_MAGIC,
                                 OVERLAYFS_SUPER_MAGIC, F2FS_SUPER_MAGIC, ZFS_MAGIC};
    struct statfs about;
    stm_run_lock_rules rules = {.touch_s = 10, .gone_s = 60};
    if (statfs(folder, &about) == 0)
        for (size_t i = 0; i < sizeof local / sizeof *local; i++)
            rules.kernel_decides = rules.kernel_decides || (long)about.f_type == local[i];
    return rules;
}

stm_status stm_run_lock_take(const char *folder, const stm_run_lock_rules *rules, stm_run_lock **out)
{
    stm_run_lock *lock;
    STM_TRY(stm_alloc(1, sizeof *lock, &lock));
    *lock = (stm_run_lock){.rules = *rules, .file = -1};
    pthread_mutex_init(&lock->mutex, NULL);
    pthread_cond_init(&lock->changed, NULL);
    find_me(&lock->me);
    stm_status status = stm_format(&lock->path, "%s/lock", folder);
    status = status == STM_OK ? take(lock) : status;
    status = status == STM_OK ? start_touching(lock) : status;
    if (status != STM_OK) {
        stm_run_lock_release(lock);
        return status;
    }
    *out = lock;
    return STM_OK;
}

void stm_run_lock_release(stm_run_lock *lock)
{
    if (!lock)
        return;
    if (lock->touches) {
        pthread_mutex_lock(&lock->mutex);
        lock->ends = true;
        pthread_cond_signal(&lock->changed);
        pthread_mutex_unlock(&lock->mutex);
        pthread_join(lock->toucher, NULL);
        if (!lock->lost)
            (void)!ftruncate(lock->file, 0);
    }
    if (lock->file >= 0)
        close(lock->file);
    pthread_cond_destroy(&lock->changed);
    pthread_mutex_destroy(&lock->mutex);
    free(lock->path);
    free(lock);
}

bool stm_run_lock_is_lost(const stm_run_lock *lock)
{
    if (!lock)
        return false;
    stm_run_lock *l = (stm_run_lock *)lock;
    pthread_mutex_lock(&l->mutex);
    const bool lost = l->lost;
    pthread_mutex_unlock(&l->mutex);
    return lost;
}
