/* A run's checkpoints: saving, and taking up the one that was found. */
#include <stdlib.h>
#include <string.h>

#include "metrics/log.h"
#include "plan/rates.h"
#include "train/trainer_state.h"
#include "train/tries.h"

void stm_trainer_warn(stm_status status, const char *what)
{
    if (status != STM_OK)
        stm_log("warning: %s: %s", what, stm_failure());
}

static stm_status save(stm_trainer *t, char *trainer_json)
{
    const MPI_Comm world = t->policy.grid->world;
    const stm_checkpoint_state state = {.step = t->progress.step,
                                        .seed = (uint64_t)t->options->run.seed,
                                        .cursor = t->progress.cursor,
                                        .options_yaml = t->options_yaml,
                                        .trainer_json = trainer_json,
                                        .best = t->progress.best,
                                        .model_hash = t->start_hash};
    STM_TRY(stm_checkpoint_save(world, t->checkpoints, &state, t->policy.model, &t->optimizer.shards,
                                t->optimizer.exp_avg, t->optimizer.exp_avg_sq));
    t->saved_step = t->progress.step;
    stm_trainer_warn(stm_checkpoint_retain(world, t->checkpoints, t->options->checkpoint.keep),
                     "older checkpoints are not removed");
    return STM_OK;
}

stm_status stm_trainer_save(stm_trainer *t)
{
    const stm_calibration calibration = stm_calibration_of(&t->policy);
    const double start = stm_now_s();
    char *trainer_json = NULL;
    stm_timers_push(&t->timers, STM_PHASE_CHECKPOINT);
    stm_status status = stm_agree(t->policy.grid, stm_progress_write(&t->progress, &calibration, &trainer_json));
    if (status == STM_OK)
        status = save(t, trainer_json);
    free(trainer_json);
    stm_timers_pop(&t->timers, STM_PHASE_CHECKPOINT);
    stm_boundary_measured(&t->boundary.save_s, stm_now_s() - start);
    return status;
}

enum { MOST_STEPS_TO_RETRY = 64 };

void stm_trainer_save_or_warn(stm_trainer *t)
{
    const stm_status status = stm_trainer_save(t);
    t->retry_after = status == STM_OK ? 0 : STM_MAX(1, STM_MIN(2 * t->retry_after, MOST_STEPS_TO_RETRY));
    t->retry_step = t->progress.step + t->retry_after;
    stm_trainer_warn(status, "the checkpoint is not saved");
}

void stm_trainer_keep_step(stm_trainer *t, bool is_best)
{
    const int64_t every = t->options->checkpoint.every, step = t->progress.step;
    const bool is_due = every > 0 && step % every == 0, is_retry = t->retry_after > 0 && step >= t->retry_step;
    if (is_best || is_due || is_retry)
        stm_trainer_save_or_warn(t);
    if (is_best && t->saved_step == step)
        stm_trainer_warn(stm_checkpoint_mark_best(t->policy.grid->world, t->checkpoints, step),
                         "the best checkpoint is not marked");
}

/* Rank 0, before a checkpoint is read: should that or the first step end the job, the next one knows. */
static void note_try(stm_trainer *t)
{
    if (!t->folder || strcmp(t->options->resume, "auto") != 0)
        return;
    t->is_trying = true;
    stm_trainer_warn(stm_tries_add(t->options->run.folder, t->resume.path), "this try is not counted");
}

void stm_trainer_try_succeeded(stm_trainer *t)
{
    if (t->is_trying)
        stm_trainer_warn(stm_tries_clear(t->options->run.folder), "this try stays counted");
    t->is_trying = false;
}

/* The rates that placement balances by: those of the run's first start on this layout. */
static stm_status calibrate(stm_trainer *t)
{
    const stm_policy *policy = &t->policy;
    stm_rates *rates = &stm_engine_settings_of(policy->engine)->placement.rates;
    if (t->resume.recalibrated) {
        stm_calibration_apply(policy, &t->resume.calibration);
        return STM_OK;
    }
    return stm_rates_find(t->options, policy->grid, policy->model->backend, true, rates);
}

stm_status stm_trainer_load(stm_trainer *t)
{
    STM_TRY(calibrate(t));
    if (!t->resume.path)
        return STM_OK;
    note_try(t);
    stm_checkpoint_state state = {0};
    STM_TRY(stm_checkpoint_load(t->policy.grid->world, t->resume.path, t->policy.model, &t->optimizer.shards,
                                t->optimizer.exp_avg, t->optimizer.exp_avg_sq, &state));
    stm_checkpoint_state_clear(&state);
    t->progress = t->resume.progress;
    t->optimizer.n_updates = t->progress.n_updates;
    t->first_step = t->saved_step = t->progress.step;
    return STM_OK;
}
