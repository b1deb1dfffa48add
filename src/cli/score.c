/* `stemma score`: log-probs and entropies of given responses. */
#include "group/score.h"
#include "checkpoint/results.h"
#include "cli/commands.h"
#include "cli/groups_input.h"

static stm_status score(const stm_options *options, const stm_session *session, stm_batch *batch)
{
    if (options->score_temperature > 0)
        for (size_t g = 0; g < batch->n_groups; g++)
            batch->groups[g].temperature = options->score_temperature;
    const double start = stm_now_s();
    stm_scores scores;
    stm_status status = stm_score_batch(session->engine, &session->grid, batch, &scores);
    if (status == STM_OK) {
        stm_groups_input_report(session, batch, false, stm_now_s() - start);
        status =
            stm_agree(&session->grid, session->grid.rank == 0
                                          ? stm_results_write_scores(options->out, batch, scores.logp, scores.entropy)
                                          : STM_OK);
    }
    stm_scores_clear(&scores);
    return status;
}

stm_status stm_cli_score(const stm_options *options)
{
    stm_session session;
    stm_batch batch;
    stm_status status = stm_groups_input_open(options, STM_GROUPS_IGNORE_MASK, NULL, &session, &batch);
    const bool works = status == STM_OK && !session.idle;
    if (works && options->check)
        stm_session_print_layout(&session);
    else if (works)
        status = score(options, &session, &batch);
    stm_batch_clear(&batch);
    stm_session_close(&session);
    return status;
}
