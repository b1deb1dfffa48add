#include "base/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

/* By the helper process, which is the usual caller, or by some launcher: a command starts with none ignored. */
static const int ignored_here[] = {SIGPIPE, SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2};

typedef struct {
    pid_t id;    /* also of its process group */
    int in, out; /* our ends of its stdin and stdout; -1: closed */
    bool ended;  /* but not yet waited for, so that its group's number stays its own */
} process;

static void close_once(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* The environment without what MPI launchers put there; the strings stay environ's own. The caller frees the list. */
static stm_status clean_environment(char ***out)
{
    static const char *const prefixes[] = {"OMPI_", "OPAL_", "ORTE_",  "PRTE_", "PMIX_",  "PMI_",   "PMI2_",
                                           "MPI_",  "MPIR_", "MPICH_", "HYDI_", "HYDRA_", "I_MPI_", "MPIEXEC_"};
    size_t n = 0, kept = 0;
    while (environ[n])
        n++;
    STM_TRY(stm_alloc(n + 1, sizeof **out, out));
    for (size_t i = 0; i < n; i++) {
        bool drop = false;
        for (size_t p = 0; p < sizeof prefixes / sizeof *prefixes; p++)
            drop = drop || strncmp(environ[i], prefixes[p], strlen(prefixes[p])) == 0;
        if (!drop)
            (*out)[kept++] = environ[i];
    }
    return STM_OK;
}

/* posix_spawn, since a fork of a process with registered communication memory may corrupt it. mask: the signals that
 * the child blocks. */
static stm_status start(const char *command, const sigset_t *mask, process *child)
{
    stm_status status = STM_OK;
    int to[2] = {-1, -1}, from[2] = {-1, -1}, code;
    char **environment = NULL;
    char shell[] = "/bin/sh", option[] = "-c";
    char *arguments[] = {shell, option, (char *)command, NULL};
    sigset_t standard;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigemptyset(&standard);
    for (size_t i = 0; i < sizeof ignored_here / sizeof *ignored_here; i++)
        sigaddset(&standard, ignored_here[i]);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    STM_GOTO_OUT(clean_environment(&environment));
    if (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0) {
        status = stm_fail(STM_ERR_IO, "no pipe: %s", strerror(errno));
        goto out;
    }
    fcntl(to[1], F_SETFL, O_NONBLOCK);
    fcntl(from[0], F_SETFL, O_NONBLOCK);
    posix_spawn_file_actions_adddup2(&actions, to[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, from[1], STDOUT_FILENO);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setsigdefault(&attributes, &standard);
    posix_spawnattr_setsigmask(&attributes, mask);
    code = posix_spawn(&child->id, shell, &actions, &attributes, arguments, environment);
    if (code != 0) {
        status = stm_fail(STM_ERR_IO, "cannot be started: %s", strerror(code));
        goto out;
    }
    child->in = to[1];
    child->out = from[0];
    to[1] = from[0] = -1;
out:
    for (int i = 0; i < 2; i++) {
        close_once(&to[i]);
        close_once(&from[i]);
    }
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    free(environment);
    return status;
}

static bool has_ended(process *child)
{
    siginfo_t about = {0};
    if (!child->ended)
        child->ended = waitid(P_PID, (id_t)child->id, &about, WEXITED | WNOHANG | WNOWAIT) != 0 || about.si_pid != 0;
    return child->ended;
}

static stm_status nobody_waits(void)
{
    return stm_fail(STM_ERR_IO, "nobody waits for it any more");
}

/* Serves both pipes until the child has closed its side or, when something that it left running holds that open, until
 * it has ended. */
static stm_status exchange(process *child, const char *input, size_t n_input, double timeout_s, size_t most_output,
                           int tie, char **output, size_t *n_output)
{
    const double deadline = stm_now_s() + timeout_s;
    size_t sent = 0, capacity = 0;
    for (;;) {
        if (sent == n_input)
            close_once(&child->in);
        STM_TRY(stm_reserve(output, &capacity, *n_output + 65536, 1));
        struct pollfd ready[] = {
            {.fd = child->out, .events = POLLIN}, {.fd = child->in, .events = POLLOUT}, {.fd = tie}};
        const int n_ready = poll(ready, 3, 50); /* a negative descriptor is skipped */
        if (ready[2].revents)
            return nobody_waits();
        if (stm_now_s() > deadline)
            return stm_fail(STM_ERR_IO, "timed out after %g s", timeout_s);
        if (n_ready <= 0) {
            if (has_ended(child))
                break;
            continue;
        }
        if (ready[1].revents) {
            const ssize_t n = write(child->in, input + sent, n_input - sent);
            if (n >= 0)
                sent += (size_t)n;
            else if (errno != EAGAIN && errno != EINTR)
                close_once(&child->in); /* it reads no more */
        }
        if (ready[0].revents) {
            const ssize_t n = read(child->out, *output + *n_output, capacity - *n_output - 1);
            if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
                break;
            *n_output += n > 0 ? (size_t)n : 0;
            if (*n_output > most_output)
                return stm_fail(STM_ERR_IO, "printed more than %zu bytes", most_output);
        }
    }
    (*output)[*n_output] = 0;
    close_once(&child->in);
    while (!has_ended(child)) {
        if (stm_now_s() > deadline)
            return stm_fail(STM_ERR_IO, "timed out after %g s", timeout_s);
        if (poll(&(struct pollfd){.fd = tie}, 1, 1) > 0)
            return nobody_waits();
    }
    return STM_OK;
}

/* Ends the child, if it has not ended, and whatever it has left running in its group: that would hold the job's stderr
 * open, and with it the launcher. Returns the child's state as waitpid gives it; 0 when somebody else took it. */
static int end_group(const process *child)
{
    int state = 0;
    kill(-child->id, SIGKILL);
    while (waitpid(child->id, &state, 0) < 0 && errno == EINTR)
        ;
    return state;
}

static stm_status judge(int state)
{
    if (WIFSIGNALED(state))
        return stm_fail(STM_ERR_IO, "was ended by signal %d", WTERMSIG(state));
    if (WEXITSTATUS(state) != 0)
        return stm_fail(STM_ERR_IO, "ended with exit code %d", WEXITSTATUS(state));
    return STM_OK;
}

stm_status stm_process_run(const char *command, const char *input, size_t n_input, double timeout_s, size_t most_output,
                           int tie, char **output, size_t *n_output)
{
    /* Writing to a child that is gone raises SIGPIPE in this thread: blocked here, and taken back unless one was
     * waiting before. */
    sigset_t broken_pipe, before, waiting;
    sigemptyset(&broken_pipe);
    sigaddset(&broken_pipe, SIGPIPE);
    sigpending(&waiting);
    pthread_sigmask(SIG_BLOCK, &broken_pipe, &before);

    process child = {.in = -1, .out = -1};
    char *text = NULL;
    size_t n = 0;
    stm_status status = start(command, &before, &child);
    if (status == STM_OK) {
        status = exchange(&child, input, n_input, timeout_s, most_output, tie, &text, &n);
        const int state = end_group(&child);
        if (status == STM_OK)
            status = judge(state);
    }
    close_once(&child.in);
    close_once(&child.out);

    if (!sigismember(&waiting, SIGPIPE))
        while (sigtimedwait(&broken_pipe, NULL, &(struct timespec){0}) < 0 && errno == EINTR)
            ;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (status != STM_OK) {
        free(text);
        return status;
    }
    *output = text;
    *n_output = n;
    return STM_OK;
}
