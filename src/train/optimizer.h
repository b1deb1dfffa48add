/* src/train/optimizer.h: gradient, its reduction, and AdamW over the shard that each rank owns (ZeRO-1). */
#ifndef STM_TRAIN_OPTIMIZER_H
#define STM_TRAIN_OPTIMIZER_H

#include "group/score.h"
#include "mpi/gathering.h"
#include "mpi/reduction.h"
#include "train/policy.h"

typedef struct {
    stm_shards shards;          /* of the model's own parameters, over the ranks of its stage */
    void *gradient;             /* laid out as the parameters (model/stages.h) */
    void *exp_avg, *exp_avg_sq; /* [stm_shards_count]: this rank's ranges one after the other */
    int64_t n_updates;          /* taken so far: AdamW's step */
    stm_reduction *reduction;   /* NULL, as the next: the stage has one rank */
    stm_gathering *gathering;
} stm_optimizer;

enum { STM_OPTIMIZER_BUCKET = 1 << 20 }; /* elements that are summed, updated and gathered at once */

/* The cut is a function of the model, the number of ranks of its stage, and bucket_n. State is zero. The grid must
 * outlive it; the caller destroys it, also after a failure. Local. Fails: STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_optimizer_create(const stm_model *model, const stm_grid *grid, size_t bucket_n,
                                stm_optimizer *optimizer);
void stm_optimizer_destroy(stm_optimizer *optimizer, const stm_model *model);

/* Bytes that create will take on the rank that owns most. Local. */
size_t stm_optimizer_bytes(const stm_model *model, int n_ranks);

/* What one update did; the same on every rank. */
typedef struct {
    stm_objective_sums sums;
    double grad_norm;     /* before clipping; NaN where log-probs were not finite */
    double rows;          /* computed, over all ranks */
    double rows_repeated; /* what the repeated form would have computed */
    bool bad_logprobs;    /* log-probs were not finite; stm_failure says which */
    bool skipped;         /* loss or gradient not finite: weights and state are as before */
} stm_update_counts;

/* One step of AdamW on the objective over the batch: gradient, sum over the ranks of a stage, norm, clipping, own
 * shard, all of a stage's weights to its ranks. Collective over the grid's world; same status everywhere. Fails: what
 * the engine says, but for numbers that are not finite: these are skipped. */
stm_status stm_optimizer_update(stm_optimizer *optimizer, const stm_policy *policy, const stm_batch *batch,
                                const stm_objective *objective, const stm_objective_options *options, double lr,
                                stm_update_counts *counts);

#endif
