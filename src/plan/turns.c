#include "plan/turns.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/others.h"

/* What all kinds of turns are drawn from. */
typedef struct {
    const stm_options *options;
    const stm_workload *workload;
    const stm_prompts *prompts;
    size_t n_drawn; /* further responses so far, so that no two are alike */
} source;

static stm_status draw(const source *s, const stm_workload *w, stm_batch *batch)
{
    return stm_workload_draw(w, s->prompts, s->options->data.shuffle, false, batch);
}

/* Responses [first, end) of the workload's groups, below their prompts. */
static stm_status draw_some(const source *s, size_t first, size_t end, stm_batch *batch)
{
    STM_TRY(draw(s, s->workload, batch));
    for (size_t g = 0; g < batch->n_groups; g++) {
        stm_group *group = &batch->groups[g];
        for (size_t i = 0; i < group->n_responses; i++)
            if (i < first || i >= end)
                stm_response_clear(&group->responses[i]);
        memmove(group->responses, group->responses + first, (end - first) * sizeof *group->responses);
        group->n_responses = end - first;
    }
    return STM_OK;
}

static stm_status add_turn(stm_plan_turns *t, size_t most, bool further, stm_plan_turn **out)
{
    STM_TRY(stm_resize(&t->items, t->n + 1, sizeof *t->items));
    *out = &t->items[t->n++];
    **out = (stm_plan_turn){.most = most, .further = further, .n_models = 1};
    return STM_OK;
}

/* One more response below a group's prompt, like no other. */
static stm_status add_response(source *s, size_t n, stm_group *group)
{
    STM_TRY(stm_resize(&group->responses, group->n_responses + 1, sizeof *group->responses));
    return stm_workload_add_response(n, stm_workload_n_ids(s->workload) + s->n_drawn++, group);
}

/* The group that goes on from a response: its prompt, n tokens of the response, and so many of somebody else. */
static stm_status go_on(source *s, const stm_group *from, const stm_response *r, size_t n, size_t n_said, stm_group *to)
{
    int32_t *said;
    *to = (stm_group){.n_prompt = from->n_prompt + n + n_said, .temperature = 1};
    STM_TRY(stm_alloc(to->n_prompt, sizeof *to->prompt, &to->prompt));
    memcpy(to->prompt, from->prompt, from->n_prompt * sizeof *to->prompt);
    if (n > 0)
        memcpy(to->prompt + from->n_prompt, r->ids, n * sizeof *to->prompt);
    STM_TRY(stm_workload_ids(stm_workload_n_ids(s->workload) + s->n_drawn++, n_said, &said));
    if (n_said > 0)
        memcpy(to->prompt + from->n_prompt + n, said, n_said * sizeof *to->prompt);
    free(said);
    return STM_OK;
}

static stm_status take_groups(size_t n, stm_batch *batch)
{
    return stm_alloc(n, sizeof *batch->groups, &batch->groups);
}

/* Thinking and summaries */

static stm_status draw_budgets(source *s, const stm_budgets *b, stm_plan_turns *out)
{
    const stm_workload *w = s->workload;
    stm_workload thinking = *w;
    stm_plan_turn *first, *below;
    thinking.most_answer = (size_t)b->tokens[b->n - 1];
    thinking.n_answer = STM_MAX(w->n_answer * thinking.most_answer / w->most_answer, (size_t)1);
    STM_TRY(add_turn(out, thinking.most_answer, false, &first));
    STM_TRY(draw(s, &thinking, &first->batch));
    STM_TRY(draw(s, &thinking, &out->batch));
    STM_TRY(add_turn(out, w->most_answer, true, &below));
    STM_TRY(stm_budgets_cut(b, &out->batch, &below->batch));
    for (size_t c = 0; c < below->batch.n_groups; c++)
        for (size_t a = 0; a < b->n_summaries; a++)
            STM_TRY(add_response(s, stm_workload_length(w, w->n_groups + c, a), &below->batch.groups[c]));
    return stm_budgets_join(b, true, &below->batch, &out->batch);
}

/* Conversations */

/* Tokens before part `part` of n that are cut into n_parts. */
static size_t before(size_t n, size_t n_parts, size_t part)
{
    return n * part / n_parts;
}

/* Replies into a response of one turn: where they stand has no loss. */
static stm_status spread_replies(source *s, size_t n_turns, size_t n_replies, stm_response *r)
{
    const size_t n = r->n, longer = n + n_replies;
    int32_t *ids, *said;
    uint8_t *mask;
    STM_TRY(stm_workload_ids(stm_workload_n_ids(s->workload) + s->n_drawn++, n_replies, &said));
    STM_TRY(stm_alloc(longer, sizeof *ids, &ids));
    STM_TRY(stm_alloc(longer, 1, &mask));
    for (size_t turn = 0, at = 0; turn < n_turns; turn++) {
        for (size_t k = before(n, n_turns, turn); k < before(n, n_turns, turn + 1); k++, at++) {
            ids[at] = r->ids[k];
            mask[at] = 1;
        }
        for (size_t k = before(n_replies, n_turns - 1, turn);
             turn + 1 < n_turns && k < before(n_replies, n_turns - 1, turn + 1); k++, at++)
            ids[at] = said[k];
    }
    free(said);
    free(r->ids);
    free(r->mask);
    r->ids = ids;
    r->mask = mask;
    r->n = longer;
    return STM_OK;
}

/* A conversation's tokens before a turn, replies included. */
static size_t tokens_before(size_t n, size_t n_replies, size_t n_turns, size_t turn)
{
    return before(n, n_turns, turn) + before(n_replies, n_turns - 1, turn);
}

static stm_status draw_turn(source *s, const stm_batch *whole, size_t n_turns, size_t n_replies, size_t turn,
                            stm_batch *batch)
{
    const size_t size = s->workload->group_size;
    STM_TRY(take_groups(whole->n_groups * size, batch));
    for (size_t g = 0; g < whole->n_groups; g++)
        for (size_t i = 0; i < size; i++) {
            const stm_response *r = &whole->groups[g].responses[i];
            const size_t n = r->n - n_replies;
            stm_group *group = &batch->groups[batch->n_groups++];
            STM_TRY(go_on(s, &whole->groups[g], r, tokens_before(n, n_replies, n_turns, turn), 0, group));
            STM_TRY(add_response(s, before(n, n_turns, turn + 1) - before(n, n_turns, turn), group));
        }
    return STM_OK;
}

static stm_status draw_conversations(source *s, stm_plan_turns *out)
{
    const stm_options *o = s->options;
    const size_t most = (size_t)o->rollout.max_turns, most_said = (size_t)o->rollout.max_environment_tokens;
    const size_t n_turns = o->plan.turns == STM_AUTO ? (most + 1) / 2 : STM_MIN((size_t)o->plan.turns, most);
    const size_t n_said = o->plan.reply_tokens == STM_AUTO ? most_said / 2 : (size_t)o->plan.reply_tokens;
    const size_t n_replies = n_turns > 1 ? STM_MIN(n_said, most_said) : 0;
    stm_plan_turn *turn;
    STM_TRY(draw(s, s->workload, &out->batch));
    for (size_t g = 0; g < out->batch.n_groups && n_turns > 1; g++)
        for (size_t i = 0; i < out->batch.groups[g].n_responses; i++)
            STM_TRY(spread_replies(s, n_turns, n_replies, &out->batch.groups[g].responses[i]));
    STM_TRY(add_turn(out, s->workload->most_answer, false, &turn));
    STM_TRY(draw(s, s->workload, &turn->batch));
    for (size_t g = 0; g < turn->batch.n_groups; g++)
        for (size_t i = 0; i < turn->batch.groups[g].n_responses; i++) {
            stm_response *r = &turn->batch.groups[g].responses[i];
            r->n = before(r->n, n_turns, 1);
        }
    for (size_t k = 1; k < n_turns; k++) {
        STM_TRY(add_turn(out, s->workload->most_answer, true, &turn));
        STM_TRY(draw_turn(s, &out->batch, n_turns, n_replies, k, &turn->batch));
    }
    return STM_OK;
}

/* Critique and refine */

static stm_status draw_refined(source *s, stm_plan_turns *out)
{
    enum { BYTES_OF_TOKEN = 4 }; /* about, of text */
    const stm_options *o = s->options;
    const stm_workload *w = s->workload;
    const size_t size = w->group_size,
                 n_bytes = strlen(o->rollout.refine_text) +
                           STM_MAX(strlen(o->rollout.refine_praise), strlen(o->rollout.refine_blame));
    stm_plan_turn *answers, *again;
    STM_TRY(draw(s, w, &out->batch));
    STM_TRY(add_turn(out, w->most_answer, false, &answers));
    STM_TRY(draw_some(s, 1, size, &answers->batch));
    STM_TRY(add_turn(out, w->most_answer, false, &again));
    stm_batch *first = &out->items[0].batch, *batch = &again->batch;
    STM_TRY(take_groups(first->n_groups * (size - 1), batch));
    for (size_t g = 0; g < first->n_groups; g++)
        for (size_t i = 0; i + 1 < size; i++) {
            const stm_response *r = &first->groups[g].responses[i];
            stm_group *group = &batch->groups[batch->n_groups++];
            STM_TRY(go_on(s, &first->groups[g], r, r->n, n_bytes / BYTES_OF_TOKEN + 1, group));
            STM_TRY(add_response(s, stm_workload_length(w, w->n_groups + g, i), group));
        }
    return STM_OK;
}

/* The policy's answers, then those of the reference, or of both. */
static stm_status draw_others(source *s, size_t n_others, stm_plan_turns *out)
{
    const size_t size = s->workload->group_size, most = s->workload->most_answer;
    stm_plan_turn *turn;
    STM_TRY(draw(s, s->workload, &out->batch));
    STM_TRY(add_turn(out, most, false, &turn));
    STM_TRY(draw_some(s, 0, size - n_others, &turn->batch));
    if (n_others == 0)
        return STM_OK;
    STM_TRY(add_turn(out, most, false, &turn));
    turn->n_models = stm_others_mix(s->options) ? 2 : 1;
    return draw_some(s, size - n_others, size, &turn->batch);
}

stm_status stm_plan_turns_draw(const stm_options *o, const stm_workload *workload, const stm_prompts *prompts,
                               const stm_budgets *budgets, bool supervised, stm_plan_turns *out)
{
    source s = {.options = o, .workload = workload, .prompts = prompts};
    *out = (stm_plan_turns){0};
    if (supervised)
        return stm_workload_draw(workload, prompts, o->data.shuffle, true, &out->batch);
    if (budgets)
        return draw_budgets(&s, budgets, out);
    if (*o->rollout.environment)
        return draw_conversations(&s, out);
    if (o->rollout.refine && workload->group_size > 1)
        return draw_refined(&s, out);
    return draw_others(&s, STM_MIN((size_t)o->reference.samples, workload->group_size - 1), out);
}

void stm_plan_turns_clear(stm_plan_turns *turns)
{
    for (size_t i = 0; i < turns->n; i++)
        stm_batch_clear(&turns->items[i].batch);
    free(turns->items);
    stm_batch_clear(&turns->batch);
    *turns = (stm_plan_turns){0};
}
