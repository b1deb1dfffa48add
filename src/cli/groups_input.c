#include "cli/groups_input.h"
#include <stdio.h>
#include <stdlib.h>

#include "group/memory.h"
#include "group/token_weights.h"
#include "objective/objective.h"

stm_status stm_groups_input_read(const char *path, unsigned use, const stm_session *session, stm_batch *batch)
{
    char *text;
    size_t n;
    STM_TRY(stm_broadcast_file(session->comm, path, &text, &n));
    const stm_status status = stm_groups_read(path, text, n, &session->text, use, batch);
    free(text);
    return stm_agree_on(session->comm, status);
}

/* What score or, with gradient, grad will do. */
static stm_status expect(const stm_options *options, const stm_session *session, const stm_batch *batch, bool gradient)
{
    if (!gradient)
        return stm_engine_expect(session->engine, batch, STM_PASS_SCORE);
    if (stm_objective_weighs_tokens(stm_objective_find(options->objective.name), &options->objective))
        STM_TRY(stm_token_weights_expect(session->engine, &session->grid, batch));
    return stm_engine_expect(session->engine, batch, STM_PASS_GRADIENT);
}

stm_status stm_groups_input_open(const stm_options *options, unsigned use, stm_static_bytes *static_bytes,
                                 stm_session *session, stm_batch *batch)
{
    *batch = (stm_batch){0};
    *session = (stm_session){0};
    STM_TRY(stm_agree_on(MPI_COMM_WORLD, stm_check_output(options->out)));
    STM_TRY(stm_session_open(options, options->arguments.items[0], static_bytes, session));
    if (session->idle)
        return STM_OK;
    STM_TRY(stm_groups_input_read(options->arguments.items[1], use, session, batch));
    STM_TRY(stm_session_grid(session, options, batch->n_groups));
    STM_TRY(stm_session_engine(session, options));
    do
        STM_TRY(stm_agree(&session->grid, expect(options, session, batch, static_bytes != NULL)));
    while (stm_memory_spare(session->engine, &session->grid, options));
    return stm_memory_check(session->engine, &session->grid, options);
}

void stm_groups_input_report(const stm_session *session, const stm_batch *batch, bool loss_only, double seconds)
{
    double sums[2] = {stm_engine_counts(session->engine)->rows, stm_engine_counts(session->engine)->rows_again};
    double peak = (double)stm_engine_peak_bytes(session->engine);
    stm_all_reduce(session->grid.world, sums, 2, sizeof(double));
    stm_all_reduce_max(session->grid.world, &peak, 1);
    stm_session_print_memory(session);
    if (session->grid.rank != 0)
        return;
    const double repeated = stm_engine_rows_repeated(batch, loss_only);
    printf("%.0f tokens computed (%.0f of them twice), %.0f when nothing is shared: %.2f times fewer; %.2f s, at most "
           "%.1f MiB a rank\n",
           sums[0], sums[1], repeated, sums[0] > 0 ? repeated / sums[0] : 1, seconds, peak / (1 << 20));
}
