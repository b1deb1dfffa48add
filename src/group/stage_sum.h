/* src/group/stage_sum.h: a gradient that no one sums while it is computed: over the ranks of a stage, afterwards. */
#ifndef STM_GROUP_STAGE_SUM_H
#define STM_GROUP_STAGE_SUM_H

#include "model/stages.h"
#include "mpi/grid.h"

/* The stage's own elements of `gradient` (laid out as the parameters) become their sums over its ranks: those of the
 * rank's shard, of buckets of bucket_n; everywhere: all of them. In rank order, float32 in double. Collective over the
 * stage; same status on its ranks. Fails: STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_stage_sum(const stm_grid *grid, const stm_model *model, size_t bucket_n, bool everywhere,
                         void *gradient);

#endif
