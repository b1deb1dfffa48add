#include "mpi/grid.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/helper.h"
#include "mpi/courier.h"

/* A pipe tells how much of it has not been read. */
static void await_reader(void)
{
    enum { PATIENCE_MS = 500 };
    struct stat file;
    int unread = 0;
    if (fstat(STDERR_FILENO, &file) != 0 || !S_ISFIFO(file.st_mode))
        return;
    for (int ms = 0; ms < PATIENCE_MS && ioctl(STDERR_FILENO, FIONREAD, &unread) == 0 && unread > 0; ms++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

void stm_mpi_end_job(void)
{
    fflush(stderr);
    await_reader();
    MPI_Abort(MPI_COMM_WORLD, 1);
    _exit(1); /* MPI_Abort need not return, but its declaration does not say so */
}

/* Prints who, where, when and what. */
static void abort_with(const char *what) __attribute__((noreturn));
static void abort_with(const char *what)
{
    int rank = -1;
    char host[256] = "?", when[STM_PULSE_TEXT_BYTES];
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    gethostname(host, sizeof host - 1);
    stm_pulse_text(stm_pulse_own, when);
    fprintf(stderr, "stemma: rank %d on %s: %s (%s)\n", rank, host, what, when);
    (void)stm_helper_speaks_first();
    stm_mpi_end_job();
}

void stm_mpi_abort(int code, const char *call, const char *file, int line)
{
    int n = 0;
    char text[MPI_MAX_ERROR_STRING] = "", what[MPI_MAX_ERROR_STRING + 1024];
    MPI_Error_string(code, text, &n);
    snprintf(what, sizeof what, "%s:%d: %s failed: %s", file, line, call, text);
    abort_with(what);
}

void stm_abort_in_team(MPI_Comm comm)
{
    int n_ranks;
    STM_MPI(MPI_Comm_size(comm, &n_ranks));
    if (n_ranks > 1)
        abort_with(stm_failure());
}

/* How far the sizes of n_teams teams of n_ranks ranks are from `size`, at most. */
static int64_t size_error(int64_t n_ranks, int64_t n_teams, int64_t size)
{
    const int64_t small = n_ranks / n_teams, large = small + (n_ranks % n_teams != 0);
    return STM_MAX(llabs(size - small), llabs(large - size));
}

/* Number of teams from the options; a pure function, so every rank finds the same. */
static stm_status count_teams(int64_t n_ranks, int64_t suffix, int64_t replica, size_t n_groups, int64_t *n_teams)
{
    const int64_t automatic = -1; /* STM_AUTO of config/options.h, which this folder does not know */
    if ((suffix != automatic && suffix < 1) || (replica != automatic && replica < 1))
        return stm_fail(STM_ERR_INPUT, "parallel.%s: found %lld, expected auto or a number from 1",
                        suffix != automatic && suffix < 1 ? "suffix" : "replica",
                        (long long)(suffix != automatic && suffix < 1 ? suffix : replica));
    if (suffix > n_ranks || replica > n_ranks)
        return stm_fail(STM_ERR_INPUT, "parallel.%s: found %lld, but there are only %lld ranks",
                        suffix > n_ranks ? "suffix" : "replica", (long long)(suffix > n_ranks ? suffix : replica),
                        (long long)n_ranks);
    if (replica != automatic) {
        if (suffix != automatic && size_error(n_ranks, replica, suffix) > 1)
            return stm_fail(STM_ERR_INPUT,
                            "parallel.suffix %lld x parallel.replica %lld is %lld ranks, but there are %lld: expected "
                            "teams of %lld, or of one more or less",
                            (long long)suffix, (long long)replica, (long long)(suffix * replica), (long long)n_ranks,
                            (long long)suffix);
        *n_teams = replica;
    } else if (suffix != automatic) {
        const int64_t fewer = n_ranks / suffix, more = STM_MIN(fewer + 1, n_ranks);
        *n_teams = size_error(n_ranks, fewer, suffix) <= size_error(n_ranks, more, suffix) ? fewer : more;
    } else {
        *n_teams = STM_MAX((int64_t)1, (int64_t)STM_MIN((size_t)n_ranks, n_groups));
    }
    return STM_OK;
}

/* Part of the world, in its order. A failed call on it then returns its code, and STM_MPI says which call it was. */
static void split(const stm_grid *grid, int color, MPI_Comm *out, int *rank, int *size)
{
    STM_MPI(MPI_Comm_split(grid->world, color, grid->rank, out));
    STM_MPI(MPI_Comm_set_errhandler(*out, MPI_ERRORS_RETURN));
    STM_MPI(MPI_Comm_rank(*out, rank));
    STM_MPI(MPI_Comm_size(*out, size));
}

static void find_team(stm_grid *grid)
{
    const int small = grid->stage_size / grid->n_teams, n_large = grid->stage_size % grid->n_teams;
    for (int t = 0; t < grid->n_teams; t++) {
        grid->team_first[t + 1] = grid->team_first[t] + small + (t < n_large);
        if (grid->stage_rank >= grid->team_first[t])
            grid->team = t;
    }
}

/* A node is called by the lowest rank of the team on it. */
static void find_nodes(stm_grid *grid)
{
    MPI_Comm node;
    int lowest;
    STM_MPI(MPI_Comm_split_type(grid->team_comm, MPI_COMM_TYPE_SHARED, grid->team_rank, MPI_INFO_NULL, &node));
    STM_MPI(MPI_Allreduce(&grid->team_rank, &lowest, 1, MPI_INT, MPI_MIN, node));
    STM_MPI(MPI_Comm_free(&node));
    STM_MPI(MPI_Allgather(&lowest, 1, MPI_INT, grid->team_nodes, 1, MPI_INT, grid->team_comm));
}

stm_status stm_grid_take_reach(stm_grid *grid, const stm_reach *reach)
{
    grid->reach = grid->stage_reach = reach;
    stm_courier_destroy(grid->along_column);
    grid->along_column = NULL;
    return stm_agree(grid, grid->n_stages > 1 ? stm_courier_create(reach, 0, &grid->along_column) : STM_OK);
}

stm_status stm_grid_create(MPI_Comm comm, const stm_axes *axes, size_t n_groups, stm_grid *grid)
{
    *grid = (stm_grid){
        .world = MPI_COMM_NULL, .column_comm = MPI_COMM_NULL, .stage_comm = MPI_COMM_NULL, .team_comm = MPI_COMM_NULL};
    int64_t n_teams = 0;
    STM_MPI(MPI_Comm_size(comm, &grid->n_ranks));
    STM_MPI(MPI_Comm_rank(comm, &grid->rank));
    if (axes->pipeline < 1 || grid->n_ranks % axes->pipeline != 0)
        return stm_fail(STM_ERR_INPUT, "parallel.pipeline: found %lld, expected a divisor of the %d ranks",
                        (long long)axes->pipeline, grid->n_ranks);
    grid->n_stages = (int)axes->pipeline;
    grid->stage_size = grid->n_ranks / grid->n_stages;
    grid->stage = grid->rank / grid->stage_size;
    STM_TRY(count_teams(grid->stage_size, axes->suffix, axes->replica, n_groups, &n_teams));
    grid->n_teams = (int)n_teams;
    STM_TRY(stm_agree_on(comm, stm_alloc((size_t)n_teams + 1, sizeof *grid->team_first, &grid->team_first)));

    int column_rank, column_size;
    STM_MPI(MPI_Comm_dup(comm, &grid->world));
    STM_MPI(MPI_Comm_set_errhandler(grid->world, MPI_ERRORS_RETURN));
    split(grid, grid->stage, &grid->stage_comm, &grid->stage_rank, &grid->stage_size);
    split(grid, grid->stage_rank, &grid->column_comm, &column_rank, &column_size);
    find_team(grid);
    split(grid, grid->stage * grid->n_teams + grid->team, &grid->team_comm, &grid->team_rank, &grid->team_size);

    STM_TRY(stm_agree_on(comm, stm_alloc((size_t)grid->team_size, sizeof *grid->team_nodes, &grid->team_nodes)));
    find_nodes(grid);

    MPI_Comm node;
    STM_MPI(MPI_Comm_split_type(grid->world, MPI_COMM_TYPE_SHARED, grid->rank, MPI_INFO_NULL, &node));
    STM_MPI(MPI_Comm_rank(node, &grid->node_rank));
    STM_MPI(MPI_Comm_size(node, &grid->node_size));
    STM_MPI(MPI_Comm_free(&node));
    return stm_grid_take_reach(grid, NULL);
}

stm_status stm_grid_imagine(const stm_axes *axes, int n_ranks, int rank, int ranks_per_node, size_t n_groups,
                            stm_grid *grid)
{
    int64_t n_teams = 0;
    *grid = (stm_grid){.world = MPI_COMM_SELF,
                       .column_comm = MPI_COMM_SELF,
                       .stage_comm = MPI_COMM_SELF,
                       .team_comm = MPI_COMM_SELF,
                       .rank = rank,
                       .n_ranks = n_ranks,
                       .n_stages = (int)axes->pipeline,
                       .node_rank = rank % ranks_per_node,
                       .node_size = STM_MIN(ranks_per_node, n_ranks)};
    grid->stage_size = n_ranks / grid->n_stages;
    grid->stage = rank / grid->stage_size;
    grid->stage_rank = rank % grid->stage_size;
    STM_TRY(count_teams(grid->stage_size, axes->suffix, axes->replica, n_groups, &n_teams));
    grid->n_teams = (int)n_teams;
    STM_TRY(stm_alloc((size_t)n_teams + 1, sizeof *grid->team_first, &grid->team_first));
    find_team(grid);
    const int first = grid->team_first[grid->team];
    grid->team_size = grid->team_first[grid->team + 1] - first;
    grid->team_rank = grid->stage_rank - first;
    STM_TRY(stm_alloc((size_t)grid->team_size, sizeof *grid->team_nodes, &grid->team_nodes));
    for (int i = 0; i < grid->team_size; i++)
        grid->team_nodes[i] = (grid->stage * grid->stage_size + first + i) / ranks_per_node;
    return STM_OK;
}

void stm_grid_destroy(stm_grid *grid)
{
    MPI_Comm *const all[] = {&grid->team_comm, &grid->column_comm, &grid->stage_comm, &grid->world};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (*all[i] != MPI_COMM_NULL && *all[i] != MPI_COMM_SELF)
            STM_MPI(MPI_Comm_free(all[i]));
    stm_courier_destroy(grid->along_column);
    free(grid->team_first);
    free(grid->team_nodes);
    grid->along_column = NULL;
    grid->team_first = grid->team_nodes = NULL;
}

stm_status stm_agree_on(MPI_Comm comm, stm_status mine)
{
    struct {
        int code, rank;
    } seen = {(int)mine, 0}, worst;
    STM_MPI(MPI_Comm_rank(comm, &seen.rank));
    STM_MPI(MPI_Allreduce(&seen, &worst, 1, MPI_2INT, MPI_MAXLOC, comm));
    if (worst.code == STM_OK)
        return STM_OK;
    char text[2048] = "";
    if (worst.rank == seen.rank)
        snprintf(text, sizeof text, "%s", stm_failure());
    STM_MPI(MPI_Bcast(text, sizeof text, MPI_CHAR, worst.rank, comm));
    if (worst.rank == 0)
        return stm_fail((stm_status)worst.code, "%s", text);
    return stm_fail((stm_status)worst.code, "rank %d: %s", worst.rank, text);
}

stm_status stm_agree(const stm_grid *grid, stm_status mine)
{
    return stm_agree_on(grid->world, mine);
}
