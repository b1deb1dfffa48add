/* mpi/window.h: memory that the ranks of a team on one node see alike.
 *
 * Each rank has a part of its node's window, which the others there read in place. Parts grow together, between uses.
 * What a rank wrote is there for another one when the first has synchronized and then sent a message, and the other has
 * received it and then synchronized (MPI 3.1, 11.4: unified memory model). */
#ifndef STM_MPI_WINDOW_H
#define STM_MPI_WINDOW_H

#include "mpi/grid.h"

typedef struct stm_window stm_window;

/* By grid->team_nodes, whose equal entries are ranks that can share memory. *out is NULL where no two ranks of the team
 * can. Collective over the team. Fails, alike on all its ranks: STM_ERR_MEMORY. */
stm_status stm_window_create(const stm_grid *grid, stm_window **out);
void stm_window_destroy(stm_window *window); /* NULL is fine. Collective over the team */

/* Makes each rank's part at least bytes[rank] [team_size, the same on every rank]; what was in it is lost if any grows,
 * and nobody may still use it. All of it has memory behind it afterwards. False, alike on all ranks: there is none, and
 * the window is empty. Collective over the team. */
bool stm_window_reserve(stm_window *window, const size_t *bytes);

/* In the part of a team's rank on this node. Local. */
void *stm_window_at(const stm_window *window, int team_rank, size_t offset);

/* See above; NULL is fine. Local. */
void stm_window_synchronize(const stm_window *window);

/* Returns when all ranks of the node have called it. Collective over them. */
void stm_window_barrier(const stm_window *window);

/* Of this rank's part. Local. */
size_t stm_window_bytes(const stm_window *window);

#endif
