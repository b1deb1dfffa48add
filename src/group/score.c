#include "group/score.h"

#include <stdlib.h>
#include <string.h>

#include "mpi/rounds.h"

/* Scores */

void stm_scores_clear(stm_scores *scores)
{
    free(scores->response_0);
    free(scores->first);
    free(scores->logp);
    free(scores->entropy);
    *scores = (stm_scores){0};
}

static stm_status lay_out(const stm_batch *batch, stm_scores *out)
{
    size_t n_responses = 0;
    for (size_t g = 0; g < batch->n_groups; g++)
        n_responses += batch->groups[g].n_responses;
    STM_TRY(stm_alloc(batch->n_groups, sizeof *out->response_0, &out->response_0));
    STM_TRY(stm_alloc(n_responses + 1, sizeof *out->first, &out->first));
    size_t at = 0;
    for (size_t g = 0; g < batch->n_groups; g++) {
        out->response_0[g] = at;
        for (size_t i = 0; i < batch->groups[g].n_responses; i++, at++) {
            out->first[at] = out->n_tokens;
            out->n_tokens += batch->groups[g].responses[i].n;
        }
    }
    out->first[at] = out->n_tokens;
    STM_TRY(stm_alloc(out->n_tokens, sizeof *out->logp, &out->logp)); /* zero: what other ranks compute */
    return stm_alloc(out->n_tokens, sizeof *out->entropy, &out->entropy);
}

static void record(void *context, const stm_visit *visit)
{
    stm_scores *scores = context;
    const size_t at = scores->first[scores->response_0[visit->group] + visit->response] + visit->first_token;
    memcpy(scores->logp + at, visit->logp, visit->n * sizeof(double));
    memcpy(scores->entropy + at, visit->entropy, visit->n * sizeof(double));
}

stm_status stm_score_batch(stm_engine *engine, const stm_grid *grid, const stm_batch *batch, stm_scores *out)
{
    *out = (stm_scores){0};
    STM_TRY(lay_out(batch, out));
    STM_TRY(stm_agree(grid, stm_engine_score(engine, batch, record, out)));
    /* Each token was computed by one rank of one team: the sum is a copy, to the bit. */
    stm_all_reduce(grid->world, out->logp, out->n_tokens, sizeof(double));
    stm_all_reduce(grid->world, out->entropy, out->n_tokens, sizeof(double));
    return STM_OK;
}

/* Gradient */

typedef struct {
    stm_objective_batch view;
    uint8_t *skip;     /* [n_groups] */
    stm_scores scores; /* of the forward without gradient; empty where the scope needs none */
    double *dlogp;     /* [n_tokens], laid out as the scores */
    stm_objective_sums sums;
} gradient_context;

static void clear(gradient_context *c)
{
    stm_objective_batch_clear(&c->view);
    stm_scores_clear(&c->scores);
    free(c->skip);
    free(c->dlogp);
}

bool stm_group_is_equal(const stm_group *group)
{
    for (size_t i = 1; i < group->n_responses; i++)
        if (!(group->responses[i].reward == group->responses[0].reward)) /* NaN differs */
            return false;
    return true;
}

/* Advantages and totals, before any log-prob is known. */
static stm_status prepare(gradient_context *c, const stm_batch *batch, const stm_objective *objective,
                          const stm_objective_options *options)
{
    STM_TRY(stm_objective_batch_create(objective, options, batch, &c->view));
    STM_TRY(stm_alloc(batch->n_groups, sizeof *c->skip, &c->skip));
    for (size_t g = 0; g < batch->n_groups; g++)
        c->skip[g] = stm_objective_skips_equal(objective, options) && stm_group_is_equal(&batch->groups[g]);
    return c->view.scope == STM_SCOPE_TOKEN ? STM_OK : stm_alloc(c->view.n_tokens, sizeof *c->dlogp, &c->dlogp);
}

/* A forward of the whole batch without gradient; then every rank has every log-prob and forms all of dlogp, and rank 0
 * counts. */
static stm_status look_ahead(gradient_context *c, stm_engine *engine, const stm_grid *grid)
{
    STM_TRY(stm_score_batch(engine, grid, c->view.batch, &c->scores));
    stm_objective_collect(&c->view, c->scores.logp);
    for (size_t g = 0; g < c->view.batch->n_groups; g++)
        if (!c->skip[g])
            stm_objective_group(&c->view, g, c->scores.logp, c->scores.entropy, c->dlogp, &c->sums);
    if (grid->rank != 0)
        c->sums = (stm_objective_sums){0};
    return STM_OK;
}

static void apply(void *context, const stm_visit *visit)
{
    gradient_context *c = context;
    const stm_objective_batch *view = &c->view;
    if (view->scope == STM_SCOPE_TOKEN) {
        const stm_tokens tokens = stm_objective_view(view, visit->group, visit->response, visit->first_token, visit->n,
                                                     visit->logp, visit->entropy, visit->dlogp);
        view->objective->tokens(view->options, &view->totals, &tokens, &c->sums);
        return;
    }
    const double *dlogp = c->dlogp + view->first_token[view->response_0[visit->group] + visit->response];
    for (size_t k = 0; k < visit->n; k++)
        visit->dlogp[k] += dlogp[visit->first_token + k];
}

/* The same status everywhere; what a rank waits for the slowest is counted as waiting. */
static stm_status agree(stm_engine *engine, const stm_grid *grid, stm_status mine)
{
    stm_timers *timers = stm_engine_settings_of(engine)->timers;
    stm_timers_push(timers, STM_PHASE_WAIT);
    const stm_status status = stm_agree(grid, mine);
    stm_timers_pop(timers, STM_PHASE_WAIT);
    return status;
}

/* The last field is a maximum, the others are sums. */
static void add_over_ranks(const stm_grid *grid, stm_objective_sums *sums)
{
    double largest = sums->logp_difference_max;
    stm_all_reduce(grid->world, sums, sizeof *sums / sizeof(double), sizeof(double));
    stm_all_reduce_max(grid->world, &largest, 1);
    sums->logp_difference_max = largest;
}

stm_status stm_objective_gradient(stm_engine *engine, const stm_grid *grid, const stm_batch *batch,
                                  const stm_objective *objective, const stm_objective_options *options, void *gradient,
                                  stm_objective_sums *sums)
{
    gradient_context c = {0};
    stm_status status = agree(engine, grid, prepare(&c, batch, objective, options));
    if (status == STM_OK && c.view.scope != STM_SCOPE_TOKEN)
        status = look_ahead(&c, engine, grid);
    if (status == STM_OK)
        status = agree(engine, grid, stm_engine_gradient(engine, batch, c.skip, apply, &c, gradient));
    else if (stm_engine_settings_of(engine)->rounds)
        stm_rounds_settle(stm_engine_settings_of(engine)->rounds);
    add_over_ranks(grid, &c.sums);
    *sums = c.sums;
    clear(&c);
    return status;
}
