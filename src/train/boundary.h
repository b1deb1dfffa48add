/* src/train/boundary.h: what may end or interrupt a run between two steps: signals, STOP and SAVE in the run folder,
 * the time limit. Each is seen by one rank or by all, and decided by all. */
#ifndef STM_TRAIN_BOUNDARY_H
#define STM_TRAIN_BOUNDARY_H

#include "metrics/run_folder.h"
#include "mpi/grid.h"

typedef struct {
    double start_s, limit_s;       /* limit_s: seconds from start_s; 0: none */
    double step_s, save_s, eval_s; /* the longest so far: a limit must leave room for the next */
} stm_boundary;

/* Counts time from start_s (stm_now_s); from now on SIGTERM and SIGUSR1 are noted (once: a second SIGTERM ends the
 * process as usual). max_hours 0: no limit. save_s: a guess until one was measured. Local. */
void stm_boundary_init(stm_boundary *boundary, double start_s, double max_hours, double save_s);

/* The second half of it alone. */
void stm_boundary_catch_signals(void);

/* Sum of these bits. */
enum { STM_BOUNDARY_STOP = 1, STM_BOUNDARY_SAVE = 2, STM_BOUNDARY_SIGNAL = 4, STM_BOUNDARY_TIME = 8 };

/* What is to be done before the next step, the same on every rank. folder: NULL but on rank 0. eval_is_next: an
 * evaluation follows the next step. Collective over the grid's world. */
int stm_boundary_agree(const stm_boundary *boundary, const stm_grid *grid, stm_run_folder *folder, bool eval_is_next);

/* The longest of its kind. Local. */
void stm_boundary_measured(double *longest_s, double seconds);

#endif
