/* mpi/pieces.h: messages between devices that MPI does not reach, through a few places on each host.
 *
 *      sender     device --copy--> place --MPI-->                     a piece is copied while the one before it
 * travels, receiver                              --> place --copy--> device      and the one before that is copied on
 *
 * The receiver of a message says that it is ready for it, and the sender copies nothing before it has heard so. It
 * takes a place for a piece when that has come to its door. So a place is held only while something moves, never while
 * a rank waits for what another has yet to compute, and a few of them do for any number of messages in any order. */
#ifndef STM_MPI_PIECES_H
#define STM_MPI_PIECES_H

#include "mpi/courier.h"

typedef struct stm_pieces stm_pieces;

/* The caller destroys *out. Local, as all of it. Fails: STM_ERR_MEMORY. */
stm_status stm_pieces_create(const stm_reach *reach, stm_pieces **out);
void stm_pieces_destroy(stm_pieces *pieces); /* NULL is fine */
size_t stm_pieces_bytes(const stm_reach *reach);

/* A message of one number or more; its number, until its end. */
size_t stm_pieces_begin(stm_pieces *pieces, const stm_message *message, bool sends);

/* Moves what can move. parcels [n]: those that have begun and not ended, in that order. */
void stm_pieces_move(stm_pieces *pieces, const size_t *parcels, size_t n);

bool stm_pieces_is_through(stm_pieces *pieces, size_t parcel);
void stm_pieces_end(stm_pieces *pieces, size_t parcel); /* one that is through */

#endif
