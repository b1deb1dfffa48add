/* src/plan/memory.h: the memory of a rank on a layout that need not exist: what `stemma train --check` says on it.
 *
 * Engines are made for ranks of the layout, one after the other, and told of a step's work as a run tells its own
 * (train/expect.h); none of it is done. Local. */
#ifndef STM_PLAN_MEMORY_H
#define STM_PLAN_MEMORY_H

#include "group/placement.h"
#include "plan/estimate.h"

typedef struct {
    const stm_planner *planner;
    const stm_model *stages; /* [layout.pipeline] */
    stm_layout layout;
    int64_t stage_size;
    stm_rates rates; /* for the placement */
} stm_plan_ranks;

/* What an engine chooses, and spares where it must. */
typedef struct {
    size_t chunk_rows;
    stm_recompute recompute;
} stm_plan_choice;

/* memory.limit of a rank, by the machine's memory. */
double stm_plan_limit_bytes(const stm_planner *planner, int64_t ranks_per_node);

/* What a rank of that stage holds from start to end: the fields of out that say so; and their sum. */
void stm_plan_static(const stm_planner *planner, const stm_model *stage, int64_t stage_size, stm_plan_memory *out);
double stm_plan_static_bytes(const stm_plan_memory *memory);

/* Of the rank that needs most, among some of every kind: total and all that it consists of. choice: as options and room
 * have it, made less where it fits only so. Fails: STM_ERR_MEMORY. */
stm_status stm_plan_memory_of(const stm_plan_ranks *ranks, stm_plan_choice *choice, stm_plan_memory *out);

#endif
