/* src/group/memory.h: what people are told of memory: what a rank will need, and what it did. */
#ifndef STM_GROUP_MEMORY_H
#define STM_GROUP_MEMORY_H

#include "group/engine.h"

enum { STM_MEMORY_LINE_BYTES = 256 };

/* "memory of a rank: ..", of the rank that needs most: what is planned (stm_engine_planned_bytes) and the limit; or
 * what was planned and the most that base/usage.h saw, now included. Collective over the grid's world. */
void stm_memory_plan_line(stm_engine *engine, const stm_grid *grid, char line[STM_MEMORY_LINE_BYTES]);
void stm_memory_usage_line(const stm_engine *engine, const stm_grid *grid, char line[STM_MEMORY_LINE_BYTES]);

/* After the engine was told what is to come: where that is beyond memory.limit, makes it do with less
 * (stm_engine_spare), so that the caller must tell it again. False: it fits, or nothing is left to spare. The same on
 * every rank. Collective over the grid's world. */
bool stm_memory_spare(stm_engine *engine, const stm_grid *grid, const stm_options *options);

/* Fails where what is to come is beyond memory.limit: STM_ERR_INPUT, which says what needs it and what would need less.
 * Collective over the grid's world; the same status everywhere. */
stm_status stm_memory_check(const stm_engine *engine, const stm_grid *grid, const stm_options *options);

#endif
