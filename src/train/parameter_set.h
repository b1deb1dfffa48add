/* src/train/parameter_set.h: another set of values for the model's parameters, of which each rank keeps its shard.
 *
 * The ranks of a stage divide it by the optimizer's cut. Where it is needed whole, it changes places with the model's
 * weights: a rank swaps its shard, and the others' arrive. The same again brings the weights back, bit for bit.
 *
 *      model, every rank   [ policy  | policy  | policy  ]  -exchange->  [ other  | other  | other  ]
 *      set, rank 1                   [ other   ]            <-exchange-           [ policy ]
 *
 * So it takes a shard and a little room, never a second whole array. */
#ifndef STM_TRAIN_PARAMETER_SET_H
#define STM_TRAIN_PARAMETER_SET_H

#include "model/model.h"
#include "mpi/grid.h"

typedef struct stm_parameter_set stm_parameter_set;

/* The model's parameters as they are now, equal on all ranks of its stage. Needs model and grid until it is destroyed.
 * bucket_n: as the optimizer's. The caller destroys *out. Local. Fails: STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_parameter_set_create(const stm_model *model, const stm_grid *grid, size_t bucket_n,
                                    stm_parameter_set **out);
void stm_parameter_set_destroy(stm_parameter_set *set); /* NULL is fine */

/* Bytes that create takes on the rank that owns most. Local. */
size_t stm_parameter_set_bytes(const stm_model *model, int n_ranks, size_t bucket_n);

/* The set becomes the model's weights, and these the set; the model's must be equal on all ranks of the stage.
 * Collective over the grid's world; same status everywhere. Fails: STM_ERR_DEVICE, STM_ERR_MEMORY. */
stm_status stm_parameter_set_exchange(stm_parameter_set *set);

/* The set becomes the model's weights as they are now. Local. Fails: STM_ERR_DEVICE. */
stm_status stm_parameter_set_renew(stm_parameter_set *set);

/* This rank's shard, as the optimizer's state is laid out; device memory, which is the set's. */
void *stm_parameter_set_shard(const stm_parameter_set *set);

/* set = keep * set + share * the model's weights, summed in double. Local. Fails: STM_ERR_DEVICE, STM_ERR_MEMORY. */
stm_status stm_parameter_set_blend(stm_parameter_set *set, double keep, double share);

#endif
