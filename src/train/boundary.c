#include "train/boundary.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/pulse.h"

/* What the signals have said; written by handlers alone. */
static volatile sig_atomic_t n_saves_asked, end_asked, end_asked_at; /* at: s of the monotonic clock */
static bool speaks; /* on rank 0, since every rank may get the signal */

static void note_save(int number)
{
    (void)number;
    n_saves_asked++;
}

/* Whoever asks again after some seconds does not want to wait for the end of a step, or for a save that hangs.
 * Launchers repeat a signal sooner than that. */
static void note_end(int number)
{
    static const char message[] = "stemma: asked a second time to end: ended without saving\n";
    struct timespec now;
    (void)number;
    stm_pulse_told_to_end();
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (!end_asked) {
        end_asked_at = (sig_atomic_t)now.tv_sec;
        end_asked = 1;
    } else if ((sig_atomic_t)now.tv_sec - end_asked_at >= STM_SECOND_SIGNAL_S) {
        if (speaks)
            (void)!write(STDERR_FILENO, message, sizeof message - 1);
        _exit(1);
    }
}

void stm_boundary_catch_signals(void)
{
    struct sigaction ends = {.sa_handler = note_end, .sa_flags = SA_RESTART};
    struct sigaction saves = {.sa_handler = note_save, .sa_flags = SA_RESTART};
    sigemptyset(&ends.sa_mask);
    sigemptyset(&saves.sa_mask);
    int rank;
    STM_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
    speaks = rank == 0;
    struct sigaction before;
    signal(SIGPIPE, SIG_IGN); /* who read our output is gone; log.txt is still there */
    sigaction(SIGTERM, &ends, NULL);
    if (sigaction(SIGINT, NULL, &before) == 0 && before.sa_handler != SIG_IGN) /* a job in the background ignores it */
        sigaction(SIGINT, &ends, NULL);
    sigaction(SIGUSR1, &saves, NULL);
}

/* Steps differ, and a clean end has more to do than to save. */
static bool time_is_up(const stm_boundary *b)
{
    static const double SHARE = 0.1, MOST_S = 30, SHARE_OF_LIMIT = 0.01;
    const double needed = (b->next_s + b->save_s) * (1.0 + SHARE) + STM_MIN(MOST_S, SHARE_OF_LIMIT * b->limit_s);
    return b->limit_s > 0 && stm_now_s() - b->start_s + needed > b->limit_s;
}

static int look(void *context)
{
    stm_boundary *b = context;
    const int requests = stm_run_folder_requests(b->folder, stm_now_s());
    b->n_saves_seen = n_saves_asked;
    return (requests & STM_REQUEST_LOST ? STM_BOUNDARY_LOST : 0) |
           (requests & STM_REQUEST_STOP ? STM_BOUNDARY_STOP : 0) |
           (requests & STM_REQUEST_SAVE || b->n_saves_seen != b->n_saves_done ? STM_BOUNDARY_SAVE : 0) |
           (end_asked ? STM_BOUNDARY_SIGNAL : 0) | (time_is_up(b) ? STM_BOUNDARY_TIME : 0);
}

/* Seconds since this process began, by the kernel's account; 0 where it gives none. */
static double process_age_s(void)
{
    long long ticks;
    struct timespec now;
    FILE *file = fopen("/proc/self/stat", "re");
    const bool known = file && fscanf(file,
                                      "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d "
                                      "%*d %*d %*d %lld",
                                      &ticks) == 1;
    if (file)
        fclose(file);
    clock_gettime(CLOCK_BOOTTIME, &now);
    return known ? (double)now.tv_sec - (double)ticks / (double)sysconf(_SC_CLK_TCK) : 0.0;
}

double stm_boundary_limit_s(double start_s, double max_hours, double job_start)
{
    static const double NONE_LEFT_S = 1e-3; /* 0 means no limit */
    const double age_s = job_start > 0 ? (double)time(NULL) - job_start : process_age_s();
    const double left_s = 3600.0 * max_hours - STM_MAX(age_s, 0.0) + (stm_now_s() - start_s);
    return max_hours > 0 ? STM_MAX(left_s, NONE_LEFT_S) : 0.0;
}

void stm_boundary_init(stm_boundary *boundary, double start_s, double limit_s, double save_s)
{
    *boundary = (stm_boundary){.start_s = start_s, .limit_s = limit_s, .save_s = save_s, .n_saves_done = n_saves_asked};
    boundary->watch =
        (stm_watch){.look = look, .context = boundary, .leave = ~STM_BOUNDARY_SAVE & (STM_WATCH_WORK - 1)};
    stm_boundary_catch_signals();
}

int stm_boundary_agree(stm_boundary *boundary, const stm_grid *grid, double next_s)
{
    boundary->next_s = next_s;
    return stm_watch_agree(&boundary->watch, grid->world);
}

void stm_boundary_saved(stm_boundary *boundary)
{
    boundary->n_saves_done = boundary->n_saves_seen;
    boundary->watch.seen &= ~STM_BOUNDARY_SAVE;
}

void stm_boundary_measured(double *longest_s, double seconds)
{
    *longest_s = STM_MAX(*longest_s, seconds);
}
