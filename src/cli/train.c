/* `stemma train`: the main job; the work is in src/train. */
#include "cli/commands.h"
#include "cli/session.h"
#include "metrics/log.h"
#include "train/boundary.h"
#include "train/refine.h"
#include "train/replay.h"
#include "train/trainer.h"

typedef struct {
    stm_session session;
    stm_prompt_set train, eval;
    stm_environment *environment;
    stm_budgets *budgets;
    stm_trainer *trainer;
} job;

static stm_status open_job(const stm_options *options, job *j)
{
    const double start_s = stm_now_s();
    stm_session *s = &j->session;
    size_t most_said;
    if (!options->check)
        stm_boundary_catch_signals();
    STM_TRY(stm_session_open(options, options->model.path, stm_trainer_static_bytes, s));
    if (s->idle) /* signals are meant for the ranks that work, which end in order */
        return STM_OK;
    STM_TRY(stm_prompt_sets_read(s->comm, options, s->model, &s->text, &j->train, &j->eval));
    STM_TRY(stm_session_grid(s, options, (size_t)options->rollout.prompts_per_step));
    s->kept_bytes = stm_replay_bytes(options, &j->train.prompts, 0);
    STM_TRY(stm_session_engine(s, options));
    STM_TRY(stm_agree(&s->grid, stm_environment_create(options, &s->text, &j->environment)));
    STM_TRY(stm_agree(&s->grid, stm_budgets_create(options, &s->text, &j->budgets)));
    STM_TRY(stm_agree(&s->grid, stm_refine_most_said(options, &s->text, &j->train.prompts, &most_said)));
    const stm_policy policy = {.options = options,
                               .model = s->model,
                               .tokenizer = s->tokenizer,
                               .text = &s->text,
                               .grid = &s->grid,
                               .engine = s->engine,
                               .environment = j->environment,
                               .most_said = most_said,
                               .budgets = j->budgets};
    STM_TRY(stm_trainer_create(&policy, &j->train, j->eval.present ? &j->eval : NULL, start_s, &j->trainer));
    return stm_trainer_expect(j->trainer);
}

stm_status stm_cli_train(const stm_options *options)
{
    job j = {0};
    stm_status status = open_job(options, &j);
    const bool works = status == STM_OK && !j.session.idle;
    if (works && options->check) {
        stm_session_print_layout(&j.session);
        stm_trainer_describe(j.trainer);
    } else if (works) {
        status = stm_trainer_run(j.trainer);
    }
    if (status != STM_OK)
        stm_log_file("failed: %s", stm_failure());
    stm_trainer_destroy(j.trainer);
    stm_environment_destroy(j.environment);
    stm_budgets_destroy(j.budgets);
    stm_prompt_set_clear(&j.train);
    stm_prompt_set_clear(&j.eval);
    stm_session_close(&j.session);
    return status;
}
