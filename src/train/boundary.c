#include "train/boundary.h"

#include <signal.h>

static volatile sig_atomic_t signalled;

static void note_signal(int number)
{
    signalled = number;
}

void stm_boundary_catch_signals(void)
{
    struct sigaction once = {.sa_handler = note_signal, .sa_flags = SA_RESTART | (int)SA_RESETHAND};
    struct sigaction always = {.sa_handler = note_signal, .sa_flags = SA_RESTART};
    sigemptyset(&once.sa_mask);
    sigemptyset(&always.sa_mask);
    signalled = 0;
    struct sigaction before;
    signal(SIGPIPE, SIG_IGN); /* who read our output is gone; log.txt is still there */
    sigaction(SIGTERM, &once, NULL);
    if (sigaction(SIGINT, NULL, &before) == 0 && before.sa_handler != SIG_IGN) /* a job in the background ignores it */
        sigaction(SIGINT, &once, NULL);
    sigaction(SIGUSR1, &always, NULL);
}

void stm_boundary_init(stm_boundary *boundary, double start_s, double max_hours, double save_s)
{
    *boundary = (stm_boundary){.start_s = start_s, .limit_s = 3600.0 * max_hours, .save_s = save_s};
    stm_boundary_catch_signals();
}

static bool time_is_up(const stm_boundary *b, bool eval_is_next)
{
    enum { MARGIN_PERCENT = 10 }; /* steps differ */
    const double needed = (b->step_s + b->save_s + (eval_is_next ? b->eval_s : 0.0)) * (1.0 + MARGIN_PERCENT / 100.0);
    return b->limit_s > 0 && stm_now_s() - b->start_s + needed > b->limit_s;
}

int stm_boundary_agree(const stm_boundary *b, const stm_grid *grid, stm_run_folder *folder, bool eval_is_next)
{
    enum { N_BITS = 4 };
    double seen[N_BITS] = {0};
    int bits = 0;
    const int requests = stm_run_folder_requests(folder, stm_now_s());
    seen[0] = requests & STM_REQUEST_STOP ? 1 : 0;
    seen[1] = requests & STM_REQUEST_SAVE ? 1 : 0;
    seen[2] = signalled ? 1 : 0;
    seen[3] = grid->rank == 0 && time_is_up(b, eval_is_next) ? 1 : 0;
    stm_all_reduce_max(grid->world, seen, N_BITS);
    for (int i = 0; i < N_BITS; i++)
        bits |= seen[i] > 0 ? 1 << i : 0;
    return bits;
}

void stm_boundary_measured(double *longest_s, double seconds)
{
    *longest_s = STM_MAX(*longest_s, seconds);
}
