/* src/checkpoint/load.h: what load.c and open.c share. */
#ifndef STM_CHECKPOINT_LOAD_H
#define STM_CHECKPOINT_LOAD_H

#include "model/model.h"
#include "mpi/grid.h"

/* Rank 0's text to the others; NULL stays NULL, and the others own what they get. Collective; the same status on every
 * rank. Fails: STM_ERR_MEMORY. */
stm_status stm_share_text(MPI_Comm comm, char **text);

/* The weights and the hash of rank 0's model to the others' models of the same layout. Collective; the same status on
 * every rank. Fails: STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_share_weights(MPI_Comm comm, stm_model *model);

#endif
