/* src/train/boundary.h: what may end or interrupt a run: signals, STOP and SAVE in the run folder, the time limit. Each
 * is seen by one rank or by all, and decided by all: while they sample (mpi/watch.h), and between steps. */
#ifndef STM_TRAIN_BOUNDARY_H
#define STM_TRAIN_BOUNDARY_H

#include <signal.h>

#include "metrics/run_folder.h"
#include "mpi/watch.h"

typedef struct {
    stm_run_folder *folder;                  /* NULL but on rank 0 */
    double start_s, limit_s;                 /* limit_s: seconds from start_s; 0: none, and on other ranks than 0 */
    double step_s, update_s, save_s, eval_s; /* the longest so far: a limit must leave room for the next */
    double next_s;                           /* what must be done before a save, if what is under way goes on */
    sig_atomic_t n_saves_seen, n_saves_done; /* of the signals that ask for one */
    stm_watch watch;                         /* of these flags; all but SAVE leave a rollout */
} stm_boundary;

enum {
    STM_BOUNDARY_STOP = 1,
    STM_BOUNDARY_SAVE = 2,
    STM_BOUNDARY_SIGNAL = 4,
    STM_BOUNDARY_TIME = 8,
    STM_BOUNDARY_LOST = 16
};

/* Counts the job's time and, from now on, signals: SIGTERM and SIGINT ask for an end, SIGUSR1 for a
 * checkpoint. A second SIGTERM or SIGINT, STM_SECOND_SIGNAL_S after the first or later, ends the process at once with
 * exit code 1. limit_s: what the job has left, from start_s (stm_now_s) on; 0: no limit. save_s: a guess until one was
 * measured. *boundary must stay where it is. Local. */
enum { STM_SECOND_SIGNAL_S = 3 };
void stm_boundary_init(stm_boundary *boundary, double start_s, double limit_s, double save_s);

/* What max_hours from the job's start leave, in seconds from start_s on; 0: there is no limit (max_hours 0).
 * job_start: in seconds since 1970; 0: with this process, which MPI may have kept waiting. Local. */
double stm_boundary_limit_s(double start_s, double max_hours, double job_start);

/* The second half of it alone, for what comes before: a signal while a model is loaded ends the run at its first
 * rollout. Local. */
void stm_boundary_catch_signals(void);

/* What is to be done now, a sum of the bits above, the same on every rank; what the watch has seen counts. next_s: the
 * seconds of what comes next. Collective over the grid's world. */
int stm_boundary_agree(stm_boundary *boundary, const stm_grid *grid, double next_s);

/* SAVE was acted on: it is asked for no more. Local; every rank calls. */
void stm_boundary_saved(stm_boundary *boundary);

/* The longest of its kind. Local. */
void stm_boundary_measured(double *longest_s, double seconds);

#endif
