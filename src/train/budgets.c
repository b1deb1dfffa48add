#include "train/budgets.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Closing text */

static stm_status encode_closing(const stm_options *o, const stm_text_context *text, stm_budgets *b)
{
    if (!text->tokenizer)
        return stm_fail(STM_ERR_INPUT, "rollout.budgets: found %zu, expected none for a model without tokenizer.json",
                        o->rollout.budgets.n);
    const stm_status status = stm_tokenizer_encode(text->tokenizer, o->rollout.closing, strlen(o->rollout.closing),
                                                   false, &b->closing, &b->n_closing);
    if (status != STM_OK)
        return stm_fail_context(status, "rollout.closing");
    for (size_t k = 0; k < b->n_closing; k++)
        if ((size_t)b->closing[k] >= text->vocab_size)
            return stm_fail(STM_ERR_INPUT,
                            "rollout.closing: found token %d, expected one below the model's vocabulary of %zu",
                            b->closing[k], text->vocab_size);
    if (b->n_closing > stm_sampling_closing_tokens(o))
        return stm_fail(STM_ERR_INPUT, "rollout.closing: found %zu tokens, expected no more than bytes, %zu",
                        b->n_closing, stm_sampling_closing_tokens(o));
    return STM_OK;
}

stm_status stm_budgets_create(const stm_options *o, const stm_text_context *text, stm_budgets **out)
{
    stm_budgets *b;
    *out = NULL;
    if (o->rollout.budgets.n == 0)
        return STM_OK;
    STM_TRY(stm_alloc(1, sizeof *b, &b));
    *b = (stm_budgets){.n = o->rollout.budgets.n,
                       .n_summaries = (size_t)o->rollout.summaries,
                       .tokens = o->rollout.budgets.items,
                       .stop = {1, (char **)&o->rollout.closing}};
    const stm_status status = encode_closing(o, text, b);
    if (status == STM_OK)
        *out = b;
    else
        stm_budgets_destroy(b);
    return status;
}

void stm_budgets_destroy(stm_budgets *budgets)
{
    if (budgets)
        free(budgets->closing);
    free(budgets);
}

/* Rounds of rollouts */

/* Which cuts are made. */
typedef struct {
    size_t first, n; /* budgets [first, first + n) */
    size_t n_summaries;
} cut_plan;

static cut_plan plan_of(const stm_budgets *b, bool to_train)
{
    return to_train ? (cut_plan){0, b->n, b->n_summaries} : (cut_plan){b->n - 1, 1, 1};
}

static bool to_train(const stm_sampling *sampling)
{
    return sampling->use == STM_RANDOM_TRAIN;
}

/* It ends by the closing text, also where that is one token that decoding leaves out, or by an end token. */
static stm_sampling thinking_of(const stm_budgets *b, const stm_sampling *sampling)
{
    stm_sampling s = *sampling;
    s.max_new_tokens = (size_t)b->tokens[b->n - 1];
    s.min_new_tokens = 0;
    s.stop = &b->stop;
    if (b->n_closing == 1 && s.n_end < sizeof s.end / sizeof *s.end)
        s.end[s.n_end++] = b->closing[0];
    return s;
}

/* Below cuts: rollouts of a group's summaries are numbered behind those of its thinking. */
static stm_sampling summaries_of(const stm_budgets *b, const stm_sampling *sampling, const stm_origin *origins)
{
    stm_sampling s = *sampling;
    s.group_size = plan_of(b, to_train(sampling)).n_summaries;
    s.origins = origins;
    return s;
}

static bool is_end(const stm_sampling *sampling, int32_t id)
{
    for (size_t i = 0; i < sampling->n_end; i++)
        if (sampling->end[i] == id)
            return true;
    return false;
}

/* Tokens of thinking before the cut; *closed: they end with the closing text. An end token is no part of them. */
static size_t cut_at(const stm_sampling *sampling, const stm_response *thinking, size_t budget, bool *closed)
{
    const bool whole = thinking->n <= budget && thinking->finish == STM_FINISH_STOP && thinking->n > 0;
    const bool ended = whole && is_end(sampling, thinking->ids[thinking->n - 1]);
    *closed = whole && !ended;
    return ended ? thinking->n - 1 : STM_MIN(thinking->n, budget);
}

/* The prompt of the summaries below a cut. */
static stm_status make_prompt(const stm_budgets *b, const stm_sampling *sampling, const stm_group *group,
                              const stm_response *thinking, size_t budget, stm_group *cut)
{
    bool closed;
    const size_t n = cut_at(sampling, thinking, budget, &closed), n_closing = closed ? 0 : b->n_closing;
    *cut = (stm_group){.n_prompt = group->n_prompt + n + n_closing, .temperature = group->temperature};
    STM_TRY(stm_alloc(cut->n_prompt, sizeof *cut->prompt, &cut->prompt));
    memcpy(cut->prompt, group->prompt, group->n_prompt * sizeof *cut->prompt);
    memcpy(cut->prompt + group->n_prompt, thinking->ids, n * sizeof *cut->prompt);
    memcpy(cut->prompt + group->n_prompt + n, b->closing, n_closing * sizeof *cut->prompt);
    return STM_OK;
}

static stm_status make_cuts(const stm_budgets *b, const stm_sampling *sampling, const stm_batch *batch, stm_batch *cuts,
                            stm_origin **origins)
{
    const cut_plan plan = plan_of(b, to_train(sampling));
    const size_t size = sampling->group_size, n = batch->n_groups * size * plan.n;
    STM_TRY(stm_alloc(n, sizeof **origins, origins));
    STM_TRY(stm_alloc(n, sizeof *cuts->groups, &cuts->groups));
    for (; cuts->n_groups < n; cuts->n_groups++) {
        const size_t c = cuts->n_groups, g = c / plan.n / size, i = c / plan.n % size, s = plan.first + c % plan.n;
        const stm_group *group = &batch->groups[g];
        STM_TRY(make_prompt(b, sampling, group, &group->responses[i], (size_t)b->tokens[s], &cuts->groups[c]));
        (*origins)[c] = (stm_origin){.group = g, .rollout = size + (i * plan.n + c % plan.n) * plan.n_summaries};
    }
    return STM_OK;
}

stm_status stm_budgets_cut(const stm_budgets *b, const stm_batch *batch, stm_batch *cuts)
{
    const stm_sampling sampling = {.use = STM_RANDOM_TRAIN,
                                   .group_size = batch->n_groups > 0 ? batch->groups[0].n_responses : 0};
    stm_origin *origins = NULL;
    *cuts = (stm_batch){0};
    const stm_status status = make_cuts(b, &sampling, batch, cuts, &origins);
    free(origins);
    return status;
}

stm_status stm_budgets_roll_out(const stm_budgets *b, stm_engine *engine, const stm_model *model, const stm_grid *grid,
                                const stm_sampling *sampling, stm_batch *batch, stm_batch *cuts,
                                stm_rollout_counts *counts)
{
    const stm_sampling thinking = thinking_of(b, sampling);
    stm_rollout_counts below = {0};
    stm_origin *origins = NULL;
    STM_TRY(stm_rollout(engine, model, grid, &thinking, batch, counts));
    if (stm_watch_leaves(sampling->watch))
        return STM_OK;
    stm_status status = stm_agree(grid, make_cuts(b, sampling, batch, cuts, &origins));
    const stm_sampling summaries = summaries_of(b, sampling, origins);
    if (status == STM_OK)
        status = stm_rollout_further(engine, model, grid, &summaries, cuts, &below);
    stm_rollout_counts_add(counts, &below);
    free(origins);
    return status;
}

/* Responses of n tokens that are unlike each other, in every group. */
static stm_status make_longest(size_t size, size_t n, stm_batch *batch)
{
    for (size_t g = 0; g < batch->n_groups; g++) {
        stm_group *group = &batch->groups[g];
        STM_TRY(stm_alloc(size, sizeof *group->responses, &group->responses));
        for (; group->n_responses < size; group->n_responses++) {
            stm_response *r = &group->responses[group->n_responses];
            *r = (stm_response){.finish = STM_FINISH_LENGTH};
            STM_TRY(stm_alloc(n, sizeof *r->ids, &r->ids));
            STM_TRY(stm_alloc(n, 1, &r->mask));
            stm_unlike_tokens(1 + g * size + group->n_responses, n, r->ids);
            memset(r->mask, 1, n);
            r->n = n;
        }
    }
    return STM_OK;
}

stm_status stm_budgets_expect(const stm_budgets *b, stm_engine *engine, const stm_model *model, const stm_grid *grid,
                              const stm_sampling *sampling, stm_batch *batch, stm_batch *cuts)
{
    const stm_sampling thinking = thinking_of(b, sampling);
    stm_origin *origins = NULL;
    STM_TRY(stm_rollout_expect(engine, model, grid, &thinking, batch));
    stm_status status = stm_agree(grid, make_longest(sampling->group_size, thinking.max_new_tokens, batch));
    if (status == STM_OK)
        status = stm_agree(grid, make_cuts(b, sampling, batch, cuts, &origins));
    const stm_sampling summaries = summaries_of(b, sampling, origins);
    if (status == STM_OK)
        status = stm_rollout_expect_further(engine, model, grid, &summaries, cuts);
    if (status == STM_OK)
        status = stm_agree(grid, make_longest(summaries.group_size, summaries.max_new_tokens, cuts));
    free(origins);
    return status;
}

/* Joining */

static stm_status take_arrays(size_t n, stm_response *r)
{
    *r = (stm_response){.n = n};
    STM_TRY(stm_alloc(n, sizeof *r->ids, &r->ids));
    STM_TRY(stm_alloc(n, 1, &r->mask));
    STM_TRY(stm_alloc(n, sizeof *r->old_logprobs, &r->old_logprobs));
    STM_TRY(stm_alloc(n, sizeof *r->kept_mass, &r->kept_mass));
    for (size_t k = 0; k < n; k++)
        r->kept_mass[k] = 1;
    STM_TRY(stm_response_take_notes(r));
    STM_TRY(stm_alloc(n, sizeof *r->notes->segment, &r->notes->segment));
    STM_TRY(stm_alloc(n, sizeof *r->notes->answer, &r->notes->answer));
    for (size_t k = 0; k < n; k++)
        r->notes->segment[k] = r->notes->answer[k] = -1;
    return STM_OK;
}

/* The tokens of a rollout, from `first` on. */
static void copy_sampled(const stm_response *from, size_t first, stm_response *to)
{
    if (from->n == 0)
        return;
    memcpy(to->ids + first, from->ids, from->n * sizeof *to->ids);
    memset(to->mask + first, 1, from->n);
    if (from->old_logprobs)
        memcpy(to->old_logprobs + first, from->old_logprobs, from->n * sizeof *to->old_logprobs);
    if (from->kept_mass)
        memcpy(to->kept_mass + first, from->kept_mass, from->n * sizeof *to->kept_mass);
}

static stm_status add_thinking(const stm_budgets *b, size_t member, const stm_response *thinking, stm_group *group)
{
    stm_response *r = &group->responses[group->n_responses++];
    STM_TRY(take_arrays(thinking->n, r));
    copy_sampled(thinking, 0, r);
    r->notes->member = member;
    for (size_t k = 0, s = 0; k < r->n; k++) {
        while (s + 1 < b->n && k >= (size_t)b->tokens[s])
            s++;
        r->notes->segment[k] = (int64_t)s;
    }
    return STM_OK;
}

/* number: of the summary among those of its member. */
static stm_status add_summary(size_t member, size_t number, size_t n_prompt, const stm_group *cut,
                              const stm_response *summary, stm_group *group)
{
    const size_t n_before = cut->n_prompt - n_prompt;
    stm_response *r = &group->responses[group->n_responses++];
    STM_TRY(take_arrays(n_before + summary->n, r));
    memcpy(r->ids, cut->prompt + n_prompt, n_before * sizeof *r->ids);
    copy_sampled(summary, n_before, r);
    r->finish = summary->finish;
    r->reward = summary->reward;
    r->has_reward = summary->has_reward;
    r->notes->member = member;
    for (size_t k = n_before; k < r->n; k++)
        r->notes->answer[k] = (int64_t)number;
    return STM_OK;
}

/* Thinking is worth what its summaries are worth in the mean, and exactly that where they are all worth the same, since
 * a group is asked whether its rewards are equal; the objective reads their scores one by one. */
static void give_mean(stm_response *thinking, size_t n, const stm_response *summaries)
{
    thinking->has_reward = true;
    thinking->reward = summaries[0].reward;
    for (size_t i = 0; i < n; i++) {
        thinking->reward += (summaries[i].reward - summaries[0].reward) / (double)n;
        thinking->has_reward = thinking->has_reward && summaries[i].has_reward;
    }
}

/* cuts: of this group. */
static stm_status join_group(const stm_budgets *b, bool with_thinking, const cut_plan *plan, const stm_group *from,
                             const stm_group *cuts, stm_group *to)
{
    const size_t each = plan->n * plan->n_summaries, size = from->n_responses;
    *to = (stm_group){.n_prompt = from->n_prompt,
                      .temperature = from->temperature,
                      .n_members = size,
                      .n_budgets = plan->n,
                      .n_summaries = plan->n_summaries};
    STM_TRY(stm_alloc(to->n_prompt, sizeof *to->prompt, &to->prompt));
    memcpy(to->prompt, from->prompt, from->n_prompt * sizeof *to->prompt);
    STM_TRY(stm_alloc(size * each, sizeof *to->scores, &to->scores));
    STM_TRY(stm_alloc(size * (each + with_thinking), sizeof *to->responses, &to->responses));
    for (size_t i = 0; i < size; i++) {
        stm_response *thinking = &to->responses[to->n_responses];
        if (with_thinking)
            STM_TRY(add_thinking(b, i, &from->responses[i], to));
        for (size_t a = 0; a < each; a++) {
            const stm_group *cut = &cuts[i * plan->n + a / plan->n_summaries];
            const stm_response *summary = &cut->responses[a % plan->n_summaries];
            STM_TRY(add_summary(i, a, from->n_prompt, cut, summary, to));
            to->scores[i * each + a] = summary->reward;
        }
        if (with_thinking)
            give_mean(thinking, each, thinking + 1);
    }
    return STM_OK;
}

stm_status stm_budgets_join(const stm_budgets *b, bool train, const stm_batch *cuts, stm_batch *batch)
{
    const cut_plan plan = plan_of(b, train);
    const stm_group *cut = cuts->groups;
    stm_batch joined = {0};
    stm_status status = stm_alloc(batch->n_groups, sizeof *joined.groups, &joined.groups);
    for (size_t g = 0; status == STM_OK && g < batch->n_groups; g++) {
        status = join_group(b, train, &plan, &batch->groups[g], cut, &joined.groups[joined.n_groups++]);
        cut += batch->groups[g].n_responses * plan.n;
    }
    if (status == STM_OK) {
        stm_batch_clear(batch);
        *batch = joined;
    } else {
        stm_batch_clear(&joined);
    }
    return status;
}
