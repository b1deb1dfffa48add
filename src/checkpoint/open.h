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

/* The configuration and tokenizer of a Hugging Face folder, which need hold no weights, with random ones
 * (stm_model_randomize), on every rank as above. Collective over comm. */
stm_status stm_model_open_random_on(MPI_Comm comm, const char *folder, uint64_t seed, const stm_backend *backend,
                                    stm_stream *stream, stm_model **out);

#endif
