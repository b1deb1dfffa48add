/* src/group/walk.h: runs a pass: the events of its schedule, one after the other, and their messages. */
#ifndef STM_GROUP_WALK_H
#define STM_GROUP_WALK_H

#include "base/timers.h"
#include "group/schedule.h"
#include "mpi/grid.h"

/* The pass's forest, model, device and host are set, its tables are there (stm_pass_begin). banks: [n_banks of the
 * schedule], where its chunks lie; with one bank that may be the pass's own arenas. pass->window has
 * the schedule's window_bytes, where these are not all 0. After a PREFILL pass the chunks
 * stay; else the arenas are as before. timers may be NULL. Collective over the ranks of the grid that are in this
 * rank's team or column. Fails, where the rank is alone: STM_ERR_DEVICE, STM_ERR_MEMORY; else, since others already
 * wait, it prints them and aborts. */
stm_status stm_walk_run(stm_pass *pass, const stm_schedule *schedule, const stm_bank *banks, const stm_grid *grid,
                        stm_timers *timers);

#endif
