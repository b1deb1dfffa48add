/* src/plan/calibrate.h: measures a machine with the operations that training uses. */
#ifndef STM_PLAN_CALIBRATE_H
#define STM_PLAN_CALIBRATE_H

#include "config/machine.h"
#include "group/placement.h"
#include "mpi/grid.h"

/* All ranks of a node compute at once, with the threads that they have, and their rates are added; latency and
 * bandwidth are those of messages to and fro between the first two ranks of a node, and between the first ranks of two
 * nodes. Where there is no second rank, memory's bandwidth stands for that of messages; where there is no second node,
 * what was measured inside stands for between; *out says so as its source. Every precision that the backend has. The
 * caller clears *out, also after a failure. Collective over comm; same status and the same numbers everywhere. Fails:
 * STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_calibrate(MPI_Comm comm, stm_machine *out);

/* What placement needs of it, in a fraction of a second: rates of one rank where all compute, and messages of rank 0 to
 * a rank of another node (between), or of its own. Collective over the grid's world; same status and the same numbers
 * everywhere. Fails: STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_calibrate_rates(const stm_grid *grid, const stm_backend *backend, bool between, stm_rates *out);

#endif
