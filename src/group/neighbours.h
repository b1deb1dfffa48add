/* src/group/neighbours.h: the rows of chunks that travel between this stage of a pipeline and those beside it.
 *
 *      stage before   --- hidden rows, in the order of forwards --->   stage after
 *                     <-- their gradients, of backwards ----------
 *
 * Both stages run the same chunks in the same orders, so that neither says which chunk a message is of. Rows are the
 * residual stream, to which every layer adds a little: they travel in reals, as a stage keeps them, so that a stage
 * more rounds nothing more. */
#ifndef STM_GROUP_NEIGHBOURS_H
#define STM_GROUP_NEIGHBOURS_H

#include "base/timers.h"
#include "group/schedule.h"
#include "mpi/link.h"

typedef struct stm_neighbours stm_neighbours;

/* Along the grid's column. Buffers and tables lie in the pass's arenas until the caller resets them. timers may be
 * NULL. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_neighbours_create(stm_pass *pass, const stm_schedule *schedule, const stm_grid *grid,
                                 stm_progress_hook progress, stm_timers *timers, stm_neighbours **out);

/* All that was sent has left. NULL is fine. */
void stm_neighbours_destroy(stm_neighbours *neighbours);
void stm_neighbours_drive(stm_neighbours *neighbours); /* NULL is fine */

/* The next chunk's rows [n_rows, hidden]: hidden rows from the stage before, or (backward) the gradient of this stage's
 * last from the stage after. Waits. Fails: STM_ERR_DEVICE. */
stm_status stm_neighbours_receive(stm_neighbours *neighbours, bool backward, size_t n_rows, void *x);

/* The same the other way; x may be written again at once. */
stm_status stm_neighbours_send(stm_neighbours *neighbours, bool backward, size_t n_rows, const void *x);

#endif
