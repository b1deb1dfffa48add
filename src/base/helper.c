#include "base/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/process.h"
#include "base/pulse.h"

enum { OUR_SOCKET = 3, OUR_CLAIM = 4 }; /* the helper's own numbers for them */
enum { STOPPED_S = 20 };                /* after which a rank that nobody listens to is ended */
enum { HELPER_MS = 10000 };             /* in which a helper ends by itself */
enum { SILENCE_S = 2 };                 /* in which a node's other ranks, killed by their launcher, say nothing */

static struct {
    pid_t id, rank, launcher; /* id 0: none */
    int socket;
    int claim; /* a socket that rank and helper share: whose name is its own may speak for the node */
} helper = {.socket = -1, .claim = -1};

enum { PATIENCE_MS = 1000 }; /* with which a command that stays is let end by itself */

/* What travels: a request, then the bytes of command (with its NUL) and input; an answer, then what the command
 * printed, then the message of a failure. To stop a server has no answer. */
typedef struct {
    enum { RUN, ASK, STOP } kind;
    size_t server, n_lines; /* of ASK and STOP */
    size_t n_command, n_input, most_output;
    double timeout_s;
} request;

typedef struct {
    stm_status status;
    size_t n_output, n_message;
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

/* The commands that stay. */
static struct {
    size_t n, capacity;
    struct server {
        size_t number;
        stm_process *process;
    } * items;
} servers;

/* Room for the number, without a process when it is new. */
static stm_status find_server(size_t number, struct server **out)
{
    size_t i = 0;
    while (i < servers.n && servers.items[i].number != number)
        i++;
    if (i == servers.n) {
        STM_TRY(stm_reserve(&servers.items, &servers.capacity, i + 1, sizeof *servers.items));
        servers.items[servers.n++] = (struct server){.number = number};
    }
    *out = &servers.items[i];
    return STM_OK;
}

static void stop_server(size_t number, double patience_s)
{
    for (size_t i = 0; i < servers.n; i++)
        if (servers.items[i].number == number) {
            stm_process_stop(servers.items[i].process, patience_s);
            servers.items[i].process = NULL;
        }
}

static void stop_servers(void)
{
    for (size_t i = 0; i < servers.n; i++)
        stop_server(servers.items[i].number, PATIENCE_MS / 1e3);
}

/* One that has failed is killed: the next question starts it anew. */
static stm_status ask(const request *r, const char *command, const char *input, char **output, size_t *n_output)
{
    struct server *server;
    STM_TRY(find_server(r->server, &server));
    if (!server->process)
        STM_TRY(stm_process_start(command, &server->process));
    const stm_status status = stm_process_ask(server->process, input, r->n_input, r->n_lines, r->timeout_s,
                                              r->most_output, OUR_SOCKET, output, n_output);
    if (status != STM_OK)
        stop_server(r->server, 0.0);
    return status;
}

static bool send_answer(stm_status status, const char *output, size_t n_output)
{
    const answer a = {status, n_output, status == STM_OK ? 0 : strlen(stm_failure())};
    return send_all(OUR_SOCKET, &a, sizeof a) && send_all(OUR_SOCKET, output, n_output) &&
           send_all(OUR_SOCKET, stm_failure(), a.n_message);
}

/* bytes: [n_command + n_input], received. */
static bool run(const request *r, const char *bytes)
{
    const char *input = bytes + r->n_command;
    char *output = NULL;
    size_t n_output = 0;
    if (r->kind == STOP) {
        stop_server(r->server, r->timeout_s);
        return true;
    }
    const stm_status status = r->kind == ASK ? ask(r, bytes, input, &output, &n_output)
                                             : stm_process_run(bytes, input, r->n_input, r->timeout_s, r->most_output,
                                                               OUR_SOCKET, &output, &n_output);
    const bool heard = send_answer(status, output, n_output);
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
        (void)send_answer(STM_ERR_MEMORY, NULL, 0);
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

/* Of a process that a debugger holds, this is not true. */
static bool rank_is_stopped(void)
{
    char path[32], line[256] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", (int)helper.rank);
    FILE *file = fopen(path, "r");
    if (file) {
        (void)!fgets(line, sizeof line, file);
        fclose(file);
    }
    const char *state = strrchr(line, ')');
    return state && strncmp(state, ") T", 3) == 0;
}

static void end_stopped_rank(void)
{
    char what[STM_PULSE_TEXT_BYTES];
    stm_pulse_text(stm_pulse_own, what);
    if (stm_helper_speaks_first())
        fprintf(stderr, "stemma: rank %d on %s has stopped: for %d s (%s)\n", stm_pulse_own->rank, stm_pulse_own->host,
                STOPPED_S, what);
    if (getppid() == helper.rank)
        kill(helper.rank, SIGKILL);
}

/* Until there is a request, or the rank is gone. Before MPI has started and while it ends nobody else would notice that
 * the rank has been stopped, and others may wait for it. */
static void await_request(void)
{
    enum { LOOK_MS = 1000 };
    struct pollfd rank = {.fd = OUR_SOCKET, .events = POLLIN};
    for (int stopped_ms = 0; poll(&rank, 1, LOOK_MS) == 0;) {
        stopped_ms = !stm_pulse_own->listened_to && rank_is_stopped() ? stopped_ms + LOOK_MS : 0;
        if (stopped_ms >= 1000 * STOPPED_S)
            end_stopped_rank();
    }
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
    do
        await_request();
    while (serve_one());
    report_death();
    stop_servers();
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
    helper.rank = getpid();
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
    for (int ms = 0; waitpid(helper.id, NULL, WNOHANG) == 0; ms++) {
        if (ms == HELPER_MS) /* it has been stopped: SIGKILL ends it */
            kill(helper.id, SIGKILL);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    helper.id = 0;
    helper.socket = helper.claim = -1;
}

static stm_status no_helper(void)
{
    return stm_fail(STM_ERR_IO, "the helper process that starts commands is gone");
}

/* n bytes of an answer and a NUL; NULL where the helper is gone. */
static stm_status receive_text(size_t n, char **text)
{
    STM_TRY(stm_alloc(n + 1, 1, text));
    if (!receive_all(helper.socket, *text, n)) {
        free(*text);
        *text = NULL;
        return no_helper();
    }
    (*text)[n] = 0;
    return STM_OK;
}

static stm_status receive_answer(char **output, size_t *n_output)
{
    answer a;
    char *message;
    *output = NULL;
    *n_output = 0;
    if (!receive_all(helper.socket, &a, sizeof a))
        return no_helper();
    STM_TRY(receive_text(a.n_output, output));
    *n_output = a.n_output;
    if (a.status == STM_OK)
        return STM_OK;
    STM_TRY(receive_text(a.n_message, &message));
    (void)stm_fail(a.status, "%s", message);
    free(message);
    return a.status;
}

static stm_status send_request(const request *r, const char *command, const char *input)
{
    if (helper.id == 0 || !send_all(helper.socket, r, sizeof *r) || !send_all(helper.socket, command, r->n_command) ||
        !send_all(helper.socket, input, r->n_input))
        return no_helper();
    return STM_OK;
}

stm_status stm_helper_run(const char *command, const char *input, size_t n_input, double timeout_s, size_t most_output,
                          char **output, size_t *n_output)
{
    const request r = {.kind = RUN,
                       .n_command = strlen(command) + 1,
                       .n_input = n_input,
                       .most_output = most_output,
                       .timeout_s = timeout_s};
    char *text = NULL;
    size_t n = 0;
    stm_status status = send_request(&r, command, input);
    if (status == STM_OK)
        status = receive_answer(&text, &n);
    if (status != STM_OK) {
        free(text);
        return status;
    }
    *output = text;
    *n_output = n;
    return STM_OK;
}

size_t stm_helper_server(void)
{
    static size_t last;
    return ++last;
}

stm_status stm_helper_ask(size_t server, const char *command, const char *input, size_t n_input, size_t n_lines,
                          double timeout_s, size_t most_output, char **output, size_t *n_output)
{
    const request r = {.kind = ASK,
                       .server = server,
                       .n_lines = n_lines,
                       .n_command = strlen(command) + 1,
                       .n_input = n_input,
                       .most_output = most_output,
                       .timeout_s = timeout_s};
    *output = NULL;
    *n_output = 0;
    STM_TRY(send_request(&r, command, input));
    return receive_answer(output, n_output);
}

void stm_helper_stop(size_t server, double patience_s)
{
    const request r = {.kind = STOP, .server = server, .n_command = 1, .timeout_s = patience_s};
    (void)send_request(&r, "", "");
}
