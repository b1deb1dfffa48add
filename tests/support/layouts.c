#include "support/layouts.h"

#include "support/batch.h"

static void on_stages(const stm_test_layouts *l, int n_stages, int replica, const void *fixture,
                      const char *const *overrides, size_t n)
{
    int rank, n_ranks;
    MPI_Comm used;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    const int stage_size = n_ranks / n_stages;
    if (stage_size < replica)
        return;
    const bool takes_part = rank < stage_size * n_stages;
    MPI_Comm_split(MPI_COMM_WORLD, takes_part ? 0 : MPI_UNDEFINED, rank, &used);
    if (!takes_part)
        return;
    const int64_t suffix = stage_size % replica == 0 ? stage_size / replica : STM_AUTO;
    for (stm_test_n_nodes = 0; stm_test_n_nodes <= 2 && stm_test_n_nodes < stage_size; stm_test_n_nodes += l->node_step)
        l->compare(used, fixture, (const int64_t[]){n_stages, suffix, replica}, overrides, n);
    stm_test_n_nodes = 0;
    MPI_Comm_free(&used);
}

void stm_test_on_layouts(const stm_test_layouts *l, const void *fixture, const char *const *overrides, size_t n)
{
    for (size_t i = 0; i < l->n_pipelines; i++)
        for (int replica = 1; replica <= 2; replica++)
            on_stages(l, l->pipelines[i], replica, fixture, overrides, n);
}
