/* src/group/elsewhere.h: one rank reads an array of which every stage of a pipeline holds its own range.
 *
 * Rank 0 of the world asks the first rank of the stage that holds an element, and gets a piece; the others answer until
 * it says that it is done. So nobody holds all, and whoever fails in between can still let the others go. */
#ifndef STM_GROUP_ELSEWHERE_H
#define STM_GROUP_ELSEWHERE_H

#include "model/stages.h"
#include "mpi/grid.h"

typedef struct {
    const stm_grid *grid;
    const stm_model *model;
    const void *array; /* laid out as the parameters (model/stages.h), on each stage */
} stm_elsewhere;

/* Rank 0: n reals from element `first`, all of one stage, at most 2^27, into host memory, from here or from where they
 * are. elsewhere: an stm_elsewhere. Fails: STM_ERR_DEVICE. */
stm_status stm_elsewhere_read(void *elsewhere, size_t first, size_t n, void *reals);
void stm_elsewhere_end(const stm_elsewhere *elsewhere); /* rank 0: once, also after a failure */

/* Every other rank: answers until rank 0 has ended. Fails: STM_ERR_MEMORY, STM_ERR_DEVICE; rank 0 gets its answers all
 * the same. */
stm_status stm_elsewhere_serve(const stm_elsewhere *elsewhere);

#endif
