/* src/group/tied.h: an embedding that is the head, too, where first and last stage of a pipeline differ.
 *
 * The first stage owns the matrix and its optimizer state, the last has a copy (model->tied_copy). Both find a part of
 * its gradient: the last stage's goes to the first before the sum over a stage's ranks; the new weights come back after
 * the optimizer. So the copy has the very bits of the original.
 *
 *      stage 0    gradient +=  <---------+      weights  ---------+
 *      stage P-1               gradient -+      copy    <---------+       along a column
 *
 * Nothing is sent where nothing is tied or there is one stage. A rank that fails prints and aborts, for its column
 * waits. Collective over the grid's columns; array: laid out as the parameters (model/stages.h). */
#ifndef STM_GROUP_TIED_H
#define STM_GROUP_TIED_H

#include "model/stages.h"
#include "mpi/grid.h"

/* The last stage's gradient of the matrix is added to the first's. */
void stm_tied_add_gradient(const stm_grid *grid, const stm_model *model, void *gradient);

/* The first stage's matrix becomes the last stage's copy. */
void stm_tied_copy_weights(const stm_grid *grid, const stm_model *model, void *weights);

#endif
