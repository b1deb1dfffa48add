/* src/train/optimizer.h: gradient, its reduction, and AdamW over the shard that each rank owns.
 *
 * parallel.shard says what the ranks of a stage divide. optimizer: the state of AdamW (ZeRO-1); each has the whole
 * gradient of its stage, summed once a pass (mpi/reduction.h). gradient: its sums as well (ZeRO-2); each has the sums
 * of its shard, the gradient of embedding and head, and two layers of room, and layers are summed chunk by chunk
 * (mpi/rounds.h). */
#ifndef STM_TRAIN_OPTIMIZER_H
#define STM_TRAIN_OPTIMIZER_H

#include "group/score.h"
#include "mpi/gathering.h"
#include "mpi/reduction.h"
#include "mpi/rounds.h"
#include "train/policy.h"

typedef struct {
    stm_shards shards;          /* of the model's own parameters, over the ranks of its stage */
    void *gradient;             /* laid out as the parameters (model/stages.h); with rounds: embedding and head alone */
    void *sums;                 /* [stm_shards_count], with rounds: of the gradient over the ranks */
    void *rooms;                /* of the rounds */
    void *exp_avg, *exp_avg_sq; /* [stm_shards_count]: this rank's ranges one after the other */
    int64_t n_updates;          /* taken so far: AdamW's step */
    stm_reduction *reduction;   /* NULL: the stage has one rank, or there are rounds */
    stm_rounds *rounds;         /* parallel.shard=gradient, and the stage has several ranks; else NULL */
    stm_gathering *gathering;   /* NULL: the stage has one rank */
} stm_optimizer;

/* Elements that are summed, updated and gathered at once: a message is a rank's share of them. */
size_t stm_optimizer_bucket(int n_ranks);

/* The model's own parameters over the ranks of its stage. Local. */
stm_shards stm_optimizer_cut(const stm_model *model, int n_ranks, size_t bucket_n);

/* The cut is a function of the model, the number of ranks of its stage, and bucket_n. State is zero. The grid must
 * outlive it; the caller destroys it, also after a failure. Local. Fails: STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_optimizer_create(const stm_model *model, const stm_grid *grid, stm_shard shard, size_t bucket_n,
                                stm_optimizer *optimizer);
void stm_optimizer_destroy(stm_optimizer *optimizer, const stm_model *model);

/* Bytes that create will take on the rank that owns most. Local. */
size_t stm_optimizer_bytes(const stm_model *model, int n_ranks, stm_shard shard);

/* Whether gradients are summed in rounds; and the bounds of the stage's layers there, which the caller frees. Local. */
bool stm_optimizer_in_rounds(stm_shard shard, int n_ranks);
stm_status stm_optimizer_bounds(const stm_model *model, stm_rounds_options *rounds, size_t **bounds);

/* Elements whose state the rank that owns most of n_ranks owns. Local. */
size_t stm_optimizer_owned(const stm_model *model, int n_ranks);

/* What one update did; the same on every rank. */
typedef struct {
    stm_objective_sums sums;
    double grad_norm;     /* before clipping; NaN where log-probs were not finite */
    double rows;          /* computed, over all ranks */
    double rows_repeated; /* what the repeated form would have computed */
    bool skipped;         /* log-probs, loss or gradient not finite: weights and state are as before, and stm_failure
                             says which response, or which parameter's gradient, is the first */
} stm_update_counts;

/* One step of AdamW on the objective over the batch: gradient, sum over the ranks of a stage, norm, clipping, own
 * shard, all of a stage's weights to its ranks. Collective over the grid's world; same status everywhere. Fails: what
 * the engine says, but for numbers that are not finite: these are skipped. */
stm_status stm_optimizer_update(stm_optimizer *optimizer, const stm_policy *policy, const stm_batch *batch,
                                const stm_objective *objective, const stm_objective_options *options, double lr,
                                stm_update_counts *counts);

#endif
