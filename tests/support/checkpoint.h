/* tests/support/checkpoint.h: a run's state, made up, on the ranks of a communicator; saved and loaded. A failure ends
 * the test with its message. */
#ifndef STM_TESTS_CHECKPOINT_H
#define STM_TESTS_CHECKPOINT_H

#include "checkpoint/checkpoint.h"
#include "support/device.h"
#include "support/model.h"
#include "support/mpi.h"

/* Numbers are a function of the step and the place in the buffer. */
typedef struct {
    MPI_Comm comm;
    int rank; /* in comm */
    device device;
    stm_model *whole, *model; /* what is expected; what this rank holds of it, the same for one stage */
    stm_shards shards;        /* of the stage */
    double *moments[3];       /* [n_parameters]: exp_avg and exp_avg_sq of the whole model, and a copy of it */
    double *owned[3];         /* [owned_n]: those of this rank */
    size_t n_moments;         /* 2: a run without the copy; odd steps have one */
    size_t owned_n;
    stm_checkpoint_state state;
} run;

/* Local, though each rank of comm does it; n_stages divides their number. */
void run_open(run *r, MPI_Comm comm, size_t real_bytes, const stm_model_config *config, size_t bucket_n, int64_t step);
void run_open_stages(run *r, MPI_Comm comm, int n_stages, size_t real_bytes, const stm_model_config *config,
                     size_t bucket_n, int64_t step);
void run_close(run *r);

stm_status run_save(run *r, const char *folder);

/* The same beside other work, which overwrites weights and optimizer state on the device meanwhile. */
stm_status run_save_in_background(run *r, const char *folder);

/* Loads into r, whose own numbers are those that are expected, within `tolerance` of each. */
void run_load(run *r, const char *path, double tolerance);

/* What the model of a rank holds is what `whole` has there, within `tolerance`. */
void assert_holds(const stm_model *model, const stm_model *whole, double tolerance);

/* A step, on all ranks of the world. */
void save_step(const char *folder, int64_t step);
void save_step_in_background(const char *folder, int64_t step);
void load_step(const char *path, int64_t step);

int world_rank(void);
int world_size(void);

double round_to(size_t real_bytes, double x);

char *path_of(const char *folder, const char *name); /* static storage */

/* What rank 0 removes last is gone, and what it makes next is not yet there. Collective. */
size_t count_files(const char *folder);

/* The newest one that is found must be `expected` (NULL: none), and the refusals must hold `words` (NULL: none). */
void assert_found(const char *folder, const char *expected, const char *words);

/* Changes one bit of a byte, on rank 0; the ranks before and after are in step. */
void flip(const char *path, long place);

#endif
