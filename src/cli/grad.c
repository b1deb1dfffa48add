/* `stemma grad`: loss and the gradient of every parameter, no update. */
#include <stdio.h>
#include <string.h>

#include "checkpoint/results.h"
#include "cli/commands.h"
#include "cli/groups_input.h"
#include "group/score.h"

static stm_status compute(const stm_options *options, const stm_objective *objective, const stm_session *session,
                          const stm_batch *batch, void *gradient)
{
    const stm_grid *grid = &session->grid;
    const stm_model *model = session->model;
    const double start = stm_now_s();
    stm_totals totals;
    stm_objective_sums sums;
    stm_totals_of(batch, &totals);
    STM_TRY(
        stm_objective_gradient(session->engine, grid, batch, objective, &options->objective, &totals, gradient, &sums));
    stm_all_reduce(grid->world, gradient, model->n_parameters, session->backend->real_bytes);
    stm_groups_input_report(session, batch, true, stm_now_s() - start);
    if (grid->rank == 0)
        printf("loss %.10g over %.0f tokens\n", sums.loss, sums.n_tokens);
    return stm_agree(grid,
                     grid->rank == 0 ? stm_results_write_gradient(options->out, model, sums.loss, gradient) : STM_OK);
}

static stm_status grad(const stm_options *options, const stm_objective *objective, const stm_session *session,
                       stm_batch *batch)
{
    const size_t bytes = stm_session_weights_bytes(session);
    void *gradient;
    if (options->objective.mask_truncated)
        stm_batch_mask_truncated(batch);
    stm_batch_round_recorded(batch);
    STM_TRY(session->backend->alloc(session->stream, bytes, &gradient));
    stm_status status = session->backend->zero(session->stream, gradient, bytes);
    if (status == STM_OK)
        status = compute(options, objective, session, batch, gradient);
    session->backend->free(session->stream, gradient);
    return status;
}

stm_status stm_cli_grad(const stm_options *options)
{
    const stm_objective *objective = stm_objective_find(options->objective.name);
    stm_session session = {0};
    stm_batch batch = {0};
    unsigned use = objective->needs_rewards ? STM_GROUPS_NEED_REWARDS : 0;
    if (objective->needs_rewards && options->objective.kl_coef != 0)
        use |= STM_GROUPS_NEED_REFERENCE;
    stm_status status = stm_groups_input_open(options, use, 1, &session, &batch);
    if (status == STM_OK && options->check)
        stm_session_print_layout(&session);
    else if (status == STM_OK)
        status = grad(options, objective, &session, &batch);
    stm_batch_clear(&batch);
    stm_session_close(&session);
    return status;
}
