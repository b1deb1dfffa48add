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

struct stm_process {
    pid_t id;    /* also of its process group */
    int in, out; /* our ends of its stdin and stdout; -1: closed */
    bool ended;  /* but not yet waited for, so that its group's number stays its own */
};

/* What is said to it, and what it prints. */
typedef struct {
    const char *input;
    size_t n_input, sent;
    size_t n_lines, lines; /* asked for; n_lines 0: all until it ends */
    double timeout_s, deadline;
    size_t most_output;
    int tie;
    char *output; /* [capacity] */
    size_t n_output, capacity;
} talk;

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
static stm_status start(const char *command, const sigset_t *mask, stm_process *child)
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

static bool has_ended(stm_process *child)
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

static stm_status timed_out(const talk *t)
{
    return stm_fail(STM_ERR_IO, "timed out after %g s", t->timeout_s);
}

static void write_some(stm_process *child, talk *t)
{
    const ssize_t n = write(child->in, t->input + t->sent, t->n_input - t->sent);
    if (n >= 0)
        t->sent += (size_t)n;
    else if (errno != EAGAIN && errno != EINTR)
        close_once(&child->in); /* it reads no more */
}

/* *closed: it will print no more. */
static stm_status read_some(const stm_process *child, talk *t, bool *closed)
{
    char *at = t->output + t->n_output;
    const ssize_t n = read(child->out, at, t->capacity - t->n_output - 1);
    *closed = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
    for (ssize_t i = 0; i < n; i++)
        t->lines += at[i] == '\n';
    t->n_output += n > 0 ? (size_t)n : 0;
    if (t->n_output > t->most_output)
        return stm_fail(STM_ERR_IO, "printed more than %zu bytes", t->most_output);
    return STM_OK;
}

/* Serves both pipes until the child has printed what was asked for, has closed its side or, when something that it left
 * running holds that open, has ended. */
static stm_status exchange(stm_process *child, talk *t)
{
    bool closed = false;
    while (!closed && !(t->n_lines > 0 && t->lines >= t->n_lines)) {
        const bool all_sent = t->sent == t->n_input;
        if (all_sent && t->n_lines == 0)
            close_once(&child->in);
        STM_TRY(stm_reserve(&t->output, &t->capacity, t->n_output + 65536, 1));
        struct pollfd ready[] = {
            {.fd = child->out, .events = POLLIN}, {.fd = all_sent ? -1 : child->in, .events = POLLOUT}, {.fd = t->tie}};
        const int n_ready = poll(ready, 3, 50); /* a negative descriptor is skipped */
        if (ready[2].revents)
            return nobody_waits();
        if (stm_now_s() > t->deadline)
            return timed_out(t);
        if (n_ready <= 0)
            closed = has_ended(child);
        if (n_ready > 0 && ready[1].revents)
            write_some(child, t);
        if (n_ready > 0 && ready[0].revents)
            STM_TRY(read_some(child, t, &closed));
    }
    return STM_OK;
}

static stm_status await_end(stm_process *child, const talk *t)
{
    close_once(&child->in);
    while (!has_ended(child)) {
        if (stm_now_s() > t->deadline)
            return timed_out(t);
        if (poll(&(struct pollfd){.fd = t->tie}, 1, 1) > 0)
            return nobody_waits();
    }
    return STM_OK;
}

/* Ends the child, if it has not ended, and whatever it has left running in its group: that would hold the job's stderr
 * open, and with it the launcher. Returns the child's state as waitpid gives it; 0 when somebody else took it. */
static int end_group(const stm_process *child)
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

/* Writing to a child that is gone raises SIGPIPE in this thread: blocked while we talk, and taken back unless one was
 * waiting before. */
typedef struct {
    sigset_t broken_pipe, before, waiting;
} guard;

static void begin_guard(guard *g)
{
    sigemptyset(&g->broken_pipe);
    sigaddset(&g->broken_pipe, SIGPIPE);
    sigpending(&g->waiting);
    pthread_sigmask(SIG_BLOCK, &g->broken_pipe, &g->before);
}

static void end_guard(const guard *g)
{
    if (!sigismember(&g->waiting, SIGPIPE))
        while (sigtimedwait(&g->broken_pipe, NULL, &(struct timespec){0}) < 0 && errno == EINTR)
            ;
    pthread_sigmask(SIG_SETMASK, &g->before, NULL);
}

stm_status stm_process_run(const char *command, const char *input, size_t n_input, double timeout_s, size_t most_output,
                           int tie, char **output, size_t *n_output)
{
    guard g;
    stm_process child = {.in = -1, .out = -1};
    talk t = {.input = input,
              .n_input = n_input,
              .timeout_s = timeout_s,
              .deadline = stm_now_s() + timeout_s,
              .most_output = most_output,
              .tie = tie};
    begin_guard(&g);
    stm_status status = start(command, &g.before, &child);
    if (status == STM_OK) {
        status = exchange(&child, &t);
        if (status == STM_OK)
            status = await_end(&child, &t);
        const int state = end_group(&child);
        if (status == STM_OK)
            status = judge(state);
    }
    close_once(&child.in);
    close_once(&child.out);
    end_guard(&g);
    if (status != STM_OK) {
        free(t.output);
        return status;
    }
    t.output[t.n_output] = 0;
    *output = t.output;
    *n_output = t.n_output;
    return STM_OK;
}

/* One that stays */

stm_status stm_process_start(const char *command, stm_process **out)
{
    sigset_t mask;
    stm_process *child;
    STM_TRY(stm_alloc(1, sizeof *child, &child));
    *child = (stm_process){.in = -1, .out = -1};
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    const stm_status status = start(command, &mask, child);
    if (status != STM_OK) {
        free(child);
        return status;
    }
    *out = child;
    return STM_OK;
}

/* Why there are fewer lines than were asked for. */
static stm_status ended_early(stm_process *child, const talk *t)
{
    siginfo_t about = {0};
    STM_TRY(await_end(child, t));
    const bool known = waitid(P_PID, (id_t)child->id, &about, WEXITED | WNOHANG | WNOWAIT) == 0;
    if (known && about.si_code != CLD_EXITED)
        return stm_fail(STM_ERR_IO, "was ended by signal %d", about.si_status);
    return stm_fail(STM_ERR_IO, "ended with exit code %d after %zu of %zu answers", about.si_status, t->lines,
                    t->n_lines);
}

stm_status stm_process_ask(stm_process *process, const char *input, size_t n_input, size_t n_lines, double timeout_s,
                           size_t most_output, int tie, char **output, size_t *n_output)
{
    guard g;
    talk t = {.input = input,
              .n_input = n_input,
              .n_lines = n_lines,
              .timeout_s = timeout_s,
              .deadline = stm_now_s() + timeout_s,
              .most_output = most_output,
              .tie = tie};
    begin_guard(&g);
    stm_status status = exchange(process, &t);
    end_guard(&g);
    if (status == STM_OK && t.lines < n_lines)
        status = ended_early(process, &t);
    if (t.output)
        t.output[t.n_output] = 0;
    *output = t.output;
    *n_output = t.n_output;
    return status;
}

void stm_process_stop(stm_process *process, double patience_s)
{
    if (!process)
        return;
    const double deadline = stm_now_s() + patience_s;
    if (patience_s > 0.0)
        close_once(&process->in);
    while (!has_ended(process) && stm_now_s() < deadline)
        poll(NULL, 0, 5);
    (void)end_group(process);
    close_once(&process->in);
    close_once(&process->out);
    free(process);
}
