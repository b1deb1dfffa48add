/* A run's evaluations: of the start model, after steps, and one that the run before was left in; and which prompts the
 * start model can do. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "metrics/step_line.h"
#include "train/trainer_state.h"

enum { SAMPLE_GROUPS = 4 }; /* that rollout.save=sample keeps of a step */

size_t stm_trainer_kept_groups(const stm_trainer *t, size_t n)
{
    const char *save = t->options->rollout.save;
    if (strcmp(save, "none") == 0)
        return 0;
    return strcmp(save, "all") == 0 ? n : STM_MIN(n, (size_t)SAMPLE_GROUPS);
}

void stm_trainer_write_record(stm_trainer *t, const stm_record *record)
{
    if (t->metrics)
        stm_trainer_warn(stm_metrics_write(t->metrics, record), "the step is not yet in metrics.jsonl");
}

stm_status stm_trainer_filter(stm_trainer *t)
{
    if (t->options->data.filter_samples == 0 || t->supervised || t->recorded)
        return STM_OK;
    t->boundary.next_s = 0;
    if (!t->filter.known) {
        stm_timers_push(&t->timers, STM_PHASE_EVAL);
        const stm_status status = stm_filter_find(&t->policy, t->rewards, t->unfiltered, &t->filter);
        stm_timers_pop(&t->timers, STM_PHASE_EVAL);
        STM_TRY(status);
    }
    if (!t->filter.known)
        return STM_OK;
    STM_TRY(stm_agree(t->policy.grid, stm_filter_select(&t->filter, t->unfiltered, &t->filtered)));
    t->train = &t->filtered;
    stm_log("filter: %zu of %zu prompts stay, which the start model can do in %" PRId64 " samples", t->filter.n,
            t->unfiltered->prompts.n, t->options->data.filter_samples);
    return STM_OK;
}

bool stm_trainer_eval_is_due(const stm_trainer *t, int64_t step)
{
    return t->eval && (step % t->options->eval.every == 0 || step == t->options->run.steps);
}

static void report(stm_trainer *t, const stm_evaluation *evaluation, const stm_string *lines, stm_record *record)
{
    stm_report_evaluation(record, evaluation);
    if (evaluation->n_failed > 0)
        stm_log("warning: evaluation after step %" PRId64 ": %zu of %zu prompts could not be judged: %s",
                t->progress.step, evaluation->n_failed, evaluation->n_prompts, evaluation->complaint);
    if (lines->n > 0)
        stm_trainer_warn(stm_run_folder_rollouts(t->folder, "eval", t->progress.step, lines->bytes, lines->n),
                         "rollouts of the evaluation are not saved");
}

/* Nothing is reported, and the evaluation stays pending, where it was left. */
static stm_status evaluate(stm_trainer *t, stm_record *record)
{
    stm_string lines = {0};
    stm_evaluation evaluation;
    const double start = stm_now_s();
    t->progress.eval_pending = true;
    t->boundary.next_s = 0;
    stm_timers_push(&t->timers, STM_PHASE_EVAL);
    const stm_status status = stm_evaluate(&t->policy, t->rewards, t->eval,
                                           stm_trainer_kept_groups(t, t->eval->prompts.n), &lines, &evaluation);
    if (status == STM_OK && !stm_watch_leaves(t->policy.watch)) {
        report(t, &evaluation, &lines, record);
        t->progress.eval_pending = false;
    }
    free(lines.bytes);
    stm_evaluation_clear(&evaluation);
    stm_timers_pop(&t->timers, STM_PHASE_EVAL);
    stm_boundary_measured(&t->boundary.eval_s, stm_now_s() - start);
    return status;
}

/* What the start model can do, or the model that an earlier job was evaluating when it ended: its record is there. */
stm_status stm_trainer_evaluate_before(stm_trainer *t)
{
    char line[STM_STEP_LINE_BYTES];
    stm_record record;
    const bool is_start = t->progress.step == 0 && isnan(t->progress.last_eval);
    t->progress.eval_pending = t->progress.eval_pending && t->eval;
    if (!t->eval || !(is_start || t->progress.eval_pending))
        return STM_OK;
    STM_TRY(stm_agree(t->policy.grid, stm_metrics_take_back(t->metrics, t->progress.step, &record)));
    STM_TRY(evaluate(t, &record));
    if (!t->progress.eval_pending) {
        const bool is_best = stm_progress_evaluated(&t->progress, record.eval_reward);
        stm_eval_line(line, &record);
        stm_log("%s", line);
        stm_trainer_write_record(t, &record);
        t->saved_step = -1; /* the checkpoint of this step does not have it */
        if (t->progress.step > 0)
            stm_trainer_keep_step(t, is_best);
    } else if (t->progress.step > 0) {
        stm_trainer_write_record(t, &record); /* without it, as before */
    }
    return STM_OK;
}

stm_status stm_trainer_evaluate_step(stm_trainer *t, stm_step *step, bool *is_best)
{
    const double start = stm_now_s();
    *is_best = false;
    if (!stm_trainer_eval_is_due(t, t->progress.step))
        return STM_OK;
    STM_TRY(evaluate(t, &step->record));
    *is_best = !t->progress.eval_pending && stm_progress_evaluated(&t->progress, step->record.eval_reward);
    step->aside_s += stm_now_s() - start;
    return STM_OK;
}
