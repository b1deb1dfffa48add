/* src/plan/rates.h: the rates by which placement balances (group/placement.h), for the ranks of a grid.
 *
 * Measured rates differ from one time to the next, and placement decides where sums are taken: so they are rounded to
 * powers of two, and a run keeps those of its first start in its checkpoints. */
#ifndef STM_PLAN_RATES_H
#define STM_PLAN_RATES_H

#include "config/machine.h"
#include "group/placement.h"
#include "mpi/grid.h"

/* A rank's share of a described node of so many ranks. between: messages leave the node. All 0 where the description
 * does not have the precision. Local. */
stm_rates stm_rates_of_machine(const stm_machine *machine, stm_precision precision, int64_t ranks_per_node,
                               bool between);

/* By parallel.machine: a file's; measured (auto, where `measures`); else all 0. Collective over the grid's world; same
 * status and the same numbers everywhere. Fails: STM_ERR_INPUT for a file that is no machine's description or lacks the
 * precision, STM_ERR_IO, STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_rates_find(const stm_options *options, const stm_grid *grid, const stm_backend *backend, bool measures,
                          stm_rates *out);

#endif
