/* src/group/memory.h: what people are told of memory: what a rank will need, and what it did. */
#ifndef STM_GROUP_MEMORY_H
#define STM_GROUP_MEMORY_H

#include "group/engine.h"

enum { STM_MEMORY_LINE_BYTES = 384 };

/* "memory of a rank: ..", of the rank that needs most: what is planned (stm_engine_planned_bytes) and the limit; or
 * what was planned and the most that base/usage.h saw, now included. Collective over the grid's world. */
void stm_memory_plan_line(stm_engine *engine, const stm_grid *grid, char line[STM_MEMORY_LINE_BYTES]);
void stm_memory_usage_line(const stm_engine *engine, const stm_grid *grid, char line[STM_MEMORY_LINE_BYTES]);

#endif
