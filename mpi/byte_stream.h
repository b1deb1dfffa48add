/* mpi/byte_stream.h: bytes that one rank sends to all others, message by message, while all of them compute.
 *
 * Every rank names messages of equal lengths in equal order. They move inside begin and finish; a failed MPI call, or
 * no memory for the bookkeeping, prints and aborts. */
#ifndef STM_MPI_BYTE_STREAM_H
#define STM_MPI_BYTE_STREAM_H

#include "mpi/grid.h"

typedef struct stm_byte_stream stm_byte_stream;

/* From rank `root` of comm. Collective over comm, as destroy is. */
stm_byte_stream *stm_byte_stream_create(MPI_Comm comm, int root);
void stm_byte_stream_destroy(stm_byte_stream *stream); /* NULL is fine; everything is finished */

/* Begins the next message: bytes [n] are the root's to keep unchanged, the others' to leave alone, until it is
 * finished. stream: an stm_byte_stream, as for any caller that knows no more of it. Collective over comm, but waits for
 * nobody. */
void stm_byte_stream_begin(void *stream, void *bytes, size_t n);

/* Returns when at most the newest n_open messages are still under way on this rank. */
void stm_byte_stream_finish(void *stream, size_t n_open);

#endif
