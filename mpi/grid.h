/* mpi/grid.h: the process grid: pipeline x replica x suffix, and what ranks agree on.
 *
 * The world is cut into `n_stages` stages of as many consecutive ranks each (the pipeline axis: a stage has some of the
 * layers). A stage is cut into `n_teams` teams of consecutive ranks whose sizes differ by one at most (the larger ones
 * first), every stage alike. A team spreads the rollouts of its prompts (the suffix axis); teams have different prompts
 * (the replica axis). The ranks of one place in every stage are a column: a chunk of work goes along it.
 *
 *      world ranks       stage 0: 0 1 2 | 3 4        two stages of two teams of three and two ranks;
 *                        stage 1: 5 6 7 | 8 9        0 and 5 are a column
 *
 * Knows buffers and communicators, not models. A failed MPI call prints and aborts. */
#ifndef STM_MPI_GRID_H
#define STM_MPI_GRID_H

#include <mpi.h>

#include "base/base.h"
#include "base/pulse.h"

/* For the main thread, whose pulse says that it is inside. */
#define STM_MPI(call)                                                                                                  \
    do {                                                                                                               \
        stm_pulse_call();                                                                                              \
        const int code_ = (call);                                                                                      \
        stm_pulse_call();                                                                                              \
        if (code_ != MPI_SUCCESS)                                                                                      \
            stm_mpi_abort(code_, #call, __FILE__, __LINE__);                                                           \
    } while (0)

/* Ends all ranks by MPI_Abort, from any thread. What this one has printed on stderr is read before, where a launcher
 * reads it through a pipe: MPICH's does not read on once it is told to abort. */
void stm_mpi_end_job(void) __attribute__((noreturn));

void stm_mpi_abort(int code, const char *call, const char *file, int line) __attribute__((noreturn));

/* After a failure in the middle of what several ranks do together, where the others already wait and no status can
 * reach them: prints rank, host and the last failure and aborts, unless this rank is alone in comm. Local. */
void stm_abort_in_team(MPI_Comm comm);

typedef struct {
    MPI_Comm world; /* a duplicate that stemma owns */
    int rank, n_ranks;
    int n_idle;           /* ranks beside the world that the stages leave over; whoever left them out says so */
    int n_stages, stage;  /* pipeline axis */
    MPI_Comm column_comm; /* pipeline axis; its ranks are the stages */
    MPI_Comm stage_comm;  /* all ranks of this stage, in order: they hold the same weights */
    int stage_rank, stage_size;
    int n_teams, team;  /* replica axis */
    MPI_Comm team_comm; /* suffix axis; its rank 0 is the lowest world rank of the team */
    int team_rank, team_size;
    int *team_nodes;          /* [team_size]: equal where ranks of the team are on one node and can share memory */
    int *team_first;          /* [n_teams + 1]: stage rank of the first member of each team */
    int node_rank, node_size; /* among the ranks of this host */
    /* How messages get at arrays of numbers (mpi/reach.h); NULL, as create leaves it: they are the host's memory.
     * stage_reach: the same for sums and gatherings over stage_comm. carrier: what those go by, for people; "": nobody
     * asks. */
    const struct stm_reach *reach, *stage_reach;
    char carrier[512];
    struct stm_courier *along_column; /* of the links between stages (mpi/link.h); NULL: there is one stage */
} stm_grid;

/* How many ranks each axis has; suffix and replica may be STM_AUTO (-1). */
typedef struct {
    int64_t pipeline, suffix, replica;
} stm_axes;

/* axes->pipeline divides the number of ranks. suffix and replica by the ranks of a stage; auto: as many teams as
 * n_groups lets be busy (min(n_ranks, n_groups)); with suffix S given, the number of teams whose sizes are nearest to S
 * (the larger teams on a tie). Both given: the teams' sizes must be S, or differ from it by one as DESIGN says, else
 * STM_ERR_INPUT naming both and the number of ranks. n_groups: prompts of a step. Collective over `comm`; the same
 * status on every rank. */
stm_status stm_grid_create(MPI_Comm comm, const stm_axes *axes, size_t n_groups, stm_grid *grid);
void stm_grid_destroy(stm_grid *grid);

/* Arrays are a device's from now on; reach is the caller's until destroy. Nothing may be under way. Collective over the
 * world; same status everywhere. Fails: STM_ERR_MEMORY. */
stm_status stm_grid_take_reach(stm_grid *grid, const struct stm_reach *reach);

/* The place of one of n_ranks ranks, which fill nodes of ranks_per_node one after the other, for a process that reckons
 * what that rank would do: the communicators are MPI_COMM_SELF. The caller destroys it. Local. Fails as create. */
stm_status stm_grid_imagine(const stm_axes *axes, int n_ranks, int rank, int ranks_per_node, size_t n_groups,
                            stm_grid *grid);

/* Worst status over the world, the same on every rank; every rank then holds the message of the lowest rank that saw it
 * ("rank R: " before it unless it is rank 0). Collective over the world. */
stm_status stm_agree(const stm_grid *grid, stm_status mine);
stm_status stm_agree_on(MPI_Comm comm, stm_status mine); /* the same for any communicator */

/* Broadcast of any number of bytes (pieces below 2^30). Collective over comm. */
void stm_broadcast(MPI_Comm comm, int root, void *bytes, size_t n);

/* Rank 0 of comm reads the file and sends its text to all; every rank frees *text. Collective; same status everywhere.
 */
stm_status stm_broadcast_file(MPI_Comm comm, const char *path, char **text, size_t *n);

/* Every rank's bytes, concatenated in rank order, on every rank: *all is freed by the caller, starts [n_ranks + 1] are
 * offsets (caller's array). Collective. */
stm_status stm_gather_bytes(MPI_Comm comm, const void *mine, size_t n, char **all, size_t *starts);

/* Sums n reals (real_bytes 4 or 8) over comm to `root` (result there; others' buffers are unchanged), and to all.
 * Sums are taken in rank order, float32 in double. Collective. */
void stm_reduce_to(MPI_Comm comm, int root, void *reals, size_t n, size_t real_bytes);
void stm_all_reduce(MPI_Comm comm, void *reals, size_t n, size_t real_bytes);
void stm_all_reduce_max(MPI_Comm comm, double *values, size_t n);
void stm_all_reduce_min(MPI_Comm comm, double *values, size_t n);

/* Elements [first, first + n) of a vector are cut into buckets of bucket_n elements (the last one shorter), each bucket
 * into n_ranks nearly equal shares; rank r owns share r of every bucket. This is ZeRO-1's cut (Rajbhandari et al. 2020,
 * arXiv 1910.02054). Local. */
typedef struct {
    size_t first, n, bucket_n;
    int n_ranks;
} stm_shards;
size_t stm_shards_count(const stm_shards *shards, int rank); /* elements owned */
size_t stm_shards_n_ranges(const stm_shards *shards);        /* the same for every rank */
void stm_shards_range(const stm_shards *shards, int rank, size_t i, size_t *first,
                      size_t *n); /* i-th range of rank; n may be 0 */

/* Sums `reals` (the whole vector's address) over comm so that each rank holds the sum of the ranges it owns, in place
 * (the rest of its buffer becomes undefined). Collective. */
void stm_reduce_scatter(MPI_Comm comm, const stm_shards *shards, void *reals, size_t real_bytes);

/* Every rank's owned ranges to all, in place. Collective. */
void stm_all_gather_shards(MPI_Comm comm, const stm_shards *shards, void *reals, size_t real_bytes);

#endif
