#include "train/chase.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "metrics/log.h"

/* The loss that both would have alone. */
static stm_status plain_loss(const stm_trainer *t, const stm_batch *batch, const stm_scores *scores, double *loss)
{
    stm_objective_options alone = t->objective_options;
    stm_objective_sums sums = {0};
    stm_objective_batch b = {0};
    double *dlogp;
    stm_status status;
    alone.chase_coef = 0;
    STM_TRY(stm_alloc(scores->n_tokens, sizeof *dlogp, &dlogp));
    STM_GOTO_OUT(stm_objective_batch_create(t->objective, &alone, batch, &b));
    stm_objective_collect(&b, scores->logp);
    for (size_t g = 0; g < batch->n_groups; g++)
        stm_objective_group(&b, g, scores->logp, scores->entropy, dlogp, &sums);
    *loss = sums.loss;
out:
    stm_objective_batch_clear(&b);
    free(dlogp);
    return status;
}

/* Of the model that is in place: its loss and, where keep says so, its log-probs for the other. Collective. */
static stm_status judge(stm_trainer *t, stm_batch *batch, bool keep, double *loss)
{
    stm_scores scores;
    stm_timers_push(&t->timers, STM_PHASE_REFERENCE);
    stm_status status = stm_score_batch(t->policy.engine, t->policy.grid, batch, &scores);
    if (status == STM_OK)
        status = stm_agree(t->policy.grid, plain_loss(t, batch, &scores, loss));
    if (status == STM_OK && keep)
        status = stm_agree(t->policy.grid, stm_reference_keep(&scores, STM_ROW_TWIN, batch));
    stm_scores_clear(&scores);
    stm_timers_pop(&t->timers, STM_PHASE_REFERENCE);
    return status;
}

static void swap(void **a, void **b)
{
    void *const kept = *a;
    *a = *b;
    *b = kept;
}

/* The twin becomes the policy, and the policy the twin, with their optimizers. Collective. */
static stm_status change_places(stm_trainer *t)
{
    const int64_t n_updates = t->optimizer.n_updates;
    swap(&t->optimizer.exp_avg, &t->copies.exp_avg);
    swap(&t->optimizer.exp_avg_sq, &t->copies.exp_avg_sq);
    t->optimizer.n_updates = t->progress.n_updates = t->progress.n_twin_updates;
    t->progress.n_twin_updates = n_updates;
    stm_timers_push(&t->timers, STM_PHASE_GATHER);
    const stm_status status = stm_parameter_set_exchange(t->copies.twin);
    stm_timers_pop(&t->timers, STM_PHASE_GATHER);
    return status;
}

/* Its update, in the policy's place. *loss: after it, where roles may change; else NaN. */
static stm_status update_twin(stm_trainer *t, stm_step *step, stm_batch *batch, double *loss)
{
    stm_objective_options slow = t->objective_options;
    stm_update_totals totals = {0};
    slow.chase_role = STM_CHASE_SLOW;
    STM_TRY(stm_step_updates(t, step, batch, &slow, t->options->objective.chase_lr_ratio * step->record.lr, &totals));
    const bool is_due = (t->progress.step + 1) % t->options->objective.chase_interval == 0;
    if (!is_due || t->progress.n_skipped_in_a_row > 0)
        return STM_OK;
    const stm_status status = judge(t, batch, false, loss);
    return status == STM_ERR_NUMERIC ? stm_trainer_skip(t, step, "comparison with the twin") : status;
}

stm_status stm_step_chase(stm_trainer *t, stm_step *step, stm_batch *batch)
{
    double fast = NAN, slow = NAN;
    stm_status status = judge(t, batch, true, &fast);
    if (status == STM_ERR_NUMERIC)
        return stm_trainer_skip(t, step, "update of the twin");
    STM_TRY(status);
    STM_TRY(change_places(t));
    status = update_twin(t, step, batch, &slow);
    if (status == STM_OK && slow < fast) {
        stm_log("step %" PRId64 ": the twin is the policy from now on: its loss is %.6g, the other's %.6g",
                t->progress.step + 1, slow, fast);
        return STM_OK;
    }
    const stm_status back = change_places(t);
    return status == STM_OK ? back : status;
}
