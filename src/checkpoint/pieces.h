/* src/checkpoint/pieces.h: which bytes of a checkpoint a rank writes and reads.
 *
 * The cut of stm_shards runs over the parameter buffer, in which tensors lie one after the other; in the file each
 * tensor is apart. A piece is a stretch of elements that one rank owns, inside one tensor, of at most STM_BLOCK_BYTES:
 *
 *   shards    [ rank 0 | rank 1 ][ rank 0 | rank 1 ]
 *   tensors   [   a  |     b       |   c           ]
 *   rank 0    [  a0  | b0 ]       [b1|c0]              a piece each
 *
 * Local, all of it. */
#ifndef STM_CHECKPOINT_PIECES_H
#define STM_CHECKPOINT_PIECES_H

#include "checkpoint/checkpoint.h"

typedef struct {
    size_t tensor; /* in model->tensors */
    size_t first;  /* element of the tensor */
    size_t n;
    size_t packed; /* element of the rank's own optimizer state, its ranges one after the other */
} stm_piece;

/* The cut that rank r of n_ranks has a part in, and the rank's place in it, where `mine` is the caller's: stages of
 * mine->n_ranks consecutive ranks each cut what they own of the parameters. */
stm_shards stm_shards_of(const stm_model *model, const stm_shards *mine, int n_ranks, int r, int *place);

/* The number of pieces of a rank; pieces NULL: only counts. */
size_t stm_pieces(const stm_model *model, const stm_shards *shards, int rank, size_t real_bytes, stm_piece *pieces);

/* The same, allocated; the caller frees. Fails: STM_ERR_MEMORY. */
stm_status stm_pieces_list(const stm_model *model, const stm_shards *shards, int rank, size_t real_bytes,
                           stm_piece **pieces, size_t *n);

/* The rank that reads back what rank r wrote: one of the next node, else r's neighbour. nodes: [n_ranks], a number for
 * each rank's node, in any order. On one node every rank reads for one other. */
int stm_verifier_of(const int *nodes, int n_ranks, int r);

#endif
