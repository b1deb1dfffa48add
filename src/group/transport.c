#include "group/transport.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "group/device_reach.h"
#include "mpi/nccl.h"

typedef struct {
    char id[sizeof((stm_device *)NULL)->id];
    int rank;
} placed;

/* The ranks of this stage on this node, and the first of them that has this one's device. */
static stm_status look_round(const stm_grid *grid, const stm_device *device, int *n_here, int *first)
{
    MPI_Comm node;
    placed mine = {.rank = grid->rank}, *all = NULL;
    memcpy(mine.id, device->id, sizeof mine.id);
    STM_MPI(MPI_Comm_split_type(grid->stage_comm, MPI_COMM_TYPE_SHARED, grid->stage_rank, MPI_INFO_NULL, &node));
    STM_MPI(MPI_Comm_size(node, n_here));
    const stm_status status = stm_agree(grid, stm_alloc((size_t)*n_here, sizeof *all, &all));
    if (status == STM_OK) {
        STM_MPI(MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all, sizeof mine, MPI_BYTE, node));
        for (*first = 0; strcmp(all[*first].id, mine.id) != 0;)
            ++*first;
        *first = all[*first].rank;
    }
    free(all);
    STM_MPI(MPI_Comm_free(&node));
    return status;
}

/* Whether this rank may go by NCCL. */
static stm_status check(const stm_backend *backend, const stm_grid *grid, const stm_device *device, int first)
{
    if (!backend->apart)
        return stm_fail(STM_ERR_INPUT, "NCCL: it carries messages between GPUs, and the backend is %s", backend->name);
    if (first != grid->rank)
        return stm_fail(STM_ERR_INPUT, "NCCL: it takes one rank a GPU, and rank %d is on this one, too: %s, %s", first,
                        device->id, device->name);
    return stm_nccl_find();
}

/* Collective over the world; same status everywhere. */
static stm_status open_nccl(const stm_backend *backend, stm_stream *stream, const stm_device *device, int first,
                            stm_grid *grid)
{
    const stm_reach *reach = NULL;
    STM_TRY(stm_agree(grid, check(backend, grid, device, first)));
    if (grid->stage_size == 1)
        return STM_OK;
    const stm_status status = stm_agree(grid, stm_device_reach_open_nccl(backend, stream, grid->stage_comm, &reach));
    if (status != STM_OK) {
        stm_device_reach_close(reach);
        return status;
    }
    grid->stage_reach = reach;
    snprintf(grid->carrier, sizeof grid->carrier, "NCCL %s", stm_nccl_version());
    return STM_OK;
}

/* Whether `auto` would have it. Collective over the world. */
static bool is_better(const stm_backend *backend, const stm_grid *grid, int n_here)
{
    double all_on_one_node = n_here == grid->stage_size;
    stm_all_reduce_min(grid->world, &all_on_one_node, 1);
    return backend->apart && grid->stage_size > 1 && (!grid->reach->direct || all_on_one_node > 0);
}

/* why: NCCL is not taken; "": it was not wanted. */
static void take_mpi(const char *why, stm_grid *grid)
{
    if (grid->reach && grid->stage_size > 1)
        snprintf(grid->carrier, sizeof grid->carrier, "MPI, %s%s%s%s",
                 grid->reach->direct ? "from GPU to GPU" : "through the host", *why ? " (" : "", why, *why ? ")" : "");
}

stm_status stm_transport_open(stm_transport asked, const stm_backend *backend, stm_stream *stream,
                              const stm_device *device, stm_grid *grid)
{
    int n_here, first;
    STM_TRY(look_round(grid, device, &n_here, &first));
    if (asked == STM_TRANSPORT_MPI || (asked == STM_TRANSPORT_AUTO && !is_better(backend, grid, n_here))) {
        take_mpi("", grid);
        return STM_OK;
    }
    const stm_status status = open_nccl(backend, stream, device, first, grid);
    if (status == STM_OK)
        return STM_OK;
    if (asked == STM_TRANSPORT_NCCL)
        return stm_fail_context(status, "parallel.transport");
    take_mpi(stm_failure(), grid);
    return STM_OK;
}

void stm_transport_close(stm_grid *grid)
{
    if (grid->stage_reach != grid->reach)
        stm_device_reach_close(grid->stage_reach);
    grid->stage_reach = NULL;
}
