/* A run's checkpoints: when one is saved, at once or beside the steps, and taking up the one that was found. */
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

/* One step's checkpoint has its name. Collective. */
static void saved(stm_trainer *t, int64_t step)
{
    t->saved_step = step;
    stm_trainer_warn(stm_checkpoint_retain(t->policy.grid->world, t->checkpoints, t->options->checkpoint.keep),
                     "older checkpoints are not removed");
}

/* Rank 0: what is kept beside tensors. */
static stm_status write_kept(const stm_trainer *t, stm_kept *kept)
{
    if (t->policy.grid->rank != 0)
        return STM_OK;
    STM_TRY(stm_reward_set_save(t->rewards, &kept[STM_KEPT_REWARDS]));
    STM_TRY(stm_filter_save(&t->filter, t->unfiltered->prompts.n, &kept[STM_KEPT_FILTER]));
    if (t->targets)
        STM_TRY(stm_targets_save(t->targets, &kept[STM_KEPT_TARGETS]));
    return t->replay ? stm_replay_save(t->replay, &kept[STM_KEPT_REPLAY]) : STM_OK;
}

/* Every rank replays, filters and estimates; rank 0 judges. */
static stm_status read_kept(stm_trainer *t, const stm_kept *kept)
{
    if (t->policy.grid->rank == 0)
        STM_TRY(stm_reward_set_restore(t->rewards, t->resume.path, &kept[STM_KEPT_REWARDS]));
    if (t->options->data.filter_samples > 0)
        STM_TRY(stm_filter_restore(&t->filter, t->resume.path, &kept[STM_KEPT_FILTER], t->unfiltered->prompts.n));
    if (t->targets)
        STM_TRY(stm_targets_restore(t->targets, t->resume.path, &kept[STM_KEPT_TARGETS]));
    return t->replay ? stm_replay_restore(t->replay, t->resume.path, &kept[STM_KEPT_REPLAY]) : STM_OK;
}

/* All at once, or begun in the background. */
static stm_status write_state(stm_trainer *t, bool in_background)
{
    const MPI_Comm world = t->policy.grid->world;
    const stm_calibration calibration = stm_calibration_of(&t->policy);
    const stm_optimizer *o = &t->optimizer;
    stm_checkpoint_state state = {.step = t->progress.step,
                                  .seed = (uint64_t)t->options->run.seed,
                                  .cursor = t->progress.cursor,
                                  .options_yaml = t->options_yaml,
                                  .best = t->progress.best,
                                  .model_hash = t->start_hash};
    stm_copies_place(&t->copies, &state);
    stm_status status = stm_agree(t->policy.grid, stm_progress_write(&t->progress, &calibration, &state.trainer_json));
    if (status == STM_OK)
        status = stm_agree(t->policy.grid, write_kept(t, state.kept));
    if (status == STM_OK)
        status = in_background
                     ? stm_checkpoint_save_begin(world, t->checkpoints, &state, t->policy.model, &o->shards, o->exp_avg,
                                                 o->exp_avg_sq, t->background.copy, &t->background.save)
                     : stm_checkpoint_save(world, t->checkpoints, &state, t->policy.model, &o->shards, o->exp_avg,
                                           o->exp_avg_sq);
    free(state.trainer_json);
    for (size_t i = 0; i < STM_CHECKPOINT_N_KEPT; i++)
        free(state.kept[i].bytes);
    return status;
}

enum { MOST_STEPS_TO_RETRY = 64 };

/* A save has failed, or not. */
static void warn_and_retry(stm_trainer *t, stm_status status)
{
    t->retry_after = status == STM_OK ? 0 : STM_MAX(1, STM_MIN(2 * t->retry_after, MOST_STEPS_TO_RETRY));
    t->retry_step = t->progress.step + t->retry_after;
    stm_trainer_warn(status, "the checkpoint is not saved");
}

static void mark_best(stm_trainer *t)
{
    stm_trainer_warn(stm_checkpoint_mark_best(t->policy.grid->world, t->checkpoints, t->saved_step),
                     "the best checkpoint is not marked");
}

/* The save in the background is done, well or not. At the end of a run there may be one under way and one to come. */
static void end_background(stm_trainer *t, stm_status status)
{
    stm_boundary_measured(&t->boundary.save_s, 2 * stm_checkpoint_save_busy_s(t->background.save));
    stm_checkpoint_save_end(t->background.save);
    t->background.save = NULL;
    if (status == STM_OK)
        saved(t, t->background.step);
    warn_and_retry(t, status);
    if (status == STM_OK && t->background.is_best)
        mark_best(t);
}

/* Sees to the save in the background, where there is one. wait: until it is done. */
static void advance_background(stm_trainer *t, bool wait)
{
    bool done;
    if (!t->background.save)
        return;
    stm_timers_push(&t->timers, STM_PHASE_CHECKPOINT);
    const stm_status status = stm_checkpoint_save_advance(t->background.save, wait, &done);
    if (done)
        end_background(t, status);
    stm_timers_pop(&t->timers, STM_PHASE_CHECKPOINT);
}

void stm_trainer_await_save(stm_trainer *t)
{
    advance_background(t, true);
}

stm_status stm_trainer_save(stm_trainer *t)
{
    stm_trainer_await_save(t);
    if (t->saved_step == t->progress.step)
        return STM_OK;
    const double start = stm_now_s();
    stm_timers_push(&t->timers, STM_PHASE_CHECKPOINT);
    const stm_status status = write_state(t, false);
    if (status == STM_OK)
        saved(t, t->progress.step);
    stm_timers_pop(&t->timers, STM_PHASE_CHECKPOINT);
    stm_boundary_measured(&t->boundary.save_s, stm_now_s() - start);
    return status;
}

void stm_trainer_save_or_warn(stm_trainer *t)
{
    warn_and_retry(t, stm_trainer_save(t));
}

static void begin_background(stm_trainer *t, bool is_best)
{
    stm_trainer_await_save(t); /* there is one copy */
    stm_timers_push(&t->timers, STM_PHASE_CHECKPOINT);
    t->background.step = t->progress.step;
    t->background.is_best = is_best;
    const stm_status status = write_state(t, true);
    if (status != STM_OK)
        warn_and_retry(t, status);
    stm_timers_pop(&t->timers, STM_PHASE_CHECKPOINT);
}

void stm_trainer_keep_step(stm_trainer *t, bool is_best)
{
    advance_background(t, false);
    const int64_t every = t->options->checkpoint.every, step = t->progress.step;
    const bool is_due = every > 0 && step % every == 0, is_retry = t->retry_after > 0 && step >= t->retry_step;
    if (!is_best && !is_due && !is_retry)
        return;
    if (t->options->checkpoint.async) {
        begin_background(t, is_best);
        return;
    }
    stm_trainer_save_or_warn(t);
    if (is_best && t->saved_step == step)
        mark_best(t);
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
    stm_copies_place(&t->copies, &state);
    STM_TRY(stm_checkpoint_load(t->policy.grid->world, t->resume.path, t->policy.model, &t->optimizer.shards,
                                t->optimizer.exp_avg, t->optimizer.exp_avg_sq, &state));
    const stm_status status = stm_agree(t->policy.grid, read_kept(t, state.kept));
    stm_checkpoint_state_clear(&state);
    STM_TRY(status);
    t->progress = t->resume.progress;
    t->optimizer.n_updates = t->progress.n_updates;
    t->first_step = t->saved_step = t->progress.step;
    return STM_OK;
}
