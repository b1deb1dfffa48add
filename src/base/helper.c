#include "base/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/process.h"
#include "base/pulse.h"

enum { OUR_SOCKET = 3, OUR_CLAIM = 4 }; /* the helper's own numbers for them */
enum { SILENCE_S = 2 };                 /* in which a node's other ranks, killed by their launcher, say nothing */

static struct {
    pid_t id, launcher; /* id 0: none */
    int socket;
    int claim; /* a socket that rank and helper share: whose name is its own may speak for the node */
} helper = {.socket = -1, .claim = -1};

/* What travels: a request, then the bytes of command (with its NUL) and input; an answer, then what the command
 * printed, or the message of the failure. */
typedef struct {
    size_t n_command, n_input, most_output;
    double timeout_s;
} request;

typedef struct {
    stm_status status;
    size_t n;
} answer;

/* Both sides: false when the other is gone. */

static bool send_all(int socket, const void *bytes, size_t n)
{
    for (size_t done = 0; done < n;) {
        const ssize_t sent = send(socket, (const char *)bytes + done, n - done, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR)
            return false;
        done += sent > 0 ? (size_t)sent : 0;
    }
    return true;
}

static bool receive_all(int socket, void *bytes, size_t n)
{
    for (size_t done = 0; done < n;) {
        const ssize_t got = recv(socket, (char *)bytes + done, n - done, 0);
        if (got == 0 || (got < 0 && errno != EINTR))
            return false;
        done += got > 0 ? (size_t)got : 0;
    }
    return true;
}

/* The name, which is no file's, is free again when both have ended. Where it cannot be had for another reason than that
 * it is taken, two messages are better than none. */
bool stm_helper_speaks_first(void)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    char *at = name.sun_path + 1;
    stm_pulse_told_to_end();
    if (stm_pulse_own->spoke || helper.claim < 0)
        return true;
    memcpy(at, "stemma", 6);
    at += 6;
    for (long number = (long)helper.launcher; number > 0; number /= 10)
        *at++ = (char)('0' + number % 10);
    const socklen_t n = (socklen_t)(at - (char *)&name);
    if (bind(helper.claim, (const struct sockaddr *)&name, n) != 0 && errno == EADDRINUSE)
        return false;
    stm_pulse_own->spoke = true;
    return true;
}

/* The helper's side */

static bool send_answer(const answer *a, const char *bytes)
{
    return send_all(OUR_SOCKET, a, sizeof *a) && send_all(OUR_SOCKET, bytes, a->n);
}

/* bytes: [n_command + n_input], received. */
static bool run(const request *r, const char *bytes)
{
    char *output = NULL;
    answer a = {0};
    a.status = stm_process_run(bytes, bytes + r->n_command, r->n_input, r->timeout_s, r->most_output, OUR_SOCKET,
                               &output, &a.n);
    if (a.status != STM_OK)
        a.n = strlen(stm_failure());
    const bool heard = send_answer(&a, a.status == STM_OK ? output : stm_failure());
    free(output);
    return heard;
}

static bool serve_one(void)
{
    request r;
    if (!receive_all(OUR_SOCKET, &r, sizeof r))
        return false;
    char *bytes = malloc(r.n_command + r.n_input);
    if (!bytes) {
        (void)stm_fail(STM_ERR_MEMORY, "no memory for its input of %zu bytes", r.n_input);
        (void)send_answer(&(answer){STM_ERR_MEMORY, strlen(stm_failure())}, stm_failure());
        return false;
    }
    const bool heard = receive_all(OUR_SOCKET, bytes, r.n_command + r.n_input) && run(&r, bytes);
    free(bytes);
    return heard;
}

/* The rank is gone. Whoever ended it on purpose, itself included, has told it before. */
static void report_death(void)
{
    const stm_pulse *pulse = stm_pulse_own;
    char what[STM_PULSE_TEXT_BYTES];
    if (pulse->told_to_end || !stm_helper_speaks_first())
        return;
    stm_pulse_text(pulse, what);
    fprintf(stderr, "stemma: rank %d on %s died without a word: killed, or out of memory (%s)\n", pulse->rank,
            pulse->host, what);
}

static void be_helper(int socket) __attribute__((noreturn));
static void be_helper(int socket)
{
    static const int not_for_us[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGPIPE};
    for (size_t i = 0; i < sizeof not_for_us / sizeof *not_for_us; i++)
        signal(not_for_us[i], SIG_IGN);
    signal(SIGCHLD, SIG_DFL); /* some launchers ignore it, and no exit code is left */
    setsid();
    const int nothing = open("/dev/null", O_RDWR);
    dup2(nothing, STDIN_FILENO);
    dup2(nothing, STDOUT_FILENO);
    const int claim = dup(helper.claim), high = fcntl(socket, F_DUPFD, OUR_CLAIM + 1);
    dup2(claim, OUR_CLAIM);
    dup2(high, OUR_SOCKET);
    helper.claim = claim < 0 ? -1 : OUR_CLAIM;
    fcntl(OUR_SOCKET, F_SETFD, FD_CLOEXEC);
    fcntl(OUR_CLAIM, F_SETFD, FD_CLOEXEC);
    closefrom(OUR_CLAIM + 1); /* a launcher that waits for the end of the rank's own files must not wait for us */
    while (serve_one())
        ;
    report_death();
    close(STDERR_FILENO); /* which a launcher may wait for */
    if (stm_pulse_own->spoke)
        sleep(SILENCE_S);
    _exit(0);
}

/* The rank's side */

stm_status stm_helper_begin(void)
{
    int ends[2];
    STM_TRY(stm_pulse_share());
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return stm_fail(STM_ERR_IO, "no socket for the helper process: %s", strerror(errno));
    helper.launcher = getppid();
    helper.claim = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const pid_t id = fork();
    if (id == 0)
        be_helper(ends[1]);
    close(ends[1]);
    if (id < 0) {
        close(ends[0]);
        return stm_fail(STM_ERR_IO, "no helper process: %s", strerror(errno));
    }
    helper.id = id;
    helper.socket = ends[0];
    return STM_OK;
}

void stm_helper_end(void)
{
    if (helper.id == 0)
        return;
    stm_pulse_told_to_end();
    close(helper.socket);
    close(helper.claim);
    while (waitpid(helper.id, NULL, 0) < 0 && errno == EINTR)
        ;
    helper.id = 0;
    helper.socket = helper.claim = -1;
}

static stm_status no_helper(void)
{
    return stm_fail(STM_ERR_IO, "the helper process that starts commands is gone");
}

/* After the header of an answer. */
static stm_status receive_answer(const answer *a, char **output, size_t *n_output)
{
    char *bytes;
    STM_TRY(stm_alloc(a->n + 1, 1, &bytes));
    if (!receive_all(helper.socket, bytes, a->n)) {
        free(bytes);
        return no_helper();
    }
    bytes[a->n] = 0;
    if (a->status != STM_OK) {
        (void)stm_fail(a->status, "%s", bytes);
        free(bytes);
        return a->status;
    }
    *output = bytes;
    *n_output = a->n;
    return STM_OK;
}

stm_status stm_helper_run(const char *command, const char *input, size_t n_input, double timeout_s, size_t most_output,
                          char **output, size_t *n_output)
{
    const request r = {strlen(command) + 1, n_input, most_output, timeout_s};
    answer a;
    if (helper.id == 0 || !send_all(helper.socket, &r, sizeof r) || !send_all(helper.socket, command, r.n_command) ||
        !send_all(helper.socket, input, n_input) || !receive_all(helper.socket, &a, sizeof a))
        return no_helper();
    return receive_answer(&a, output, n_output);
}
