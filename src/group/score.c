#include "group/score.h"

#include <stdlib.h>
#include <string.h>

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
    const stm_batch *batch;
    const stm_objective *objective;
    const stm_objective_options *options;
    size_t *response_0;         /* [n_groups] */
    double *advantage, *weight; /* [n_responses] */
    uint8_t *skip;              /* [n_groups] */
    stm_objective_sums sums;
} gradient_context;

static void clear(gradient_context *c)
{
    free(c->response_0);
    free(c->advantage);
    free(c->weight);
    free(c->skip);
}

bool stm_group_is_equal(const stm_group *group)
{
    for (size_t i = 1; i < group->n_responses; i++)
        if (!(group->responses[i].reward == group->responses[0].reward)) /* NaN differs */
            return false;
    return true;
}

static size_t count_masked(const stm_response *response)
{
    size_t n = 0;
    for (size_t k = 0; k < response->n; k++)
        n += response->mask[k];
    return n;
}

/* Advantages and weights of all responses, before any log-prob is known. */
static stm_status weigh(gradient_context *c, const stm_totals *totals)
{
    const stm_batch *batch = c->batch;
    size_t n_responses = 0, most = 0;
    for (size_t g = 0; g < batch->n_groups; g++) {
        n_responses += batch->groups[g].n_responses;
        most = STM_MAX(most, batch->groups[g].n_responses);
    }
    STM_TRY(stm_alloc(batch->n_groups, sizeof *c->response_0, &c->response_0));
    STM_TRY(stm_alloc(n_responses + most, sizeof *c->advantage, &c->advantage)); /* and one group's rewards */
    STM_TRY(stm_alloc(n_responses, sizeof *c->weight, &c->weight));
    STM_TRY(stm_alloc(batch->n_groups, sizeof *c->skip, &c->skip));
    double *rewards = c->advantage + n_responses;
    size_t at = 0;
    for (size_t g = 0; g < batch->n_groups; g++) {
        const stm_group *group = &batch->groups[g];
        c->response_0[g] = at;
        for (size_t i = 0; i < group->n_responses; i++) {
            rewards[i] = group->responses[i].reward;
            c->weight[at + i] = stm_objective_weight(c->options, totals, count_masked(&group->responses[i]));
        }
        if (c->objective->advantages)
            c->objective->advantages(c->options, group->n_responses, rewards, c->advantage + at);
        c->skip[g] = c->options->skip_equal_groups && c->objective->needs_rewards && c->options->kl_coef == 0 &&
                     stm_group_is_equal(group);
        at += group->n_responses;
    }
    return STM_OK;
}

/* A range of an array that may be absent. */
static const double *from(const double *array, size_t first)
{
    return array ? array + first : NULL;
}

static void apply(void *context, const stm_visit *visit)
{
    gradient_context *c = context;
    const stm_response *response = &c->batch->groups[visit->group].responses[visit->response];
    const size_t index = c->response_0[visit->group] + visit->response;
    const stm_tokens tokens = {.n = visit->n,
                               .logp = visit->logp,
                               .entropy = visit->entropy,
                               .old = from(response->old_logprobs, visit->first_token),
                               .ref = from(response->ref_logprobs, visit->first_token),
                               .mask = response->mask + visit->first_token,
                               .dlogp = visit->dlogp};
    c->objective->tokens(c->options, c->advantage[index], c->weight[index], &tokens, &c->sums);
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
                                  const stm_objective *objective, const stm_objective_options *options,
                                  const stm_totals *totals, void *gradient, stm_objective_sums *sums)
{
    gradient_context c = {.batch = batch, .objective = objective, .options = options};
    stm_status status = weigh(&c, totals);
    if (status == STM_OK)
        status = stm_engine_gradient(engine, batch, c.skip, apply, &c, gradient);
    status = agree(engine, grid, status);
    add_over_ranks(grid, &c.sums);
    *sums = c.sums;
    clear(&c);
    return status;
}
