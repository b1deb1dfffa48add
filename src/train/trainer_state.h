/* src/train/trainer_state.h: what the trainer's files share; for src/train alone. */
#ifndef STM_TRAIN_TRAINER_STATE_H
#define STM_TRAIN_TRAINER_STATE_H

#include "metrics/metrics.h"
#include "metrics/waits.h"
#include "train/boundary.h"
#include "train/clusters.h"
#include "train/copies.h"
#include "train/evaluate.h"
#include "train/filter.h"
#include "train/optimizer.h"
#include "train/others.h"
#include "train/reference.h"
#include "train/replay.h"
#include "train/report.h"
#include "train/resume.h"
#include "train/targets.h"
#include "train/trainer.h"

struct stm_trainer {
    stm_policy policy;
    const stm_options *options;
    const stm_prompt_set *train, *eval; /* train: what is left by the filter; eval: NULL: none */
    const stm_prompt_set *unfiltered;
    stm_filter filter;
    stm_prompt_set filtered;
    const stm_objective *objective;
    stm_objective_options objective_options; /* as given, with the divisor of fixed-length, weights of rewards, and, of
                                              * this step, the KL term's weight, KTO's neutral point and f-DPG's
                                              * baseline */
    double *reward_weights;                  /* [rewards] */
    bool recorded;                           /* batches are groups of data.groups */
    bool supervised;                         /* nothing is sampled: they are recorded, or demonstrations */
    stm_reward_set *rewards;
    stm_replay *replay;   /* NULL: none */
    stm_targets *targets; /* NULL: the objective asks for none */
    stm_answers *answers; /* NULL: the objective does not ask which are the same */
    stm_optimizer optimizer;
    stm_parameter_set *reference; /* NULL: no KL term */
    stm_others *others;           /* NULL: the policy samples alone */
    stm_copies copies;
    stm_timers timers;
    stm_boundary boundary;

    char *checkpoints;       /* the folder */
    char *options_yaml;      /* as run */
    uint64_t start_hash;     /* of the start model */
    stm_run_folder *folder;  /* rank 0, after begin */
    stm_metrics *metrics;    /* rank 0 */
    stm_resume_point resume; /* what was found */
    stm_progress progress;
    int64_t saved_step;  /* of the newest checkpoint; -1: none */
    int64_t first_step;  /* done before this start */
    int64_t retry_after; /* steps from a failed save to the next try; 0: the latest did not fail */
    int64_t retry_step;
    struct {
        stm_background_save *save; /* NULL: none is under way */
        void *copy;                /* [stm_checkpoint_copy_bytes]; NULL without checkpoint.async */
        int64_t step;
        bool is_best;
    } background;
    bool is_trying;     /* rank 0: this start is noted as a try (train/tries.h) */
    bool reward_failed; /* and nothing else: the last that was skipped was so for a reward */
};

/* One step's things; cleared after it. */
typedef struct {
    size_t n;      /* groups */
    size_t n_used; /* prompts: more than groups where some were replaced */
    size_t *which; /* [n]: of the training set */
    stm_batch batch;
    stm_verdicts verdicts;
    stm_update_totals updates;
    stm_record record;
    stm_waits waits;         /* of this rank, evaluation not counted */
    bool left;               /* its rollouts were: it has not taken place */
    double start_s, aside_s; /* aside: evaluation and saves, which are not the step's */
} stm_step;

/* sample.c, learn.c: the batch of a step, and what is learnt from it. Collective. */
stm_status stm_step_sample(stm_trainer *trainer, stm_step *step);
stm_status stm_step_demonstrate(stm_trainer *trainer, stm_step *step);
stm_status stm_step_update(stm_trainer *trainer, stm_step *step);

/* The updates of a step with its batch, as update.epochs and update.minibatch_groups say. Collective. */
stm_status stm_step_updates(stm_trainer *trainer, stm_step *step, const stm_batch *batch,
                            const stm_objective_options *options, double lr, stm_update_totals *totals);

/* skip.c: what could not be learnt from: numbers that are none, rewards that failed. skip: an update, or all of a
 * step's, was not taken; stm_failure says why; it is counted, and fault.max_skips in a row fail with STM_ERR_NUMERIC,
 * since they will not heal. judged_of: the groups of a batch whose rewards are all there, and the prompts that
 * they answer; *groups and *which are freed by the caller, what is in the groups belongs to the batch. Collective, the
 * same on every rank. */
stm_status stm_trainer_skip(stm_trainer *trainer, stm_step *step, const char *what);
stm_status stm_trainer_judged_of(stm_trainer *trainer, const stm_step *step, stm_batch *kept, size_t **which);

/* keep.c: checkpoints. save: where the newest is not of this step already; also removes those beyond checkpoint.keep; a
 * failure leaves the earlier ones. save_or_warn: a failure is a warning, and keep_step tries again: after the next
 * step, then after 2, 4, .. more. keep_step: sees to the save in the background; where one is due, or the step is the
 * best, saves or, with checkpoint.async, begins to. save first waits for the one in the background, as await_save does.
 * load: the checkpoint that was found, or nothing. try_succeeded: there was a step, or an orderly end. Collective. */
stm_status stm_trainer_save(stm_trainer *trainer);
void stm_trainer_save_or_warn(stm_trainer *trainer);
void stm_trainer_await_save(stm_trainer *trainer);
void stm_trainer_keep_step(stm_trainer *trainer, bool is_best);
stm_status stm_trainer_load(stm_trainer *trainer);
void stm_trainer_try_succeeded(stm_trainer *trainer);

/* assess.c: evaluations. before: that of the start model, or one that the run was left in; step: where one is due after
 * the step. Where the watch leaves, the evaluation has not taken place, and stays pending. Collective. */
/* filter: leaves prompts out that the start model cannot do, where options ask for it. */
stm_status stm_trainer_filter(stm_trainer *trainer);
bool stm_trainer_eval_is_due(const stm_trainer *trainer, int64_t step);
stm_status stm_trainer_evaluate_before(stm_trainer *trainer);
stm_status stm_trainer_evaluate_step(stm_trainer *trainer, stm_step *step, bool *is_best);

/* Of n groups, those whose rollouts rollout.save keeps. Local. */
size_t stm_trainer_kept_groups(const stm_trainer *trainer, size_t n);

/* Rank 0 writes; a full disk does not end the run. */
void stm_trainer_write_record(stm_trainer *trainer, const stm_record *record);

/* close.c. finish: reason: why the run ends before it is done, or NULL. say_done: for a run that was done before.
 * Collective. */
stm_status stm_trainer_finish(stm_trainer *trainer, const char *reason);
stm_status stm_trainer_say_done(stm_trainer *trainer);

/* A warning in the log for what rank 0 could not write: the run goes on without it. */
void stm_trainer_warn(stm_status status, const char *what);

#endif
