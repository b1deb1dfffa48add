/* A run's checkpoints: saving, and taking up the one that was found. */
#include <stdlib.h>

#include "metrics/log.h"
#include "plan/rates.h"
#include "train/trainer_state.h"

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
    return stm_checkpoint_retain(world, t->checkpoints, t->options->checkpoint.keep);
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

stm_status stm_trainer_mark_best(stm_trainer *t)
{
    return stm_checkpoint_mark_best(t->policy.grid->world, t->checkpoints, t->saved_step);
}

void stm_trainer_save_or_warn(stm_trainer *t)
{
    stm_trainer_warn(stm_trainer_save(t), "the checkpoint is not saved");
}

void stm_trainer_keep_step(stm_trainer *t, bool is_best)
{
    const int64_t every = t->options->checkpoint.every;
    if (is_best || (every > 0 && t->progress.step % every == 0))
        stm_trainer_save_or_warn(t);
    if (is_best && t->saved_step == t->progress.step)
        stm_trainer_warn(stm_trainer_mark_best(t), "the best checkpoint is not marked");
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
    stm_checkpoint_state state = {0};
    STM_TRY(stm_checkpoint_load(t->policy.grid->world, t->resume.path, t->policy.model, &t->optimizer.shards,
                                t->optimizer.exp_avg, t->optimizer.exp_avg_sq, &state));
    stm_checkpoint_state_clear(&state);
    t->progress = t->resume.progress;
    t->optimizer.n_updates = t->progress.n_updates;
    t->first_step = t->saved_step = t->progress.step;
    return STM_OK;
}
