#include "group/score.h"

#include <stdlib.h>
#include <string.h>

#include "group/token_weights.h"
#include "mpi/reduction.h"
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

/* How an objective comes to the log-probs that it needs: those of the range that is visited; those of a response, seen
 * as its rows go forward; or those of all, from a forward without gradient. */
typedef enum { RANGES, RESPONSES, ALL } knowledge;

typedef struct {
    stm_objective_batch view;
    knowledge knows;
    uint8_t *skip;     /* [n_groups] */
    stm_scores scores; /* seen so far, laid out as the view's tokens; empty with RANGES */
    double *dlogp;     /* [n_tokens], laid out so; NULL with RANGES */
    uint8_t *done;     /* [n_responses]: dlogp is there; RESPONSES */
    double *weights;   /* [n_tokens], where the objective weighs them by the model's distributions; else NULL */
    stm_objective_sums sums;
} gradient_context;

static void clear(gradient_context *c)
{
    stm_objective_batch_clear(&c->view);
    stm_scores_clear(&c->scores);
    free(c->skip);
    free(c->dlogp);
    free(c->done);
    free(c->weights);
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
    if (c->view.scope == STM_SCOPE_TOKEN)
        return STM_OK;
    STM_TRY(stm_alloc(c->view.n_responses, 1, &c->done));
    return stm_alloc(c->view.n_tokens, sizeof *c->dlogp, &c->dlogp);
}

/* Scope response: responses that several ranks share need each other's log-probs, as if the scope were the group. */
static stm_status choose(gradient_context *c, stm_engine *engine, const stm_grid *grid)
{
    bool whole = true;
    stm_status status = STM_OK;
    c->knows = c->view.scope == STM_SCOPE_TOKEN ? RANGES : c->view.scope == STM_SCOPE_RESPONSE ? RESPONSES : ALL;
    if (c->knows != RESPONSES)
        return STM_OK;
    status = stm_engine_keeps_responses_whole(engine, c->view.batch, c->skip, &whole);
    double cut = !whole;
    stm_all_reduce_max(grid->world, &cut, 1);
    STM_TRY(stm_agree(grid, status));
    if (cut > 0)
        c->knows = ALL;
    else
        status = lay_out(c->view.batch, &c->scores);
    return stm_agree(grid, status);
}

/* What has no token with loss is visited by nobody; rank 0 counts what it may add to the loss. */
static void count_unvisited(gradient_context *c, const stm_grid *grid)
{
    const stm_objective_batch *v = &c->view;
    for (size_t g = 0; grid->rank == 0 && g < v->batch->n_groups; g++)
        for (size_t i = 0; i < v->batch->groups[g].n_responses; i++) {
            const size_t at = v->first_token[v->response_0[g] + i], n = v->batch->groups[g].responses[i].n;
            const stm_tokens t =
                stm_objective_view(v, g, i, 0, n, c->scores.logp + at, c->scores.entropy + at, c->dlogp + at);
            if (t.n_masked == 0 && !c->skip[g])
                v->objective->tokens(v->options, &v->totals, &t, &c->sums);
        }
}

/* A forward of the whole batch without gradient, of which the members of a group are compared. */
static stm_status weigh_tokens(gradient_context *c, stm_engine *engine, const stm_grid *grid)
{
    const stm_objective_batch *v = &c->view;
    if (!stm_objective_weighs_tokens(v->objective, v->options))
        return STM_OK;
    STM_TRY(stm_agree(grid, stm_alloc(v->n_tokens, sizeof *c->weights, &c->weights)));
    c->view.token_weights = c->weights;
    return stm_token_weights(engine, grid, v->batch, c->skip, v->options->token_weight_alpha, c->weights);
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

/* A response whose rows have all gone forward: its loss and dlogp, once. */
static void complete(gradient_context *c, size_t g, size_t i)
{
    const stm_objective_batch *v = &c->view;
    const size_t r = v->response_0[g] + i, at = v->first_token[r];
    if (c->done[r])
        return;
    const stm_tokens t = stm_objective_view(v, g, i, 0, v->batch->groups[g].responses[i].n, c->scores.logp + at,
                                            c->scores.entropy + at, c->dlogp + at);
    v->objective->tokens(v->options, &v->totals, &t, &c->sums);
    c->done[r] = 1;
}

static void preview(void *context, const stm_visit *visit)
{
    gradient_context *c = context;
    record(&c->scores, visit);
}

static void apply(void *context, const stm_visit *visit)
{
    gradient_context *c = context;
    const stm_objective_batch *v = &c->view;
    if (c->knows == RANGES) {
        const stm_tokens tokens = stm_objective_view(v, visit->group, visit->response, visit->first_token, visit->n,
                                                     visit->logp, visit->entropy, visit->dlogp);
        v->objective->tokens(v->options, &v->totals, &tokens, &c->sums);
        return;
    }
    if (c->knows == RESPONSES)
        complete(c, visit->group, visit->response);
    const double *dlogp = c->dlogp + v->first_token[v->response_0[visit->group] + visit->response];
    for (size_t k = 0; k < visit->n; k++)
        visit->dlogp[k] += dlogp[visit->first_token + k];
}

/* The same status everywhere; what a rank waits for the slowest is counted as waiting. */
static stm_status agree(stm_engine *engine, const stm_grid *grid, stm_status mine)
{
    stm_timers *timers = stm_engine_settings_of(engine)->timers;
    stm_timers_push(timers, STM_PHASE_WAIT);
    stm_reduction_meet(stm_engine_settings_of(engine)->reduction);
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
    if (status == STM_OK)
        status = choose(&c, engine, grid);
    if (status == STM_OK)
        status = weigh_tokens(&c, engine, grid);
    if (status == STM_OK && c.knows == ALL)
        status = look_ahead(&c, engine, grid);
    if (status == STM_OK && c.knows == RESPONSES)
        count_unvisited(&c, grid);
    if (status == STM_OK)
        status = agree(
            engine, grid,
            stm_engine_gradient(engine, batch, c.skip, c.knows == RESPONSES ? preview : NULL, apply, &c, gradient));
    else if (stm_engine_settings_of(engine)->rounds)
        stm_rounds_settle(stm_engine_settings_of(engine)->rounds);
    add_over_ranks(grid, &c.sums);
    *sums = c.sums;
    clear(&c);
    return status;
}
