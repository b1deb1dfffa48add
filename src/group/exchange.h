/* src/group/exchange.h: what a rank sends and receives in a pass, while it computes.
 *
 * Within its team, K and V of shared chunks and their gradients. K and V of a layer leave the owner as soon as they are
 * formed; who reads them waits for that layer alone, in its own layer. On the way back a rank's last chunk that reads a
 * shared one sends the layer's dK and dV when it has added to them, and the owner waits for their sum in that layer:
 *
 *      owner    |shared: forward 0 1 2 3 |own units    |       |3 2 1 0: shared, backward|
 *                              \ \ \ \                          / / / /
 *      reader   |               0 1 2 3  units |.. last unit:  3 2 1 0 |
 *
 * Members on one node share the K and V of their leader: it alone receives them, and tells its guests of each layer.
 * They tell it at the chunk's end that they have read all, and it waits for that before the place is used again.
 *
 * Between the stages of a pipeline, rows of chunks (group/neighbours.h). Whoever waits for one kind moves the other.
 * Messages follow the schedule, whose times say that no rank can wait for one that waits for it. Sums are in the order
 * of mpi/relay.h. */
#ifndef STM_GROUP_EXCHANGE_H
#define STM_GROUP_EXCHANGE_H

#include "base/timers.h"
#include "group/schedule.h"
#include "mpi/grid.h"

typedef struct stm_exchange stm_exchange;

/* For a pass; takes its tables and buffers from the pass's arenas, and sets pass->hooks and pass->neighbours where
 * there is somebody to send to. chunks: [schedule's n_chunks], those that are open; the caller's. timers may be NULL.
 * The caller destroys *out, also after a failure, before it resets the arenas. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_exchange_create(stm_pass *pass, const stm_schedule *schedule, stm_chunk *const *chunks,
                               const stm_grid *grid, stm_timers *timers, stm_exchange **out);
void stm_exchange_destroy(stm_exchange *exchange); /* NULL is fine */

/* Begins the messages of a chunk that is open now. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_exchange_open(stm_exchange *exchange, size_t chunk);

/* Says which chunk runs forward next. Then, until it ran, its layers wait for what it reads and send what is read of
 * it. Local. */
void stm_exchange_forward(stm_exchange *exchange, size_t chunk);

/* The same for backward. Where K and V of a shared chunk will be formed again, waits until they have left. */
void stm_exchange_backward(stm_exchange *exchange, size_t chunk);

/* The chunk went back, also where no layer ran: what it was the last to add to is complete here. */
void stm_exchange_went_back(stm_exchange *exchange, size_t chunk);

/* Waits until all messages of a chunk are done with on this rank: it has arrived, was passed on, its sum has left. */
void stm_exchange_close(stm_exchange *exchange, size_t chunk);

#endif
