/* src/checkpoint/open.h: opens a MODEL argument, which is a Hugging Face folder or a checkpoint. */
#ifndef STM_CHECKPOINT_OPEN_H
#define STM_CHECKPOINT_OPEN_H

#include <mpi.h>

#include "model/model.h"

/* The caller destroys *out. Local. Fails: STM_ERR_INPUT for what is neither, and as stm_model_open and
 * stm_checkpoint_model do. */
stm_status stm_model_open_any(const char *path, const stm_backend *backend, stm_stream *stream, stm_model **out);

/* The same on every rank: rank 0 of comm reads, the others receive texts and weights. Collective over comm; the same
 * status and message on every rank. */
stm_status stm_model_open_on(MPI_Comm comm, const char *path, const stm_backend *backend, stm_stream *stream,
                             stm_model **out);

/* Its two halves. describe: texts, configuration and layout without memory for weights; a folder need hold none. load:
 * the weights, and model->hash, of a model that has been allocated (model/layout.h): all of them or those of its stage.
 * Rank 0 reads each byte once. describe and load may be on different ranks, but for rank 0. Collective over comm; the
 * same status and message on every rank. */
stm_status stm_model_describe_on(MPI_Comm comm, const char *path, stm_model **out);
stm_status stm_model_load_on(MPI_Comm comm, const char *path, stm_model *model);

#endif
