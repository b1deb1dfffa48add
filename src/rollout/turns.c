#include "rollout/turns.h"

#include <stdlib.h>
#include <string.h>

#include "rollout/rollout.h"

typedef struct {
    stm_origin origin; /* the response that it grows */
    size_t n_turns, n_appended;
    size_t first; /* of the latest turn's tokens */
    bool over;
} conversation;

typedef struct {
    stm_engine *engine;
    const stm_model *model;
    const stm_grid *grid;
    const stm_sampling *sampling;
    stm_batch *batch;
    conversation *all, **live; /* [n], [n_live] */
    size_t n, n_live;
} dialogue;

static stm_response *response_of(const dialogue *d, const conversation *c)
{
    return &d->batch->groups[c->origin.group].responses[c->origin.rollout];
}

/* Longer by n tokens, which are not set but for their mask. */
static stm_status grow(stm_response *r, size_t n, uint8_t mask)
{
    STM_TRY(stm_resize(&r->ids, r->n + n, sizeof *r->ids));
    STM_TRY(stm_resize(&r->mask, r->n + n, sizeof *r->mask));
    STM_TRY(stm_resize(&r->old_logprobs, r->n + n, sizeof *r->old_logprobs));
    STM_TRY(stm_resize(&r->kept_mass, r->n + n, sizeof *r->kept_mass));
    memset(r->mask + r->n, mask, n);
    r->n += n;
    return STM_OK;
}

/* Nobody sampled these: nothing was cut from their distribution. */
static stm_status append_reply(stm_response *r, const int32_t *ids, size_t n)
{
    const size_t first = r->n;
    STM_TRY(grow(r, n, 0));
    for (size_t k = 0; k < n; k++) {
        r->ids[first + k] = ids[k];
        r->old_logprobs[first + k] = 0.0;
        r->kept_mass[first + k] = 1.0;
    }
    return STM_OK;
}

static stm_status append_turn(stm_response *r, const stm_response *turn)
{
    const size_t first = r->n;
    STM_TRY(grow(r, turn->n, 1));
    memcpy(r->ids + first, turn->ids, turn->n * sizeof *r->ids);
    memcpy(r->old_logprobs + first, turn->old_logprobs, turn->n * sizeof *r->old_logprobs);
    memcpy(r->kept_mass + first, turn->kept_mass, turn->n * sizeof *r->kept_mass);
    r->finish = turn->finish;
    return STM_OK;
}

/* Asking */

static bool is_last(const dialogue *d, const conversation *c)
{
    return response_of(d, c)->finish == STM_FINISH_LENGTH || c->n_turns == d->sampling->max_turns ||
           c->origin.n_sampled == d->sampling->max_new_tokens;
}

static stm_status ask(const dialogue *d, stm_reply *replies)
{
    const stm_partner *partner = d->sampling->partner;
    stm_turn *turns;
    STM_TRY(stm_alloc(d->n_live, sizeof *turns, &turns));
    for (size_t i = 0; i < d->n_live; i++) {
        const conversation *c = d->live[i];
        turns[i] = (stm_turn){.group = c->origin.group,
                              .rollout = c->origin.rollout,
                              .number = c->n_turns,
                              .first = c->first,
                              .last = is_last(d, c),
                              .response = response_of(d, c)};
    }
    const stm_status status = partner->reply(partner->context, d->n_live, turns, replies);
    free(turns);
    return status;
}

/* What travels to every rank: the replies, whose pointers say nothing there, then all their ids. */
static stm_status pack(const stm_reply *replies, size_t n, char **bytes, size_t *n_bytes)
{
    size_t n_ids = 0;
    for (size_t i = 0; i < n; i++)
        n_ids += replies[i].n;
    *n_bytes = n * sizeof *replies + n_ids * sizeof(int32_t);
    STM_TRY(stm_alloc(*n_bytes, 1, bytes));
    memcpy(*bytes, replies, n * sizeof *replies);
    char *at = *bytes + n * sizeof *replies;
    for (size_t i = 0; i < n; i++) {
        if (replies[i].n > 0)
            memcpy(at, replies[i].ids, replies[i].n * sizeof(int32_t));
        at += replies[i].n * sizeof(int32_t);
    }
    return STM_OK;
}

/* Rank 0 asks. */
static stm_status ask_and_pack(const dialogue *d, char **bytes, size_t *n_bytes)
{
    stm_reply *replies;
    STM_TRY(stm_alloc(d->n_live, sizeof *replies, &replies));
    stm_status status = ask(d, replies);
    if (status == STM_OK)
        status = pack(replies, d->n_live, bytes, n_bytes);
    for (size_t i = 0; i < d->n_live; i++)
        free(replies[i].ids);
    free(replies);
    return status;
}

/* The packed replies of all that live. Collective over the world. */
static stm_status hear_replies(const dialogue *d, char **bytes)
{
    const stm_grid *grid = d->grid;
    stm_timers *timers = stm_engine_settings_of(d->engine)->timers;
    size_t n_bytes = 0;
    *bytes = NULL;
    stm_timers_push(timers, STM_PHASE_REWARD);
    stm_status status = stm_agree(grid, grid->rank == 0 ? ask_and_pack(d, bytes, &n_bytes) : STM_OK);
    stm_timers_pop(timers, STM_PHASE_REWARD);
    STM_TRY(status);
    stm_broadcast(grid->world, 0, &n_bytes, sizeof n_bytes);
    status = stm_agree(grid, grid->rank == 0 ? STM_OK : stm_alloc(n_bytes, 1, bytes));
    if (status == STM_OK)
        stm_broadcast(grid->world, 0, *bytes, n_bytes);
    return status;
}

/* Takes the reply to a conversation: it goes on with the reply's tokens, or it is over. */
static stm_status answer(const dialogue *d, conversation *c, const stm_reply *reply, const int32_t *ids)
{
    stm_response *r = response_of(d, c);
    r->outcome.failed = reply->failed;
    r->outcome.n_turns = c->n_turns;
    r->outcome.has_reward = r->outcome.has_reward || reply->has_reward;
    r->outcome.reward += reply->has_reward ? reply->reward : 0.0;
    c->over = reply->ends || reply->failed;
    if (c->over)
        return STM_OK;
    if (is_last(d, c) || c->n_appended + reply->n > d->sampling->max_appended) {
        c->over = true;
        r->finish = STM_FINISH_LENGTH;
        return STM_OK;
    }
    c->n_appended += reply->n;
    return append_reply(r, ids, reply->n);
}

/* Afterwards every rank knows what anybody was told during the wait. Collective over the world. */
static stm_status take_replies(dialogue *d)
{
    char *bytes;
    stm_status status = hear_replies(d, &bytes);
    const stm_reply *replies = (const stm_reply *)(void *)bytes;
    const int32_t *ids = (const int32_t *)(const void *)(replies + d->n_live);
    size_t n = 0;
    for (size_t i = 0; status == STM_OK && i < d->n_live; i++) {
        status = answer(d, d->live[i], &replies[i], ids);
        ids += replies[i].n;
    }
    status = stm_agree(d->grid, status);
    free(bytes);
    if (status == STM_OK)
        stm_watch_heed(d->sampling->watch, d->grid->world);
    for (size_t i = 0; i < d->n_live; i++)
        if (!d->live[i]->over)
            d->live[n++] = d->live[i];
    d->n_live = n;
    return status;
}

/* The next turn */

/* A group of one for each conversation that lives: its prompt is all that has been said. */
static stm_status gather_live(const dialogue *d, stm_batch *next, stm_origin **origins)
{
    STM_TRY(stm_alloc(d->n_live, sizeof **origins, origins));
    STM_TRY(stm_alloc(d->n_live, sizeof *next->groups, &next->groups));
    for (; next->n_groups < d->n_live; next->n_groups++) {
        conversation *c = d->live[next->n_groups];
        const stm_group *group = &d->batch->groups[c->origin.group];
        const stm_response *r = response_of(d, c);
        stm_group *to = &next->groups[next->n_groups];
        c->origin.n_before = r->n;
        (*origins)[next->n_groups] = c->origin;
        *to = (stm_group){.n_prompt = group->n_prompt + r->n, .temperature = group->temperature};
        STM_TRY(stm_alloc(to->n_prompt, sizeof *to->prompt, &to->prompt));
        memcpy(to->prompt, group->prompt, group->n_prompt * sizeof *to->prompt);
        memcpy(to->prompt + group->n_prompt, r->ids, r->n * sizeof *to->prompt);
    }
    return STM_OK;
}

static void note_turn(conversation *c, size_t first, size_t n)
{
    c->first = first;
    c->origin.n_sampled += n;
    c->n_turns++;
}

/* Collective over the world. */
static stm_status run_turn(dialogue *d, stm_rollout_counts *counts)
{
    stm_batch next = {0};
    stm_origin *origins = NULL;
    stm_rollout_counts own;
    stm_sampling sampling = *d->sampling;
    stm_status status;
    STM_GOTO_OUT(stm_agree(d->grid, gather_live(d, &next, &origins)));
    sampling.group_size = 1;
    sampling.origins = origins;
    status = stm_rollout_further(d->engine, d->model, d->grid, &sampling, &next, &own);
    if (status != STM_OK || stm_watch_leaves(sampling.watch))
        goto out;
    stm_rollout_counts_add(counts, &own);
    for (size_t i = 0; status == STM_OK && i < d->n_live; i++) {
        const stm_response *turn = &next.groups[i].responses[0];
        note_turn(d->live[i], d->live[i]->origin.n_before, turn->n);
        status = append_turn(response_of(d, d->live[i]), turn);
    }
    status = stm_agree(d->grid, status);
out:
    stm_batch_clear(&next);
    free(origins);
    return status;
}

/* All conversations, after their first turn. */
static stm_status begin(dialogue *d)
{
    d->n = d->batch->n_groups * d->sampling->group_size;
    STM_TRY(stm_alloc(d->n, sizeof *d->all, &d->all));
    STM_TRY(stm_alloc(d->n, sizeof *d->live, &d->live));
    for (; d->n_live < d->n; d->n_live++) {
        conversation *c = d->live[d->n_live] = &d->all[d->n_live];
        c->origin =
            (stm_origin){.group = d->n_live / d->sampling->group_size, .rollout = d->n_live % d->sampling->group_size};
        note_turn(c, 0, response_of(d, c)->n);
    }
    return STM_OK;
}

static stm_status converse(dialogue *d, stm_rollout_counts *counts)
{
    stm_status status = stm_agree(d->grid, begin(d));
    while (status == STM_OK && d->n_live > 0) {
        status = take_replies(d);
        if (status != STM_OK || d->n_live == 0 || stm_watch_leaves(d->sampling->watch))
            break;
        status = run_turn(d, counts);
        if (stm_watch_leaves(d->sampling->watch))
            break;
    }
    free(d->all);
    free(d->live);
    return status;
}

stm_status stm_rollout(stm_engine *engine, const stm_model *model, const stm_grid *grid, const stm_sampling *sampling,
                       stm_batch *batch, stm_rollout_counts *counts)
{
    stm_rollout_counts own;
    dialogue d = {.engine = engine, .model = model, .grid = grid, .sampling = sampling, .batch = batch};
    if (!sampling->partner)
        return stm_rollout_turn(engine, model, grid, sampling, batch, counts);
    STM_TRY(stm_rollout_turn(engine, model, grid, sampling, batch, &own));
    const stm_status status = stm_watch_leaves(sampling->watch) ? STM_OK : converse(&d, &own);
    if (counts)
        *counts = own;
    return status;
}

/* The last turn of every response, were they all as long as they may be and unlike each other. */
static stm_status expect_later_turns(stm_engine *engine, const stm_model *model, const stm_grid *grid,
                                     const stm_sampling *sampling, const stm_batch *batch)
{
    const size_t n_before = sampling->max_new_tokens - 1 + sampling->max_appended;
    stm_batch next = {0};
    stm_sampling later = *sampling;
    later.group_size = 1;
    stm_status status =
        stm_agree(grid, stm_batch_continue_prompts(batch, sampling->group_size, n_before, SIZE_MAX, &next));
    if (status == STM_OK)
        status = stm_rollout_expect_further(engine, model, grid, &later, &next);
    stm_batch_clear(&next);
    return status;
}

stm_status stm_rollout_expect(stm_engine *engine, const stm_model *model, const stm_grid *grid,
                              const stm_sampling *sampling, stm_batch *batch)
{
    STM_TRY(stm_rollout_expect_turn(engine, model, grid, sampling, batch));
    return sampling->max_turns > 1 ? expect_later_turns(engine, model, grid, sampling, batch) : STM_OK;
}
