/* A batch as its objective sees it: what is needed is there, totals, advantages, and one view of each response. */
#include <stdlib.h>

#include "objective/registry.h"

/* What each need asks of a response, and how a message names it. */
static const char *missing(unsigned needs, const stm_objective_options *o, const stm_group *group,
                           const stm_response *r)
{
    const stm_response_notes *notes = r->notes;
    if ((needs & STM_NEEDS_REWARDS) && !r->has_reward)
        return "reward";
    if ((needs & STM_NEEDS_REFERENCE) && !r->ref_logprobs)
        return "ref_logprobs";
    if ((needs & STM_NEEDS_OLD) && !r->old_logprobs)
        return "old_logprobs";
    if ((needs & STM_NEEDS_CLUSTERS) && !(notes && notes->has_cluster))
        return "cluster";
    if ((needs & STM_NEEDS_PARTS) && !(notes && notes->reward_parts))
        return "reward_parts";
    if ((needs & STM_NEEDS_BUDGETS) && !(notes && notes->segment && notes->answer && group->scores))
        return "segment, answer and scores";
    if ((needs & STM_NEEDS_STEPS) && !(notes && notes->step && notes->step_advantages))
        return "step and step_advantages";
    if ((needs & STM_NEEDS_TWIN) && !(notes && notes->twin_logprobs))
        return "twin_logprobs";
    if ((needs & STM_NEEDS_TARGET) && !(notes && notes->target_logprobs))
        return "target_logprobs";
    if ((needs & STM_NEEDS_PREFERENCES) && !group->preferences)
        return "preferences";
    if ((needs & STM_NEEDS_LOG_Z) && !group->has_log_z)
        return "log Z of its group (kept by `stemma train`)";
    if (notes && notes->reward_parts && o->reward_weights.n > 0 && o->reward_weights.n != notes->n_parts)
        return "reward for each of objective.reward_weights";
    return NULL;
}

/* What rollouts have not, the option that asks for it, and how a message names it. */
static const struct {
    unsigned need;
    const char *key, *what;
} recorded_only[] = {
    {STM_NEEDS_STEPS, "name", "steps with advantages of recorded responses"},
    {STM_NEEDS_TWIN, "reference", "log-probs of a twin of the model, which only chase_coef trains"},
    {STM_NEEDS_ORIGINS, "pairing, explore_coef or opponent", "responses of another model than the policy"},
    {STM_NEEDS_PREFERENCES, "oracle", "recorded preferences"},
};

stm_status stm_objective_check_online(const stm_objective_options *options, bool has_preferences, bool has_others)
{
    const unsigned made = (has_preferences ? STM_NEEDS_PREFERENCES : 0) | (has_others ? STM_NEEDS_ORIGINS : 0) |
                          (options->chase_coef > 0 && options->chase_role == STM_CHASE_FAST ? STM_NEEDS_TWIN : 0);
    const unsigned needs = stm_objective_find(options->name)->needs(options) & ~made;
    if ((needs & STM_NEEDS_TWIN) && options->chase_coef > 0)
        return stm_fail(STM_ERR_INPUT,
                        "objective.chase_role: found slow, expected fast with rollouts: they are those of "
                        "the copy that leads");
    for (size_t i = 0; i < sizeof recorded_only / sizeof *recorded_only; i++)
        if (needs & recorded_only[i].need)
            return stm_fail(
                STM_ERR_INPUT,
                "objective.%s: needs %s, which rollouts have not; expected with data.groups or `stemma grad`%s",
                recorded_only[i].key, recorded_only[i].what,
                recorded_only[i].need == STM_NEEDS_PREFERENCES ? ", the reward preference or objective.oracle=reward"
                : recorded_only[i].need == STM_NEEDS_ORIGINS   ? ", or reference.samples"
                                                               : "");
    return STM_OK;
}

stm_status stm_objective_check_options(const stm_options *options)
{
    const stm_objective *objective = stm_objective_find(options->objective.name);
    STM_TRY(stm_objective_check_drop(&options->objective));
    STM_TRY(stm_objective_check_unread(options));
    return objective->check ? objective->check(&options->objective) : STM_OK;
}

static stm_status check_needs(const stm_objective *objective, const stm_objective_options *o, unsigned needs,
                              const stm_batch *batch)
{
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++) {
            const stm_group *group = &batch->groups[g];
            const char *what = missing(needs, o, group, &group->responses[i]);
            if (what)
                return stm_fail(STM_ERR_INPUT,
                                "group %zu, response %zu: found no %s, which objective %s needs with "
                                "these options",
                                g, i, what, objective->name);
        }
    return STM_OK;
}

stm_status stm_objective_check_recorded(const stm_objective_options *options, const stm_batch *batch)
{
    const stm_objective *objective = stm_objective_find(options->name);
    const unsigned needs = objective->needs(options) & ~(unsigned)(STM_NEEDS_REFERENCE | STM_NEEDS_LOG_Z);
    return check_needs(objective, options, needs, batch);
}

static stm_status check(const stm_objective_batch *b)
{
    STM_TRY(check_needs(b->objective, b->options, b->objective->needs(b->options), b->batch));
    if (b->options->aggregate == STM_AGGREGATE_FIXED_LENGTH && b->options->max_tokens == 0)
        return stm_fail(STM_ERR_INPUT,
                        "objective.max_tokens: found 0, expected at least 1 with objective.aggregate=fixed-length");
    return STM_OK;
}

static void count(stm_objective_batch *b)
{
    stm_totals *totals = &b->totals;
    const int64_t control = b->options->control_tokens;
    size_t r = 0, at = 0;
    totals->n_groups = b->batch->n_groups;
    for (size_t g = 0; g < b->batch->n_groups; g++) {
        const stm_group *group = &b->batch->groups[g];
        totals->n_responses += group->n_members > 0 ? group->n_members : group->n_responses;
        b->response_0[g] = r;
        for (size_t i = 0; i < b->batch->groups[g].n_responses; i++, r++) {
            const stm_response *response = &b->batch->groups[g].responses[i];
            b->first_token[r] = at;
            at += response->n;
            for (size_t k = 0; k < response->n; k++) {
                const bool counts = response->mask[k] != 0;
                b->n_masked[r] += counts;
                totals->n_control += counts && (int64_t)k < control;
                totals->n_rest += counts && (int64_t)k >= control;
            }
            const bool other = response->notes && response->notes->other_origin, active = b->n_masked[r] > 0;
            totals->n_tokens += b->n_masked[r];
            totals->n_active += active;
            totals->n_policy += active && !other;
            totals->n_other += active && other;
        }
    }
    b->first_token[r] = at;
}

static stm_status take_room(stm_objective_batch *b)
{
    size_t most = 0, n_work = 0;
    for (size_t g = 0; g < b->batch->n_groups; g++) {
        const stm_group *group = &b->batch->groups[g];
        b->n_responses += group->n_responses;
        most = STM_MAX(most, group->n_responses);
        const size_t more = b->objective->n_work ? b->objective->n_work(group) : 0;
        n_work = STM_MAX(n_work, b->objective->work_per_response * group->n_responses + more);
        for (size_t i = 0; i < group->n_responses; i++)
            b->n_tokens += group->responses[i].n;
    }
    STM_TRY(stm_alloc(b->batch->n_groups, sizeof *b->response_0, &b->response_0));
    STM_TRY(stm_alloc(b->n_responses + 1, sizeof *b->first_token, &b->first_token));
    STM_TRY(stm_alloc(b->n_responses, sizeof *b->n_masked, &b->n_masked));
    STM_TRY(stm_alloc(b->by_token ? b->n_tokens : b->n_responses, sizeof *b->advantages, &b->advantages));
    STM_TRY(stm_alloc(n_work, sizeof *b->work, &b->work));
    return stm_alloc(most, sizeof *b->views, &b->views);
}

stm_status stm_objective_batch_create(const stm_objective *objective, const stm_objective_options *options,
                                      const stm_batch *batch, stm_objective_batch *b)
{
    *b = (stm_objective_batch){.objective = objective,
                               .options = options,
                               .batch = batch,
                               .scope = stm_objective_scope(objective, options),
                               .by_token = objective->by_token && objective->by_token(options)};
    if (objective->check)
        STM_TRY(objective->check(options));
    STM_TRY(check(b));
    STM_TRY(take_room(b));
    count(b);
    if (objective->prepare)
        objective->prepare(b);
    return STM_OK;
}

void stm_objective_batch_clear(stm_objective_batch *b)
{
    free(b->response_0);
    free(b->first_token);
    free(b->n_masked);
    free(b->advantages);
    free(b->work);
    free(b->views);
    *b = (stm_objective_batch){0};
}

/* The factor of a response's tokens: beyond the control tokens, and of these. */
static void weigh(const stm_objective_batch *b, stm_tokens *t)
{
    const stm_objective_options *o = b->options;
    const stm_totals *totals = &b->totals;
    const double n = (double)totals->n_responses;
    if (t->n_masked == 0)
        return;
    switch (o->aggregate) {
    case STM_AGGREGATE_SEQUENCE_MEAN:
        t->weight = 1.0 / (n * (double)t->n_masked);
        break;
    case STM_AGGREGATE_TOKEN_MEAN:
        t->weight = 1.0 / (double)totals->n_tokens;
        break;
    case STM_AGGREGATE_FIXED_LENGTH:
        t->weight = 1.0 / (n * (double)o->max_tokens);
        break;
    case STM_AGGREGATE_SEQUENCE_SUM:
        t->weight = 1.0 / n;
        break;
    case STM_AGGREGATE_CONTROL_SPLIT:
        t->weight = totals->n_rest > 0 ? 1.0 / (double)totals->n_rest : 0.0;
        t->control_weight = totals->n_control > 0 ? o->control_coef / (double)totals->n_control : 0.0;
        return;
    }
    t->control_weight = t->weight;
}

/* A range of an array that may be absent. */
static const double *from(const double *array, size_t first)
{
    return array ? array + first : NULL;
}

stm_tokens stm_objective_view(const stm_objective_batch *b, size_t g, size_t i, size_t first, size_t n,
                              const double *logp, const double *entropy, double *dlogp)
{
    const stm_response *response = &b->batch->groups[g].responses[i];
    const size_t r = b->response_0[g] + i;
    const double *recorded = response->notes ? response->notes->token_weights : NULL;
    stm_tokens t = {.response = response,
                    .first = first,
                    .n = n,
                    .n_masked = b->n_masked[r],
                    .logp = logp,
                    .entropy = entropy,
                    .old = from(response->old_logprobs, first),
                    .ref = from(response->ref_logprobs, first),
                    .mask = response->mask + first,
                    .advantages = b->advantages + (b->by_token ? b->first_token[r] + first : r),
                    .advantage_stride = b->by_token,
                    .token_weights =
                        b->token_weights ? b->token_weights + b->first_token[r] + first : from(recorded, first),
                    .dlogp = dlogp};
    weigh(b, &t);
    return t;
}

void stm_objective_collect(stm_objective_batch *b, const double *logp)
{
    if (b->objective->collect && b->scope == STM_SCOPE_BATCH)
        b->objective->collect(b, logp, &b->totals);
}

void stm_objective_group(const stm_objective_batch *b, size_t g, const double *logp, const double *entropy,
                         double *dlogp, stm_objective_sums *sums)
{
    const stm_group *group = &b->batch->groups[g];
    for (size_t i = 0; i < group->n_responses; i++) {
        const size_t at = b->first_token[b->response_0[g] + i];
        b->views[i] = stm_objective_view(b, g, i, 0, group->responses[i].n, logp + at, from(entropy, at), dlogp + at);
        if (b->objective->tokens)
            b->objective->tokens(b->options, &b->totals, &b->views[i], sums);
    }
    if (b->objective->group)
        b->objective->group(b->options, &b->totals, group, b->views, b->work, sums);
}

stm_scope stm_objective_scope(const stm_objective *objective, const stm_objective_options *options)
{
    return objective->scope_by ? objective->scope_by(options) : objective->scope;
}

bool stm_objective_reads_origins(const stm_objective_options *options)
{
    return stm_objective_find(options->name)->needs(options) & STM_NEEDS_ORIGINS;
}

bool stm_objective_has_reference(const stm_objective_options *options)
{
    stm_objective_options most = *options;
    if (most.kl_coef_steps > 0 && most.kl_coef_start > most.kl_coef)
        most.kl_coef = most.kl_coef_start;
    return stm_objective_find(options->name)->needs(&most) & STM_NEEDS_REFERENCE;
}

bool stm_objective_weighs_tokens(const stm_objective *objective, const stm_objective_options *o)
{
    return objective == &stm_objective_grpo && o->token_weight_alpha != 0;
}

bool stm_objective_skips_equal(const stm_objective *objective, const stm_objective_options *o)
{
    const bool centred =
        o->advantage_baseline == STM_BASELINE_MEAN || o->advantage_baseline == STM_BASELINE_LEAVE_ONE_OUT;
    return o->skip_equal_groups && objective == &stm_objective_grpo && centred && o->kl_coef == 0 &&
           o->score != STM_SCORE_WIN_RATE && o->proximal_coef == 0 && o->advantage_scale != STM_SCALE_WHITEN &&
           o->reward_combine == STM_REWARDS_SUM;
}
