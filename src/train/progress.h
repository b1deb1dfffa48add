/* src/train/progress.h: how far a run has come: what a checkpoint carries beside tensors, and what follows from it.
 * Local, all of it. */
#ifndef STM_TRAIN_PROGRESS_H
#define STM_TRAIN_PROGRESS_H

#include "config/options.h"
#include "group/placement.h"

typedef struct {
    int64_t step;               /* steps done */
    uint64_t cursor;            /* position in the order of prompts: the first of the next step */
    int64_t n_updates;          /* AdamW's step */
    int64_t n_twin_updates;     /* that of the twin (train/chase.h) */
    int64_t n_skipped_in_a_row; /* updates whose gradient was not finite, up to now without a good one between */
    double best;                /* greatest mean reward of an evaluation; NaN: none yet */
    int64_t best_step;          /* of it */
    double last_eval;           /* mean reward of the latest evaluation; NaN: none yet */
    int64_t evals_without_better;
    uint64_t reference_hash; /* of what reference.paths are averaged to; 0: there are none */
    bool eval_pending;       /* the evaluation after the step has not taken place yet */
} stm_progress;
void stm_progress_init(stm_progress *progress);

/* What the engine chose for a layout: sums depend on it, so the same layout takes it up again. */
typedef struct {
    int64_t n_ranks, n_stages, ranks_per_node, limit_bytes, chunk_rows;
    stm_rates rates; /* that placement balances by */
} stm_calibration;

/* The text that a checkpoint carries, and back. The caller frees *json. Fails: STM_ERR_MEMORY; STM_ERR_INPUT, "where:
 * /trainer: .." for a text that lacks something. read sets neither step nor cursor nor best. */
stm_status stm_progress_write(const stm_progress *progress, const stm_calibration *calibration, char **json);
stm_status stm_progress_read(const char *where, const char *json, stm_progress *progress, stm_calibration *calibration);

/* Takes note of an evaluation after progress->step steps. True if it is the best so far. */
bool stm_progress_evaluated(stm_progress *progress, double mean_reward);

/* Why training ends before run.steps, for the log: eval.stop_after or eval.stop_at_reward. NULL: it goes on. */
const char *stm_progress_early_stop(const stm_progress *progress, const stm_options *options);

#endif
