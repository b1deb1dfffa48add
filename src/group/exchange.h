/* src/group/exchange.h: what the ranks of a team send each other in a wave, while they compute.
 *
 * Shared segments run in chunks, each at its owner. K and V of a layer leave the owner as soon as they are formed; who
 * reads them waits for that layer alone, in its own layer. On the way back a rank's last chunk that reads a shared one
 * sends the layer's dK and dV when it has added to them, and the owner waits for their sum in that layer:
 *
 *      owner    |shared: forward 0 1 2 3 |own units    |       |3 2 1 0: shared, backward|
 *                              \ \ \ \                          / / / /
 *      reader   |               0 1 2 3  units |.. last unit:  3 2 1 0 |
 *
 * Messages follow the placement, which all ranks derive alike: chunks are numbered in the order in which they run,
 * forward of chunk i waits for chunks below i alone, backward for chunks above i and for units. So no rank can wait for
 * one that waits for it. Sums are in the order of mpi/relay.h. */
#ifndef STM_GROUP_EXCHANGE_H
#define STM_GROUP_EXCHANGE_H

#include <mpi.h>

#include "base/timers.h"
#include "group/chunk.h"
#include "group/placement.h"

typedef struct stm_exchange stm_exchange;

/* A shared chunk as this rank sees it. */
typedef struct {
    const size_t *segments; /* [n] */
    size_t n, n_rows;
    int owner;
    bool reads;       /* this rank computes something below it, or it itself */
    stm_chunk *chunk; /* NULL where it is not read */
} stm_shared_chunk;

enum { STM_UNITS = -1 }; /* in place of a shared chunk's number: the chunk that runs is one of units */

/* For a pass; takes its tables from the pass's host arena, and sets pass->hooks where the team has several ranks.
 * timers may be NULL. The caller destroys *out before it resets the arena. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_exchange_create(stm_pass *pass, MPI_Comm team, stm_timers *timers, stm_exchange **out);
void stm_exchange_destroy(stm_exchange *exchange); /* NULL is fine */
int stm_exchange_team_size(const stm_exchange *exchange);

/* Cuts what the wave shares into chunks of up to chunk_rows rows and finds who reads each. Tables lie in the host
 * arena. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_exchange_begin(stm_exchange *exchange, const stm_placement *placement, const stm_wave *wave,
                              size_t chunk_rows);
int stm_exchange_n_chunks(const stm_exchange *exchange);
const stm_shared_chunk *stm_exchange_chunk(const stm_exchange *exchange, int i);
bool stm_exchange_is_mine(const stm_exchange *exchange, int i);

/* Creates chunk i, where this rank reads it, and its messages. In ascending order on every rank. Local. Fails:
 * STM_ERR_MEMORY. */
stm_status stm_exchange_open(stm_exchange *exchange, int i);

/* Says which chunk runs forward next: shared chunk i, or one of units, its segments [n]. Then, until it ran, its layers
 * wait for what it reads and send what is read of it. Local. */
void stm_exchange_forward(stm_exchange *exchange, int i, const size_t *segments, size_t n);

/* The same for backward. last: no other chunk of units follows on this rank. Waits until a shared chunk's K and V have
 * left their buffers, for they may be formed again. */
void stm_exchange_backward(stm_exchange *exchange, int i, bool last);

/* All of this rank's dK and dV that chunk i (STM_UNITS: all its units) adds to are complete, also where no layer ran.
 */
void stm_exchange_complete(stm_exchange *exchange, int i);

/* Ends the wave: returns when this rank has all it reads and has passed on all that it must. Collective over the team,
 * though ranks leave it at different times. */
void stm_exchange_finish(stm_exchange *exchange);

#endif
