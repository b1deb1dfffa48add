/* A step's batch, from rollouts or from demonstrations, and the updates that are made with it. */
#include <math.h>

#include "metrics/log.h"
#include "optim/schedule.h"
#include "rollout/rollout.h"
#include "train/batch.h"
#include "train/trainer_state.h"

stm_status stm_step_sample(stm_trainer *t, stm_step *step)
{
    const stm_policy *p = &t->policy;
    stm_sampling sampling;
    stm_rollout_counts counts;
    const double start = stm_now_s();
    STM_TRY(stm_agree(p->grid, stm_batch_of_prompts(&t->train->prompts, step->which, step->n, &step->batch)));
    stm_sampling_init(t->options, p->model, p->tokenizer, STM_RANDOM_TRAIN, (uint64_t)t->progress.step, &sampling);
    sampling.watch = p->watch;
    t->boundary.next_s = t->boundary.update_s;
    stm_timers_push(&t->timers, STM_PHASE_ROLLOUT);
    STM_TRY(stm_rollout(p->engine, p->model, p->grid, &sampling, &step->batch, &counts));
    stm_timers_pop(&t->timers, STM_PHASE_ROLLOUT);
    if (stm_watch_leaves(p->watch))
        return STM_OK;
    const double sampled = stm_now_s();
    stm_timers_push(&t->timers, STM_PHASE_REWARD);
    const stm_status judged = stm_judge(p, t->rewards, t->train, step->which, &step->batch, &step->verdicts);
    stm_timers_pop(&t->timers, STM_PHASE_REWARD);
    t->reward_failed = judged == STM_ERR_NUMERIC;
    STM_TRY(judged);
    step->record.tokens_sampled = counts.tokens;
    step->record.rollout_s = sampled - start;
    step->record.reward_s = stm_now_s() - sampled;
    return STM_OK;
}

stm_status stm_step_demonstrate(stm_trainer *t, stm_step *step)
{
    return stm_agree(t->policy.grid,
                     stm_batch_of_demonstrations(&t->train->prompts, step->which, step->n, &step->batch));
}

/* An update whose gradient is no number changes nothing; several in a row will not heal. */
static stm_status note_skipped(stm_trainer *t, const stm_update_counts *counts)
{
    stm_progress *progress = &t->progress;
    progress->n_skipped_in_a_row = counts->skipped ? progress->n_skipped_in_a_row + 1 : 0;
    if (!counts->skipped)
        return STM_OK;
    if (counts->bad_logprobs)
        stm_log("warning: step %lld: update skipped: %s", (long long)progress->step + 1, stm_failure());
    else
        stm_log("warning: step %lld: update skipped: loss %g, norm of the gradient %g", (long long)progress->step + 1,
                counts->sums.loss, fabs(counts->grad_norm)); /* nan has no sign */
    if (progress->n_skipped_in_a_row < t->options->fault.max_skips)
        return STM_OK;
    return stm_fail(STM_ERR_NUMERIC,
                    "step %lld: the gradient was not finite in %lld updates in a row; a smaller optim.lr or optim.clip "
                    "may help",
                    (long long)progress->step + 1, (long long)progress->n_skipped_in_a_row);
}

static stm_status update_minibatch(stm_trainer *t, stm_step *step, const stm_batch *minibatch)
{
    stm_update_counts counts;
    STM_TRY(stm_optimizer_update(&t->optimizer, &t->policy, minibatch, t->objective, &t->objective_options,
                                 step->record.lr, &counts));
    stm_update_totals_add(&step->updates, &counts);
    t->progress.n_updates = t->optimizer.n_updates;
    return note_skipped(t, &counts);
}

stm_status stm_step_update(stm_trainer *t, stm_step *step)
{
    const stm_options *o = t->options;
    const size_t n = step->batch.n_groups;
    const size_t minibatch_n = o->update.minibatch_groups > 0 ? (size_t)o->update.minibatch_groups : n;
    const double start = stm_now_s();
    step->record.lr = stm_learning_rate(o->optim.schedule, o->optim.lr, o->optim.min_lr_ratio, o->optim.warmup_steps,
                                        o->run.steps, t->progress.step + 1);
    if (t->objective_options.mask_truncated && !t->supervised)
        stm_batch_mask_truncated(&step->batch);
    if (t->reference) {
        stm_timers_push(&t->timers, STM_PHASE_REFERENCE);
        STM_TRY(stm_reference_score(t->reference, &t->policy, &step->batch));
        stm_timers_pop(&t->timers, STM_PHASE_REFERENCE);
    }
    for (int64_t epoch = 0; epoch < o->update.epochs; epoch++)
        for (size_t first = 0; first < n; first += minibatch_n) {
            const stm_batch minibatch = stm_batch_slice(&step->batch, first, STM_MIN(minibatch_n, n - first));
            STM_TRY(update_minibatch(t, step, &minibatch));
        }
    step->record.update_s = stm_now_s() - start;
    stm_boundary_measured(&t->boundary.update_s, step->record.update_s + (t->supervised ? 0 : step->record.reward_s));
    return STM_OK;
}
