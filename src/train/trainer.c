#include "train/trainer.h"

#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/pulse.h"
#include "base/usage.h"
#include "group/memory.h"
#include "metrics/step_line.h"
#include "model/stages.h"
#include "mpi/banner.h"
#include "train/soup.h"
#include "train/trainer_state.h"

/* Beginning */

size_t stm_trainer_async_bytes(const stm_options *options, const stm_model *model, int n_ranks)
{
    const size_t n = stm_optimizer_owned(model, n_ranks);
    return options->checkpoint.async
               ? stm_checkpoint_background_bytes(n, stm_copies_count(options), model->backend->real_bytes)
               : 0;
}

size_t stm_trainer_static_bytes(const stm_options *options, const stm_model *model, int n_ranks)
{
    const bool has_reference = stm_objective_has_reference(&options->objective);
    return stm_optimizer_bytes(model, n_ranks, options->parallel.shard) +
           (has_reference ? stm_parameter_set_bytes(model, n_ranks, stm_optimizer_bucket(n_ranks)) : 0) +
           stm_others_bytes(options, model) + stm_copies_bytes(options, model, n_ranks) +
           stm_trainer_async_bytes(options, model, n_ranks);
}

/* A first guess, for --maxh, of the seconds that a save takes: a slow disk. */
static double guess_save_s(const stm_model *model)
{
    static const double BYTES_PER_S = 50e6;
    return 1.0 + 3.0 * (double)(model->n_parameters * model->backend->real_bytes) / BYTES_PER_S;
}

/* Room for what is saved beside the steps. */
static stm_status take_copy(stm_trainer *t)
{
    const size_t n = stm_shards_count(&t->optimizer.shards, t->policy.grid->stage_rank);
    return stm_alloc(stm_checkpoint_copy_bytes(n, stm_copies_count(t->options), t->policy.model->backend->real_bytes),
                     1, &t->background.copy);
}

static stm_status set_up(stm_trainer *t)
{
    const stm_options *o = t->options;
    stm_model *model = t->policy.model;
    t->objective = stm_objective_find(o->objective.name);
    t->recorded = *o->data.groups != 0;
    t->supervised = stm_is_supervised(o) || t->recorded;
    t->objective_options = o->objective;
    if (t->objective_options.max_tokens == 0)
        t->objective_options.max_tokens = o->rollout.max_new_tokens;
    t->start_hash = model->hash;
    STM_TRY(stm_format(&t->checkpoints, "%s/checkpoints", o->run.folder));
    STM_TRY(stm_options_print(o, STM_COMMAND_TRAIN, &t->options_yaml));
    STM_TRY(stm_reward_set_create(o->reward.items, o->reward.n, &t->rewards));
    if (o->replay.size > 0 && !t->supervised)
        STM_TRY(stm_replay_create(o, &t->replay));
    if (stm_targets_are_needed(&o->objective))
        STM_TRY(stm_targets_create(&o->objective, t->train->prompts.n, &t->targets));
    t->objective_options.baseline_window = 0; /* the baseline becomes a number at each step */
    STM_TRY(stm_clusters_create(&t->policy, &t->answers));
    if (o->objective.reward_weights.n == 0 && o->objective.reward_combine == STM_REWARDS_NORMALIZE_THEN_SUM) {
        STM_TRY(stm_alloc(o->reward.n, sizeof *t->reward_weights, &t->reward_weights));
        for (size_t i = 0; i < o->reward.n; i++)
            t->reward_weights[i] = o->reward.items[i].weight;
        t->objective_options.reward_weights = (stm_numbers){o->reward.n, t->reward_weights};
    }
    if (stm_objective_has_reference(&o->objective)) /* before a checkpoint takes the start weights' place */
        STM_TRY(stm_parameter_set_create(model, t->policy.grid, stm_optimizer_bucket(t->policy.grid->stage_size),
                                         &t->reference));
    return stm_copies_create(&t->policy, &t->copies);
}

/* The average of models that the reference is. Collective. */
static stm_status form_soup(stm_trainer *t)
{
    if (!t->reference || t->options->reference.paths.n == 0)
        return STM_OK;
    return stm_soup_form(&t->policy, stm_optimizer_bucket(t->policy.grid->stage_size), t->reference,
                         &t->progress.reference_hash);
}

/* After the reference is formed. Collective. */
static stm_status take_others(stm_trainer *t)
{
    const stm_options *o = t->options;
    return o->reference.samples > 0 ? stm_others_create(&t->policy, t->reference, o->reference.mixture, &t->others)
                                    : STM_OK;
}

/* After the reference is formed, which takes memory of its own meanwhile. */
static stm_status take_optimizer(stm_trainer *t)
{
    const stm_grid *grid = t->policy.grid;
    STM_TRY(stm_optimizer_create(t->policy.model, grid, t->options->parallel.shard,
                                 stm_optimizer_bucket(grid->stage_size), &t->optimizer));
    return t->options->checkpoint.async ? take_copy(t) : STM_OK;
}

static void log_refused(const stm_trainer *t)
{
    if (t->resume.refused)
        stm_log("warning: refused:\n%s", t->resume.refused);
}

stm_status stm_trainer_create(const stm_policy *policy, const stm_prompt_set *train, const stm_prompt_set *eval,
                              double start_s, stm_trainer **out)
{
    const stm_grid *grid = policy->grid;
    stm_trainer *t;
    STM_TRY(stm_agree(grid, stm_alloc(1, sizeof *t, &t)));
    *t = (stm_trainer){.policy = *policy,
                       .options = policy->options,
                       .train = train,
                       .unfiltered = train,
                       .eval = eval,
                       .saved_step = -1};
    t->policy.timers = &t->timers;
    stm_engine_settings_of(policy->engine)->timers = &t->timers;
    stm_timers_init(&t->timers);
    stm_progress_init(&t->progress);
    const double limit_s = stm_boundary_limit_s(start_s, t->options->maxh, t->options->job_start);
    stm_boundary_init(&t->boundary, start_s, grid->rank == 0 ? limit_s : 0, guess_save_s(policy->model));
    t->policy.watch = &t->boundary.watch;
    stm_status status = stm_agree(grid, set_up(t));
    if (status == STM_OK)
        status = form_soup(t);
    if (status == STM_OK)
        status = take_others(t);
    if (status == STM_OK)
        status = stm_agree(grid, take_optimizer(t));
    if (status == STM_OK && !t->options->check)
        status = stm_agree(grid, grid->rank == 0 ? stm_run_folder_open(t->options->run.folder, &t->folder) : STM_OK);
    t->boundary.folder = t->folder;
    if (status == STM_OK)
        status = stm_resume_find(&t->policy, t->checkpoints, t->start_hash, t->progress.reference_hash, &t->resume);
    if (status != STM_OK) {
        log_refused(t);
        stm_trainer_destroy(t);
        return status;
    }
    *out = t;
    return STM_OK;
}

void stm_trainer_destroy(stm_trainer *t)
{
    if (!t)
        return;
    stm_checkpoint_save_end(t->background.save);
    free(t->background.copy);
    stm_metrics_close(t->metrics);
    stm_run_folder_close(t->folder);
    stm_resume_point_clear(&t->resume);
    stm_optimizer_destroy(&t->optimizer, t->policy.model);
    stm_others_destroy(t->others);
    stm_parameter_set_destroy(t->reference);
    stm_copies_clear(&t->copies);
    stm_reward_set_destroy(t->rewards);
    stm_replay_destroy(t->replay);
    stm_targets_destroy(t->targets);
    stm_filter_clear(&t->filter);
    stm_answers_destroy(t->answers);
    free(t->checkpoints);
    free(t->options_yaml);
    free(t->reward_weights);
    free(t);
}

static void log_prompts(const stm_prompt_set *set, const char *use)
{
    stm_log("%s: %zu prompts of %s", use, set->prompts.n, set->path);
    if (set->prompts.n_skipped > 0 || set->prompts.n_truncated > 0)
        stm_log("  too long: %zu left out, %zu cut on the left", set->prompts.n_skipped, set->prompts.n_truncated);
}

static void log_plan(const stm_trainer *t)
{
    const stm_options *o = t->options;
    const int64_t group_size = t->supervised ? 1 : o->rollout.group_size;
    log_prompts(t->train, "train");
    if (t->eval)
        log_prompts(t->eval, "eval");
    stm_log("a step: %" PRId64 " prompts, %" PRId64 " %s, objective %s; %" PRId64 " steps: %.2f epochs",
            o->rollout.prompts_per_step, o->rollout.prompts_per_step * group_size,
            t->recorded ? "groups of recorded responses" : "responses", o->objective.name, o->run.steps,
            (double)(o->run.steps * o->rollout.prompts_per_step) / (double)t->train->prompts.n);
    log_refused(t);
    if (t->resume.path)
        stm_log("going on from %s, after step %" PRId64 " of %" PRId64, t->resume.path, t->resume.progress.step,
                o->run.steps);
    else
        stm_log("starting from %s", o->model.path);
    if (t->progress.reference_hash != 0)
        stm_log("the reference is the average of %zu models", o->reference.paths.n);
}

void stm_trainer_describe(const stm_trainer *t)
{
    log_plan(t);
}

/* Rank 0: the run folder, now that training starts or goes on. */
static stm_status begin_folder(stm_trainer *t)
{
    const int64_t step = t->resume.path ? t->progress.step : -1;
    char *where;
    STM_TRY(stm_set_aside_later(t->checkpoints, step, &where));
    if (where)
        stm_log("checkpoints of later steps were moved to %s", where);
    free(where);
    STM_TRY(stm_run_folder_begin(t->folder, t->options_yaml));
    STM_TRY(stm_run_folder_cut_back(t->folder, step));
    return stm_metrics_open(t->options->run.folder, step, t->options->run.steps, &t->metrics);
}

static stm_status begin(stm_trainer *t)
{
    const stm_grid *grid = t->policy.grid;
    char *banner, *stages, line[STM_MEMORY_LINE_BYTES];
    stm_device device;
    t->policy.model->backend->describe(t->policy.model->stream, &device);
    STM_TRY(stm_banner(grid, omp_get_max_threads(), device.name, device.id, &banner));
    if (banner)
        stm_log("%s", banner);
    free(banner);
    STM_TRY(stm_agree(grid, stm_stages_text(&t->policy.model->config, (size_t)grid->n_stages, &stages)));
    if (*stages)
        stm_log("%s", stages);
    free(stages);
    stm_memory_plan_line(t->policy.engine, grid, line);
    stm_log("%s", line);
    log_plan(t);
    STM_TRY(stm_trainer_load(t));
    STM_TRY(stm_agree(grid, grid->rank == 0 ? begin_folder(t) : STM_OK));
    return stm_checkpoint_prepare(grid->world, t->checkpoints);
}

/* One step */

static stm_status begin_step(stm_trainer *t, stm_step *step)
{
    const size_t n = (size_t)t->options->rollout.prompts_per_step;
    *step = (stm_step){.n = n, .n_used = n, .start_s = stm_now_s()};
    stm_pulse_step(t->progress.step + 1);
    stm_record_init(&step->record);
    STM_TRY(stm_agree(t->policy.grid, stm_alloc(step->n, sizeof *step->which, &step->which)));
    for (size_t i = 0; i < step->n; i++)
        step->which[i] = stm_prompt_at(&t->train->prompts, (uint64_t)t->options->run.seed, t->options->data.shuffle,
                                       t->progress.cursor + i);
    return STM_OK;
}

static void end_step(stm_step *step)
{
    free(step->which);
    stm_batch_clear(&step->batch);
    stm_verdicts_clear(&step->verdicts);
}

static stm_status write_rollouts(const stm_trainer *t, const stm_step *step)
{
    const size_t n = STM_MIN(stm_trainer_kept_groups(t, step->n), step->batch.n_groups);
    stm_string lines = {0};
    if (t->policy.grid->rank != 0 || t->supervised || n == 0)
        return STM_OK;
    stm_status status = stm_verdicts_write(&step->verdicts, t->train, step->which, &step->batch, n, &lines);
    if (status == STM_OK)
        status = stm_run_folder_rollouts(t->folder, "step", t->progress.step, lines.bytes, lines.n);
    free(lines.bytes);
    return status;
}

/* Everything that people see of a step. */
static void report_step(stm_trainer *t, stm_step *step)
{
    stm_record *record = &step->record;
    (void)stm_usage_sample();
    double peak_bytes = stm_memory_peak_bytes();
    stm_all_reduce_max(t->policy.grid->world, &peak_bytes, 1);
    record->step = (double)t->progress.step;
    record->memory_peak_bytes = peak_bytes;
    record->step_s = stm_now_s() - step->start_s - step->aside_s;
    stm_waits_report(t->policy.grid->world, &step->waits, record);
    stm_report_batch(record, &step->batch);
    stm_report_updates(record, &step->updates, t->reference != NULL);
    stm_record_rates(record);
    stm_boundary_measured(&t->boundary.step_s, record->step_s);
    stm_trainer_warn(write_rollouts(t, step), "the rollouts of the step are not saved");
    stm_trainer_write_record(t, record);
    if (t->metrics)
        stm_log("%s", stm_metrics_line(t->metrics, record));
}

/* SAVE was seen, while rollouts were sampled or between steps: no weight has changed since the last step. */
static void answer_save(stm_trainer *t)
{
    stm_trainer_save_or_warn(t);
    stm_boundary_saved(&t->boundary);
    stm_trainer_warn(stm_run_folder_acknowledge(t->folder, STM_REQUEST_SAVE), "a request stays in the run folder");
    stm_log("SAVE: checkpoint after step %" PRId64, t->saved_step);
}

/* The step's responses are worth nothing: a log-prob was not a number. */
static stm_status lose_rollouts(stm_trainer *t, stm_step *step)
{
    stm_batch_clear(&step->batch);
    t->reward_failed = false;
    return stm_trainer_skip(t, step, "all updates");
}

/* What was judged takes effect on memories: from here on a checkpoint is of the next step. */
static stm_status settle(stm_trainer *t, stm_step *step)
{
    stm_status status = t->policy.grid->rank == 0 ? stm_reward_set_settle(t->rewards) : STM_OK;
    if (status == STM_OK && t->replay)
        status = stm_replay_settle(t->replay);
    if (t->replay)
        step->record.replay_stored = (double)stm_replay_count(t->replay);
    return stm_agree(t->policy.grid, status);
}

static stm_status learn(stm_trainer *t, stm_step *step)
{
    const stm_waits before = stm_waits_of(&t->timers);
    STM_TRY(stm_agree(t->policy.grid, stm_copies_renew(&t->copies, t->options, t->progress.step)));
    const stm_status found = t->supervised ? stm_step_demonstrate(t, step) : stm_step_sample(t, step);
    const bool lost = found == STM_ERR_NUMERIC;
    STM_TRY(lost ? lose_rollouts(t, step) : found);
    step->left = stm_watch_leaves(t->policy.watch);
    if (step->left)
        return STM_OK;
    if (t->boundary.watch.seen & STM_BOUNDARY_SAVE && !(t->boundary.watch.seen & STM_BOUNDARY_LOST)) {
        const double start = stm_now_s();
        answer_save(t);
        step->aside_s += stm_now_s() - start;
    }
    if (!lost)
        STM_TRY(stm_step_update(t, step));
    const stm_waits after = stm_waits_of(&t->timers);
    step->waits = stm_waits_between(&before, &after);
    STM_TRY(settle(t, step));
    t->progress.step++;
    t->progress.cursor += step->n_used;
    return STM_OK;
}

static stm_status run_step(stm_trainer *t)
{
    stm_step step;
    bool is_best;
    stm_status status;
    STM_GOTO_OUT(begin_step(t, &step));
    STM_GOTO_OUT(learn(t, &step));
    if (step.left)
        goto out;
    stm_trainer_try_succeeded(t);
    STM_GOTO_OUT(stm_trainer_evaluate_step(t, &step, &is_best));
    report_step(t, &step);
    if (t->progress.n_skipped_in_a_row == 0) /* else it has changed nothing, or what it has changed is no good */
        stm_trainer_keep_step(t, is_best);
out:
    end_step(&step);
    return status;
}

/* Between steps */

/* Why the run ends here, or NULL. */
static const char *cross_boundary(stm_trainer *t)
{
    const stm_boundary *b = &t->boundary;
    const bool eval_is_next = stm_trainer_eval_is_due(t, t->progress.step + 1);
    const int bits = stm_boundary_agree(&t->boundary, t->policy.grid, b->step_s + (eval_is_next ? b->eval_s : 0.0));
    if (bits & STM_BOUNDARY_LOST)
        return "another job works in the run folder";
    if (bits & STM_BOUNDARY_SAVE)
        answer_save(t);
    if (bits & STM_BOUNDARY_STOP)
        stm_trainer_warn(stm_run_folder_acknowledge(t->folder, STM_REQUEST_STOP), "STOP stays in the run folder");
    return bits & STM_BOUNDARY_STOP     ? "STOP was found in the run folder"
           : bits & STM_BOUNDARY_SIGNAL ? "a signal asked for it"
           : bits & STM_BOUNDARY_TIME   ? "the time of --maxh is up"
                                        : NULL;
}

static bool has_steps_left(const stm_trainer *t)
{
    return t->progress.step < t->options->run.steps && !stm_progress_early_stop(&t->progress, t->options);
}

/* Steps until the last one, or until there is a reason to end; *reason is NULL where the run is done. */
static stm_status run_steps(stm_trainer *t, const char **reason)
{
    STM_TRY(stm_trainer_filter(t));
    if (!stm_watch_leaves(t->policy.watch))
        STM_TRY(stm_trainer_evaluate_before(t));
    *reason = stm_watch_leaves(t->policy.watch) ? cross_boundary(t) : NULL;
    while (!*reason && has_steps_left(t)) {
        STM_TRY(run_step(t));
        *reason = cross_boundary(t);
    }
    if (t->boundary.watch.seen & STM_BOUNDARY_LOST)
        return stm_fail(STM_ERR_IO,
                        "run.folder: %s: another job has taken it over, after this one was still for a while",
                        t->options->run.folder);
    if (!has_steps_left(t) && !t->progress.eval_pending)
        *reason = NULL;
    return STM_OK;
}

/* Ending */

/* What all ranks have agreed to end by. Rewards that failed have cost nothing but their steps: what was learnt before
 * is kept. Where numbers were none, so may be the weights, and the last good checkpoint stays the newest. */
static stm_status keep_before_failing(stm_trainer *t, stm_status why)
{
    char *message = NULL;
    STM_TRY(stm_agree(t->policy.grid, stm_format(&message, "%s", stm_failure())));
    stm_trainer_await_save(t);
    if (t->reward_failed) {
        stm_trainer_try_succeeded(t); /* the checkpoint is not to blame */
        stm_trainer_save_or_warn(t);
    }
    stm_fail(why, "%s", message);
    free(message);
    return why;
}

static bool is_done(const stm_trainer *t)
{
    const stm_progress *p = &t->resume.progress;
    return t->resume.path && !p->eval_pending &&
           (p->step >= t->options->run.steps || stm_progress_early_stop(p, t->options));
}

stm_status stm_trainer_run(stm_trainer *t)
{
    const char *reason = NULL;
    if (is_done(t)) {
        log_refused(t);
        return stm_trainer_say_done(t);
    }
    STM_TRY(begin(t));
    stm_pulse_elsewhere(NULL);
    const stm_status status = run_steps(t, &reason);
    if (status == STM_ERR_NUMERIC)
        return keep_before_failing(t, status);
    STM_TRY(status);
    return stm_trainer_finish(t, reason);
}
