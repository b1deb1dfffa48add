/* A batch of demonstrations or of recorded groups, and the updates that are made with a step's batch. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "optim/schedule.h"
#include "train/batch.h"
#include "train/chase.h"
#include "train/mask_after.h"
#include "train/mismatched.h"
#include "train/trainer_state.h"

stm_status stm_step_demonstrate(stm_trainer *t, stm_step *step)
{
    const stm_options *o = t->options;
    const stm_thought_dropout dropout = {o->data.thought_dropout, (uint64_t)o->run.seed, t->progress.cursor};
    size_t n_dropped;
    if (t->recorded)
        return stm_agree(t->policy.grid, stm_batch_of_groups(&t->train->groups, step->which, step->n, &step->batch));
    STM_TRY(stm_agree(t->policy.grid, stm_batch_of_demonstrations(&t->train->prompts, step->which, step->n, &dropout,
                                                                  &step->batch, &n_dropped)));
    if (o->data.thought_dropout > 0)
        step->record.thoughts_dropped = (double)n_dropped;
    return STM_OK;
}

static stm_status update_minibatch(stm_trainer *t, stm_step *step, const stm_batch *minibatch,
                                   const stm_objective_options *options, double lr, stm_update_totals *totals)
{
    stm_update_counts counts;
    STM_TRY(stm_optimizer_update(&t->optimizer, &t->policy, minibatch, t->objective, options, lr, &counts));
    stm_update_totals_add(totals, &counts);
    t->progress.n_updates = t->optimizer.n_updates;
    t->reward_failed = false;
    if (counts.skipped)
        return stm_trainer_skip(t, step, "update");
    t->progress.n_skipped_in_a_row = 0;
    return STM_OK;
}

stm_status stm_step_updates(stm_trainer *t, stm_step *step, const stm_batch *batch,
                            const stm_objective_options *options, double lr, stm_update_totals *totals)
{
    const stm_options *o = t->options;
    const size_t n = batch->n_groups;
    const size_t minibatch_n = o->update.minibatch_groups > 0 ? (size_t)o->update.minibatch_groups : n;
    for (int64_t epoch = 0; epoch < o->update.epochs; epoch++)
        for (size_t first = 0; first < n; first += minibatch_n) {
            const stm_batch minibatch = stm_batch_slice(batch, first, STM_MIN(minibatch_n, n - first));
            STM_TRY(update_minibatch(t, step, &minibatch, options, lr, totals));
        }
    return STM_OK;
}

static bool estimates_kl_point(const stm_objective_options *o)
{
    return o->kl_point_from == STM_KL_POINT_MISMATCHED && strcmp(o->name, "kto") == 0;
}

/* The log-probs of the reference and of copies, which go to the responses of the whole batch. */
static stm_status ask_reference(stm_trainer *t, stm_step *step, stm_batch *batch)
{
    stm_status status = STM_OK;
    stm_timers_push(&t->timers, STM_PHASE_REFERENCE);
    if (t->reference)
        status = stm_reference_score(t->reference, &t->policy, STM_ROW_REF, batch);
    if (status == STM_OK)
        status = stm_copies_score(&t->copies, &t->policy, batch);
    if (status == STM_OK && t->reference && estimates_kl_point(&t->objective_options)) {
        status = stm_mismatched_kl(t->reference, &t->policy, batch, &t->objective_options.kl_point);
        step->record.kl_point = t->objective_options.kl_point;
    }
    stm_timers_pop(&t->timers, STM_PHASE_REFERENCE);
    return status;
}

/* Responses from which there is hardly anything to learn. */
static stm_status drop_small(stm_trainer *t, stm_step *step, stm_batch *batch)
{
    size_t n;
    STM_TRY(stm_agree(t->policy.grid, stm_objective_drop(t->objective, &t->objective_options, batch, &n)));
    if (t->objective_options.min_advantage > 0)
        step->record.responses_dropped = (double)n;
    return STM_OK;
}

/* What f-DPG keeps of prompts and earlier steps; the present step's samples join it. */
static void take_targets(stm_trainer *t, stm_step *step, const size_t *which, stm_batch *batch)
{
    double sum = 0, n = 0;
    stm_targets_take(t->targets, which, batch, &t->objective_options.baseline);
    for (size_t g = 0; g < batch->n_groups; g++)
        if (batch->groups[g].has_log_z && isfinite(batch->groups[g].log_z)) {
            sum += batch->groups[g].log_z;
            n += 1;
        }
    if (n > 0)
        step->record.log_z = sum / n;
    if (t->options->objective.baseline_window > 0)
        step->record.baseline = t->objective_options.baseline;
}

/* which [groups of the batch]: the prompts. */
static stm_status update_with(stm_trainer *t, stm_step *step, const size_t *which, stm_batch *batch)
{
    const stm_status status = ask_reference(t, step, batch);
    if (status == STM_ERR_NUMERIC)
        return stm_trainer_skip(t, step, "all updates");
    STM_TRY(status);
    if (t->targets)
        take_targets(t, step, which, batch);
    STM_TRY(drop_small(t, step, batch));
    STM_TRY(stm_step_updates(t, step, batch, &t->objective_options, step->record.lr, &step->updates));
    return t->copies.twin && t->progress.n_skipped_in_a_row == 0 ? stm_step_chase(t, step, batch) : STM_OK;
}

/* The weight of the KL term at this step: on a line from kl_coef_start to kl_coef. */
static double kl_coef(const stm_objective_options *o, int64_t step)
{
    if (o->kl_coef_steps == 0 || step >= o->kl_coef_steps)
        return o->kl_coef;
    return o->kl_coef_start + (o->kl_coef - o->kl_coef_start) * (double)step / (double)o->kl_coef_steps;
}

/* Takes the loss from what shall not be learnt of rollouts. */
static stm_status mask(stm_trainer *t, stm_step *step)
{
    const stm_objective_options *o = &t->objective_options;
    size_t n;
    if (t->supervised && !t->recorded)
        return STM_OK;
    if (o->mask_truncated)
        stm_batch_mask_truncated(&step->batch);
    if (!*o->mask_after)
        return STM_OK;
    STM_TRY(stm_agree(t->policy.grid, stm_mask_after(t->policy.tokenizer, o->mask_after, &step->batch, &n)));
    step->record.decisions_masked = (double)n;
    return STM_OK;
}

stm_status stm_step_update(stm_trainer *t, stm_step *step)
{
    const stm_options *o = t->options;
    const double start = stm_now_s();
    stm_batch judged;
    size_t *which;
    step->record.lr = stm_learning_rate(o->optim.schedule, o->optim.lr, o->optim.min_lr_ratio, o->optim.warmup_steps,
                                        o->run.steps, t->progress.step + 1);
    t->objective_options.kl_coef = kl_coef(&o->objective, t->progress.step);
    STM_TRY(mask(t, step));
    STM_TRY(stm_trainer_judged_of(t, step, &judged, &which));
    stm_status status;
    if (judged.n_groups > 0) {
        status = update_with(t, step, which, &judged);
    } else {
        t->reward_failed = true;
        (void)stm_fail(STM_ERR_NUMERIC, "no group could be judged: %s", step->verdicts.complaint);
        status = stm_trainer_skip(t, step, "all updates");
    }
    free(judged.groups);
    free(which);
    STM_TRY(status);
    step->record.update_s = stm_now_s() - start;
    stm_boundary_measured(&t->boundary.update_s, step->record.update_s + (t->supervised ? 0 : step->record.reward_s));
    return STM_OK;
}
