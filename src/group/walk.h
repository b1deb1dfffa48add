/* src/group/walk.h: the order in which a rank computes a forest, and what it exchanges with its team on the way. */
#ifndef STM_GROUP_WALK_H
#define STM_GROUP_WALK_H

#include <mpi.h>

#include "base/timers.h"
#include "group/chunk.h"
#include "group/placement.h"

typedef struct {
    stm_pass *pass;
    const stm_placement *placement;
    MPI_Comm team;
    int team_rank;
    size_t chunk_rows;
    stm_recompute recompute;
    stm_timers *timers;            /* NULL: none */
    size_t room_bytes;             /* that the arenas may take before activations are dropped */
    struct stm_exchange *exchange; /* of the run */
} stm_walk;

/* Every wave: shared segments at their owners, units, and for a gradient back; K and V, dK and dV travel meanwhile.
 * After a PREFILL pass the chunks stay; else the arenas are as before. Collective over the team. Fails, where the rank
 * is alone: STM_ERR_DEVICE, STM_ERR_MEMORY; in a team, whose others already wait, it prints them and aborts. */
stm_status stm_walk_run(stm_walk *walk);

#endif
