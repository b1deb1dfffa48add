/* src/checkpoint/load.h: what load.c and open.c share. */
#ifndef STM_CHECKPOINT_LOAD_H
#define STM_CHECKPOINT_LOAD_H

#include "model/model.h"
#include "mpi/grid.h"

/* Rank 0's text to the others; NULL stays NULL, and the others own what they get. Collective; the same status on every
 * rank. Fails: STM_ERR_MEMORY. */
stm_status stm_share_text(MPI_Comm comm, char **text);

/* The model in a checkpoint without memory for its weights, after verifying what describes it and these. The caller
 * destroys *out. Local. Fails: STM_ERR_INPUT, STM_ERR_IO, STM_ERR_MEMORY. */
stm_status stm_checkpoint_describe(const char *path, stm_model **out);

/* The parameters of a verified file into a model that is laid out as the file's and has memory for them, or for those
 * of its stage; and its hash. Rank 0 reads each once. Collective over comm; the same status on every rank. comm:
 * MPI_COMM_NULL for a process alone. Fails: STM_ERR_INPUT, STM_ERR_IO, STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_checkpoint_load_parameters(MPI_Comm comm, const char *path, stm_model *model);

#endif
