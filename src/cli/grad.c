/* `stemma grad`: loss and the gradient of every parameter, no update. */
#include <stdio.h>
#include <string.h>

#include "checkpoint/results.h"
#include "cli/commands.h"
#include "cli/grad_recorded.h"
#include "cli/groups_input.h"
#include "group/elsewhere.h"
#include "group/score.h"
#include "group/stage_sum.h"
#include "group/tied.h"

enum { BUCKET = 1 << 20 }; /* elements that are summed at once */

/* Rank 0 writes, and asks the other stages for theirs. */
static stm_status write_gradient(const char *path, const stm_grid *grid, const stm_model *model, double loss,
                                 const void *gradient)
{
    stm_elsewhere elsewhere = {grid, model, gradient};
    if (grid->rank != 0)
        return stm_elsewhere_serve(&elsewhere);
    const stm_status status = stm_results_write_gradient(path, model, loss, stm_elsewhere_read, &elsewhere);
    stm_elsewhere_end(&elsewhere);
    return status;
}

static stm_status compute(const stm_options *options, const stm_objective *objective, const stm_session *session,
                          const stm_batch *batch, void *gradient)
{
    const stm_grid *grid = &session->grid;
    const stm_model *model = session->model;
    const double start = stm_now_s();
    stm_objective_sums sums;
    STM_TRY(stm_objective_gradient(session->engine, grid, batch, objective, &options->objective, gradient, &sums));
    stm_tied_add_gradient(grid, model, gradient);
    STM_TRY(stm_agree(grid, stm_stage_sum(grid, model, BUCKET, true, gradient)));
    stm_groups_input_report(session, batch, true, stm_now_s() - start);
    if (grid->rank == 0)
        printf("loss %.10g over %.0f tokens\n", sums.loss, sums.n_tokens);
    return stm_agree(grid, write_gradient(options->out, grid, model, sums.loss, gradient));
}

static stm_status grad(const stm_options *options, const stm_objective *objective, const stm_session *session,
                       stm_batch *batch)
{
    void *gradient;
    size_t n_dropped;
    if (options->objective.mask_truncated)
        stm_batch_mask_truncated(batch);
    stm_batch_round_recorded(batch);
    STM_TRY(stm_agree(&session->grid, stm_objective_drop(objective, &options->objective, batch, &n_dropped)));
    STM_TRY(stm_agree(&session->grid, stm_model_array_create(session->model, &gradient)));
    stm_status status = stm_agree(&session->grid, stm_model_array_zero(session->model, gradient));
    if (status == STM_OK)
        status = compute(options, objective, session, batch, gradient);
    stm_model_array_destroy(session->model, gradient);
    return status;
}

stm_status stm_cli_grad(const stm_options *options)
{
    if (*options->objective_only)
        return stm_cli_grad_recorded(options);
    const stm_objective *objective = stm_objective_find(options->objective.name);
    stm_session session = {0};
    stm_batch batch = {0};
    unsigned use = objective->needs(&options->objective) & STM_NEEDS_REWARDS ? STM_GROUPS_NEED_REWARDS : 0;
    if (objective->needs(&options->objective) & STM_NEEDS_REFERENCE)
        use |= STM_GROUPS_NEED_REFERENCE;
    stm_status status = stm_groups_input_open(options, use, stm_session_gradient_bytes, &session, &batch);
    const bool works = status == STM_OK && !session.idle;
    if (works && options->check)
        stm_session_print_layout(&session);
    else if (works)
        status = grad(options, objective, &session, &batch);
    stm_batch_clear(&batch);
    stm_session_close(&session);
    return status;
}
