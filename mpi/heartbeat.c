#include "mpi/heartbeat.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/helper.h"
#include "mpi/grid.h"

static const double LOOK_S = 0.1, BEAT_S = 0.5; /* between two looks at the pulse, and two beats */
static const double AFTER_SIGNAL_S = 10;

/* What a rank sends to the next one. */
typedef struct {
    bool last; /* no more will come */
    int rank;
    double stalled_s, patience_s; /* of this rank: since when nothing goes on, and how long that may be */
    double anywhere_s;            /* as far as it knows: since when nothing has gone on on any rank */
    bool waits;                   /* for others: then stalled_s is anywhere_s */
    char host[STM_PULSE_HOST_BYTES], what[STM_PULSE_TEXT_BYTES];
} beat;

/* What the service thread has seen of its own main thread. */
typedef struct {
    int phase;
    uint64_t progress, calls;
    double phase_s, progress_s, calls_s; /* since when they are what they are */
    double longest_s[STM_N_PHASES];      /* that each phase has taken; 0: it has not ended yet */
} observer;

static struct {
    pthread_t thread;
    bool runs;
    MPI_Comm comm; /* the service thread's alone */
    int before, after, n_ranks;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool stops;
    double timeout_s, io_timeout_s;

    beat out, in;
    MPI_Request sending, receiving;
    bool said_last, heard_last;
    int sent_phase;
    double sent_s, heard_s, looked_s;
    beat heard; /* the latest; rank -1: none yet */
    observer observer;
} h = {.mutex = PTHREAD_MUTEX_INITIALIZER, .timeout_s = 20, .io_timeout_s = 600};

/* How long things may take */

static bool computes(int phase)
{
    return phase != STM_PHASE_REWARD && phase != STM_PHASE_CHECKPOINT && phase != STM_PHASE_EVAL &&
           phase != STM_PHASE_OTHER;
}

double stm_heartbeat_patience_s(int phase, bool waits, double longest_s, double io_timeout_s)
{
    enum { TIMES = 10, FLOOR_S = 120 };
    const double own_s = computes(phase) && longest_s > 0 ? STM_MAX(TIMES * longest_s, (double)FLOOR_S) : io_timeout_s;
    return waits ? 2 * STM_MAX(own_s, io_timeout_s) : own_s;
}

static void observe(observer *o, const stm_pulse *pulse, double now_s)
{
    const int phase = pulse->phase;
    const uint64_t progress = pulse->progress, calls = pulse->calls;
    if (progress != o->progress)
        o->progress_s = now_s;
    if (calls != o->calls || calls % 2)
        o->calls_s = now_s;
    if (phase != o->phase) {
        o->longest_s[o->phase] = STM_MAX(o->longest_s[o->phase], now_s - o->phase_s);
        o->phase_s = now_s;
    }
    o->phase = phase;
    o->progress = progress;
    o->calls = calls;
}

/* Fills in what goes to the next rank. Without progress a rank either waits, and MPI was called a moment ago, or hangs.
 * Who waits does so in vain when nobody goes on; news of that takes a beat for each rank. */
static void describe(const observer *o, const stm_pulse *pulse, double io_timeout_s, double now_s, beat *b)
{
    const double longest_s = o->longest_s[o->phase], silent_s = now_s - STM_MAX(o->progress_s, o->calls_s);
    b->rank = pulse->rank;
    b->anywhere_s = now_s - o->progress_s;
    if (h.heard.rank >= 0)
        b->anywhere_s = STM_MIN(b->anywhere_s, h.heard.anywhere_s + now_s - h.heard_s);
    b->stalled_s = silent_s;
    b->patience_s = stm_heartbeat_patience_s(o->phase, false, longest_s, io_timeout_s);
    b->waits = o->calls_s > o->progress_s && silent_s < b->patience_s;
    if (b->waits) {
        b->stalled_s = b->anywhere_s;
        b->patience_s = stm_heartbeat_patience_s(o->phase, true, longest_s, io_timeout_s) + h.n_ranks * BEAT_S;
    }
    if (pulse->resting)
        b->patience_s = INFINITY;
    memcpy(b->host, pulse->host, sizeof b->host);
    stm_pulse_text(pulse, b->what);
}

/* What is found */

static void abort_job(const char *message) __attribute__((noreturn));
static void abort_job(const char *message)
{
    if (stm_helper_speaks_first())
        fprintf(stderr, "stemma: %s\n", message);
    stm_mpi_end_job();
}

/* Aborts where the rank before this one has stopped or hangs. */
static void judge(double now_s, double timeout_s)
{
    char message[2 * STM_PULSE_TEXT_BYTES + STM_PULSE_HOST_BYTES];
    const beat *b = &h.heard;
    if (h.heard_last)
        return;
    if (stm_pulse_own->told_to_end) /* by a launcher, perhaps, that has ended others and will soon end this one */
        timeout_s += AFTER_SIGNAL_S;
    if (now_s - h.heard_s > timeout_s) {
        if (b->rank < 0)
            snprintf(message, sizeof message, "rank %d has stopped: it has never been heard", h.before);
        else
            snprintf(message, sizeof message, "rank %d on %s has stopped: it was not heard for %.0f s (%s)", b->rank,
                     b->host, now_s - h.heard_s, b->what);
        abort_job(message);
    }
    if (b->rank >= 0 && b->stalled_s > b->patience_s) {
        snprintf(message, sizeof message, "rank %d on %s %s: nothing has gone on for %.0f s (%s)", b->rank, b->host,
                 b->waits ? "waits in vain" : "hangs", b->stalled_s, b->what);
        abort_job(message);
    }
}

/* Messages */

static void check(int code)
{
    if (code != MPI_SUCCESS)
        abort_job("a message of the heartbeat failed");
}

static void listen_to(void)
{
    check(MPI_Irecv(&h.in, sizeof h.in, MPI_BYTE, h.before, 0, h.comm, &h.receiving));
}

static void hear(double now_s)
{
    int arrived = 1;
    while (!h.heard_last) {
        check(MPI_Test(&h.receiving, &arrived, MPI_STATUS_IGNORE));
        if (!arrived)
            return;
        h.heard = h.in;
        h.heard_s = now_s;
        h.heard_last = h.in.last;
        if (!h.heard_last)
            listen_to();
    }
}

/* One at a time, since the next rank may be stopped; at once when a phase begins, so that it is not another one that
 * is named. */
static void speak(double now_s, double timeout_s, double io_timeout_s, bool stops)
{
    int gone;
    const bool is_due = now_s - h.sent_s >= STM_MIN(BEAT_S, timeout_s / 4) || h.observer.phase != h.sent_phase;
    check(MPI_Test(&h.sending, &gone, MPI_STATUS_IGNORE));
    if (!gone || h.said_last || !(stops || is_due))
        return;
    describe(&h.observer, stm_pulse_own, io_timeout_s, now_s, &h.out);
    h.out.last = stops;
    check(MPI_Isend(&h.out, sizeof h.out, MPI_BYTE, h.after, 0, h.comm, &h.sending));
    h.sent_s = now_s;
    h.sent_phase = h.observer.phase;
    h.said_last = stops;
}

/* The thread */

static void wait_a_little(bool stops)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += (long)(1e9 * (stops ? 1e-3 : LOOK_S));
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&h.mutex);
    if (stops || !h.stops)
        pthread_cond_timedwait(&h.changed, &h.mutex, &until);
    pthread_mutex_unlock(&h.mutex);
}

static void *serve(void *unused)
{
    (void)unused;
    bool stops = false, done = false;
    while (!done) {
        pthread_mutex_lock(&h.mutex);
        const double timeout_s = h.timeout_s, io_timeout_s = h.io_timeout_s;
        stops = h.stops;
        pthread_mutex_unlock(&h.mutex);
        const double now_s = stm_now_s();
        if (now_s - h.looked_s > STM_MAX(timeout_s / 4, 10 * LOOK_S))
            h.heard_s += now_s - h.looked_s; /* this process stood still: it could hear nobody */
        h.looked_s = now_s;
        observe(&h.observer, stm_pulse_own, now_s);
        hear(now_s);
        judge(now_s, timeout_s);
        speak(now_s, timeout_s, io_timeout_s, stops);
        int gone = 0;
        if (h.said_last)
            check(MPI_Test(&h.sending, &gone, MPI_STATUS_IGNORE));
        done = h.heard_last && gone;
        if (!done)
            wait_a_little(stops);
    }
    return NULL;
}

bool stm_heartbeat_start(int provided)
{
    int rank;
    if (provided < MPI_THREAD_MULTIPLE)
        return false;
    STM_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &h.comm));
    STM_MPI(MPI_Comm_rank(h.comm, &rank));
    STM_MPI(MPI_Comm_size(h.comm, &h.n_ranks));
    h.before = (rank + h.n_ranks - 1) % h.n_ranks;
    h.after = (rank + 1) % h.n_ranks;
    h.sending = MPI_REQUEST_NULL;
    h.heard.rank = -1;
    h.observer = (observer){.phase = STM_PHASE_OTHER};
    h.heard_s = h.looked_s = h.observer.phase_s = h.observer.progress_s = h.observer.calls_s = stm_now_s();
    pthread_cond_init(&h.changed, NULL);
    listen_to();

    /* Signals are the main thread's. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    h.runs = pthread_create(&h.thread, NULL, serve, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!h.runs)
        abort_job("no thread for the heartbeat");
    stm_pulse_own->listened_to = true;
    return true;
}

void stm_heartbeat_set(double timeout_s, double io_timeout_s)
{
    pthread_mutex_lock(&h.mutex);
    h.timeout_s = timeout_s;
    h.io_timeout_s = io_timeout_s;
    pthread_mutex_unlock(&h.mutex);
}

void stm_heartbeat_stop(void)
{
    if (!h.runs)
        return;
    stm_pulse_own->listened_to = false;
    pthread_mutex_lock(&h.mutex);
    h.stops = true;
    pthread_cond_signal(&h.changed);
    pthread_mutex_unlock(&h.mutex);
    pthread_join(h.thread, NULL);
    h.runs = false;
    STM_MPI(MPI_Comm_free(&h.comm));
}
