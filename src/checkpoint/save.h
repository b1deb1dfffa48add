/* src/checkpoint/save.h: the parts of a save, in their order, for save.c, which takes them one after the other, and
 * background.c, which lets those that need neither MPI nor HDF5 run beside the training.
 *
 *   begin      room on the disk and skeleton (rank 0), places to all     collective
 *   write      this rank's elements, their hashes, fsync                 local: plain writes
 *   seal       the table of hashes (rank 0), who reads back whose        collective
 *   read_back  another rank's elements against their hashes              local: plain reads
 *   finish     the name (rank 0)                                         collective
 *
 * Collective parts return the same status on every rank. Only rank 0 uses HDF5, and only in memory. */
#ifndef STM_CHECKPOINT_SAVE_H
#define STM_CHECKPOINT_SAVE_H

#include "checkpoint/hashes.h"
#include "checkpoint/pieces.h"
#include "checkpoint/read.h"
#include "checkpoint/skeleton.h"

typedef struct {
    MPI_Comm comm;
    int rank, n_ranks;
    const stm_model *model;
    const stm_shards *shards;
    const void *sources[STM_CHECKPOINT_N_KINDS]; /* parameters, exp_avg, exp_avg_sq, copies: device memory; NULL: there
                                                  * is none */
    size_t n_kinds;                              /* of tensors */
    const void *copies[STM_CHECKPOINT_N_KINDS];  /* what this rank owns of them; NULL: read from the device */
    char *path, *partial;
    bool began; /* rank 0: the partial file exists */
    size_t real_bytes, n_pieces;
    stm_piece *pieces;    /* [n_pieces] of this rank */
    stm_hash_row *mine;   /* [n_kinds * n_pieces] */
    size_t *starts;       /* [n_ranks + 1]: bytes of each rank's rows in `rows` */
    stm_hash_row *rows;   /* of all ranks, in rank order */
    int *verifier;        /* [2 * n_ranks]: who reads back what rank r wrote, then scratch */
    stm_hash_table table; /* on all ranks but for its rows, which rank 0 has */
    stm_places places;
    stm_skeleton *skeleton; /* rank 0 */
    void *block;            /* [STM_BLOCK_BYTES] */
} stm_saving;

/* Arguments as for stm_checkpoint_save; of state nothing is needed later. clear follows, also after a failure: it
 * removes the partial file of a save that was not finished. */
stm_status stm_saving_begin(stm_saving *s, MPI_Comm comm, const char *folder, const stm_checkpoint_state *state,
                            const stm_model *model, const stm_shards *shards, const void *exp_avg,
                            const void *exp_avg_sq);
void stm_saving_clear(stm_saving *s); /* local */

stm_status stm_saving_write(stm_saving *s);
stm_status stm_saving_seal(stm_saving *s, stm_status written); /* written: what write returned on this rank */
stm_status stm_saving_read_back(stm_saving *s);
stm_status stm_saving_finish(stm_saving *s, stm_status read_back);

/* The next kind of tensors after `kind` that the run has; N_KINDS: none. Local. */
stm_checkpoint_kind stm_saving_next(const stm_saving *s, stm_checkpoint_kind kind);

/* Where a piece lies on the device. Local. */
const void *stm_saving_source(const stm_saving *s, stm_checkpoint_kind kind, const stm_piece *piece);

#endif
