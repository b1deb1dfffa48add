#include "group/stage_sum.h"

#include "mpi/gathering.h"
#include "mpi/reduction.h"

stm_status stm_stage_sum(const stm_grid *grid, const stm_model *model, size_t bucket_n, bool everywhere, void *gradient)
{
    const size_t real_bytes = model->backend->real_bytes;
    const stm_shards shards = {
        .first = model->own.first, .n = model->own.n, .bucket_n = bucket_n, .n_ranks = grid->stage_size};
    stm_reduction *reduction = NULL;
    stm_gathering *gathering = NULL;
    stm_status status = stm_reduction_create(grid->stage_comm, &shards, real_bytes, grid->stage_reach, &reduction);
    if (status == STM_OK)
        status = stm_gathering_create(grid->stage_comm, &shards, real_bytes, grid->stage_reach, &gathering);
    STM_GOTO_OUT(stm_agree_on(grid->stage_comm, status));
    stm_reduction_begin(reduction, gradient);
    stm_reduction_finish(reduction);
    if (everywhere) {
        stm_gathering_begin(gathering, gradient);
        stm_gathering_finish(gathering);
    }
out:
    stm_gathering_destroy(gathering);
    stm_reduction_destroy(reduction);
    return status;
}
