/* The end of a run: the last checkpoint, DONE, plots, where the time went, and what people can do next. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "group/memory.h"
#include "metrics/plot.h"
#include "metrics/step_line.h"
#include "metrics/timers.h"
#include "train/trainer_state.h"

static stm_status log_timers(stm_trainer *t)
{
    char *table;
    STM_TRY(stm_timers_table(t->policy.grid->world, &t->timers, &table));
    if (table)
        stm_log("\n%s", table);
    free(table);
    return STM_OK;
}

static void log_closing_words(const stm_trainer *t, const char *reason)
{
    const stm_progress *p = &t->progress;
    const char *early = stm_progress_early_stop(p, t->options);
    char time[32];
    stm_short_time(time, stm_now_s() - t->boundary.start_s);
    if (reason)
        stm_log("stopped after step %" PRId64 " of %" PRId64 " (%s); the same command goes on", p->step,
                t->options->run.steps, reason);
    else if (early && p->step < t->options->run.steps)
        stm_log("done after step %" PRId64 " of %" PRId64 " (%s), %s", p->step, t->options->run.steps, early, time);
    else
        stm_log("done: %" PRId64 " steps, %" PRId64 " of them now, in %s", p->step, p->step - t->first_step, time);
    if (t->saved_step >= 0)
        stm_log("newest checkpoint: %s/step-%08" PRId64 ".h5", t->checkpoints, t->saved_step);
    if (!isnan(p->best) && p->best_step > 0)
        stm_log("best evaluation: mean reward %.4g after step %" PRId64 ": %s/best.h5", p->best, p->best_step,
                t->checkpoints);
    if (t->saved_step >= 0)
        stm_log("stemma export CHECKPOINT --to FOLDER writes one as a Hugging Face folder");
}

stm_status stm_trainer_finish(stm_trainer *t, const char *reason)
{
    const stm_grid *grid = t->policy.grid;
    char line[STM_MEMORY_LINE_BYTES];
    stm_trainer_try_succeeded(t);
    STM_TRY(stm_trainer_save(t));
    if (!reason)
        STM_TRY(stm_agree(grid, stm_run_folder_done(t->folder, t->progress.step)));
    if (grid->rank == 0)
        (void)stm_plot_run(t->options->run.folder);
    STM_TRY(log_timers(t));
    stm_memory_usage_line(t->policy.engine, grid, line);
    stm_log("%s", line);
    log_closing_words(t, reason);
    return STM_OK;
}

/* Nothing is left to do; a job killed before it could say so gets its DONE. */
stm_status stm_trainer_say_done(stm_trainer *t)
{
    const char *early = stm_progress_early_stop(&t->resume.progress, t->options);
    stm_log("%s: done already: step %" PRId64 " of %" PRId64 "%s%s; newest checkpoint: %s", t->options->run.folder,
            t->resume.progress.step, t->options->run.steps, early ? ", " : "", early ? early : "", t->resume.path);
    return stm_agree(t->policy.grid, stm_run_folder_done(t->folder, t->resume.progress.step));
}
