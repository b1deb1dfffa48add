#include "rollout/decode.h"

#include "model/stages.h"
#include "rollout/ahead.h"
#include "rollout/awaited.h"
#include "rollout/handover.h"
#include "rollout/shares.h"
#include "rollout/step.h"

/* Batches in the order in which they entered. */
typedef struct {
    size_t *batches; /* [capacity] */
    size_t capacity, first, n;
} fifo;

typedef struct {
    const stm_decode_work *work;
    stm_slots slots;
    stm_step *step, *other; /* other: of the other model; NULL: there is one */
    stm_draw *draw;         /* NULL: not the last stage */
    stm_ahead *ahead;       /* NULL: each round's ids are awaited */
    stm_awaited *awaited;   /* NULL: no round is recorded, or those of ahead */
    stm_handover *handover; /* NULL: there are no other stages */
    stm_shares *shares;     /* NULL: no rollout will go to another rank */
    stm_layer_hooks hooks;
    fifo ready, awaiting; /* batches that may run; and, but for the last stage, those that ran and have no ids yet */
    int32_t *heard;       /* [most_rows]: ids from the last stage */
    size_t n_continued;   /* times that a batch got its ids */
    stm_status numeric;
} decoder;

static void enter(fifo *f, size_t batch)
{
    f->batches[(f->first + f->n++) % f->capacity] = batch;
}

static size_t leave(fifo *f)
{
    const size_t batch = f->batches[f->first];
    f->first = (f->first + 1) % f->capacity;
    f->n--;
    return batch;
}

/* Messages */

static void drive(void *context)
{
    const decoder *d = context;
    stm_handover_drive(d->handover);
    stm_shares_drive(d->shares);
}

static stm_status meet_nobody(void *context, size_t layer, bool backward)
{
    (void)context;
    (void)layer;
    (void)backward;
    return STM_OK;
}

/* Rounds. Which batches continue, and with which rows, follows from the ids alone, so all stages agree. */

static void continue_with(decoder *d, size_t batch)
{
    stm_slots_fill(&d->slots, batch);
    const size_t n_rows = d->slots.batches[batch].n_rows;
    if (n_rows == 0)
        return;
    enter(&d->ready, batch);
    if (d->handover)
        stm_handover_expect(d->handover, n_rows);
}

/* Rollouts may have come: also to batches that have run out. current: the one that has just got its ids, or STM_NONE.
 */
static void share(decoder *d, size_t current)
{
    stm_shares_meet(d->shares);
    for (size_t b = 0; b < d->slots.n_batches; b++)
        if (b == current || d->slots.batches[b].n_rows == 0)
            continue_with(d, b);
}

static stm_status got_ids(decoder *d, size_t batch, const int32_t *ids)
{
    STM_TRY(stm_slots_add(&d->slots, batch, ids));
    const bool is_time = ++d->n_continued % (STM_SHARES_ROUNDS * d->slots.n_batches) == 0;
    if (is_time && stm_shares_is_open(d->shares))
        share(d, batch);
    else
        continue_with(d, batch);
    return STM_OK;
}

static stm_status hear(decoder *d)
{
    const size_t batch = leave(&d->awaiting);
    stm_handover_hear(d->handover, d->heard, d->slots.batches[batch].n_rows);
    return got_ids(d, batch, d->heard);
}

/* Of a batch whose log-probs and ids are there. */
static stm_status sampled(decoder *d, size_t batch, const int32_t *ids, size_t not_finite)
{
    if (not_finite != STM_NONE && d->numeric == STM_OK) {
        const stm_rollout_item *item = &d->work->items[not_finite];
        d->numeric =
            stm_fail(STM_ERR_NUMERIC, "prompt %zu, rollout %zu, token %zu: the log-prob is not a finite number",
                     item->origin.group, item->origin.rollout, item->origin.n_before + item->response->n);
    }
    if (d->handover)
        stm_handover_tell(d->handover, ids, d->slots.batches[batch].n_rows);
    return got_ids(d, batch, ids);
}

static stm_status sample(decoder *d, size_t batch)
{
    const int32_t *ids;
    size_t not_finite;
    if (d->awaited)
        STM_TRY(stm_awaited_read(d->awaited, batch, &ids, &not_finite));
    else
        STM_TRY(stm_draw_run(d->draw, &d->slots.batches[batch], stm_step_rows(d->step),
                             d->other ? stm_step_rows(d->other) : NULL, &ids, &not_finite));
    return sampled(d, batch, ids, not_finite);
}

static stm_status sample_ahead(decoder *d, size_t batch)
{
    const int32_t *ids;
    size_t not_finite;
    stm_shares_drive(d->shares);
    STM_TRY(stm_ahead_run(d->ahead, &d->slots.batches[batch], &ids, &not_finite));
    return sampled(d, batch, ids, not_finite);
}

/* Every rollout of the batch ends where it stands, and so will those that start in their place: the other stages learn
 * it from the ids, as they do of any end. */
static stm_status leave_rollouts(decoder *d, size_t batch)
{
    const size_t n_rows = d->slots.batches[batch].n_rows;
    for (size_t r = 0; r < n_rows; r++)
        d->heard[r] = STM_NO_ID;
    if (d->handover)
        stm_handover_tell(d->handover, d->heard, n_rows);
    return got_ids(d, batch, d->heard);
}

/* Where the other model's rows begin in a message of both. */
static size_t other_bytes(const decoder *d, size_t n_rows)
{
    const stm_model *model = d->work->pass->model;
    return n_rows * model->config.hidden_size * model->backend->real_bytes;
}

static stm_status pass_on(decoder *d, size_t batch)
{
    const size_t n_rows = d->slots.batches[batch].n_rows;
    char *leaving = stm_handover_take(d->handover);
    STM_TRY(stm_step_copy(d->step, n_rows, leaving));
    if (d->other)
        STM_TRY(stm_step_copy(d->other, n_rows, leaving + other_bytes(d, n_rows)));
    stm_handover_send(d->handover, n_rows);
    stm_handover_expect_ids(d->handover, n_rows);
    enter(&d->awaiting, batch);
    return STM_OK;
}

/* The buffer is free for what comes next while the layers run. */
static stm_status let_in(decoder *d, size_t n_rows, const char *arrived)
{
    if (arrived)
        STM_TRY(stm_step_enter(d->step, n_rows, arrived));
    if (arrived && d->other)
        STM_TRY(stm_step_enter(d->other, n_rows, arrived + other_bytes(d, n_rows)));
    if (d->handover)
        stm_handover_release(d->handover);
    return STM_OK;
}

static stm_status run_steps(decoder *d, size_t batch)
{
    if (d->awaited)
        return stm_awaited_run(d->awaited, batch);
    STM_TRY(stm_step_run(d->step, &d->slots.batches[batch]));
    return d->other ? stm_step_run(d->other, &d->slots.batches[batch]) : STM_OK;
}

static stm_status run(decoder *d, size_t batch)
{
    stm_watch_turn(d->work->sampling->watch);
    const char *arrived = d->handover ? stm_handover_receive(d->handover) : NULL;
    if (d->draw && stm_watch_leaves(d->work->sampling->watch)) {
        if (d->handover)
            stm_handover_release(d->handover);
        return leave_rollouts(d, batch);
    }
    ++*d->work->rounds;
    if (d->ahead)
        return sample_ahead(d, batch);
    STM_TRY(let_in(d, d->slots.batches[batch].n_rows, arrived));
    STM_TRY(run_steps(d, batch));
    return d->draw ? sample(d, batch) : pass_on(d, batch);
}

static stm_status decode(decoder *d)
{
    stm_shares_begin(d->shares);
    for (size_t b = 0; b < d->slots.n_batches; b++)
        continue_with(d, b);
    while (true) {
        const bool awaits = d->awaiting.n > 0;
        if (awaits && (d->ready.n == 0 || stm_handover_has_ids(d->handover)))
            STM_TRY(hear(d));
        else if (d->ready.n > 0)
            STM_TRY(run(d, leave(&d->ready)));
        else if (stm_shares_is_open(d->shares))
            share(d, STM_NONE);
        else
            return d->numeric;
    }
}

/* Beginning and end */

static stm_status create(decoder *d)
{
    const stm_decode_work *work = d->work;
    stm_arena *host = work->pass->host;
    const stm_progress_hook progress = {drive, d};
    const bool is_alone = work->grid->n_stages == 1;
    const bool shares = stm_shares_are_needed(work);
    STM_TRY(stm_slots_init(work, (size_t)work->grid->n_stages, &d->slots));
    d->ready.capacity = d->awaiting.capacity = d->slots.n_batches;
    STM_TRY(stm_arena_take(host, d->slots.n_batches * sizeof(size_t), &d->ready.batches));
    STM_TRY(stm_arena_take(host, d->slots.n_batches * sizeof(size_t), &d->awaiting.batches));
    STM_TRY(stm_arena_take(host, d->slots.most_rows * sizeof *d->heard, &d->heard));
    d->hooks = (stm_layer_hooks){.meet = meet_nobody, .drive = drive, .context = d};
    const stm_layer_hooks *hooks = is_alone && !shares ? NULL : &d->hooks;
    STM_TRY(stm_step_create(work, work->pass, &d->slots, hooks, NULL, &d->step));
    if (work->other)
        STM_TRY(stm_step_create(work, work->other, &d->slots, hooks, d->step, &d->other));
    if (stm_model_is_last(work->pass->model))
        STM_TRY(stm_draw_create(work, d->slots.most_rows, &d->draw));
    if (stm_ahead_is_possible(work))
        STM_TRY(stm_ahead_create(work, d->slots.most_rows, d->step, d->other, d->draw, &d->ahead));
    if (stm_awaited_is_possible(work))
        STM_TRY(stm_awaited_create(work, &d->slots, d->step, d->other, d->draw, progress, &d->awaited));
    if (!is_alone)
        STM_TRY(stm_handover_create(work, &d->slots, progress, &d->handover));
    return shares ? stm_shares_create(work, &d->slots, progress, &d->shares) : STM_OK;
}

static size_t rows_of_batch(size_t n_slots, size_t n_stages, size_t *n_batches)
{
    *n_batches = STM_MIN(n_stages, STM_MAX(n_slots, (size_t)1));
    return (n_slots + *n_batches - 1) / *n_batches;
}

/* Of layers and messages. */
static size_t step_bytes(const stm_model *model, size_t n_slots, size_t n_stages, size_t max_new_tokens)
{
    size_t n_batches;
    const size_t most_rows = rows_of_batch(n_slots, n_stages, &n_batches);
    const size_t n_links = n_stages == 1 ? 0 : 2 - stm_model_is_first(model) - stm_model_is_last(model);
    const size_t message = most_rows * model->config.hidden_size * model->backend->real_bytes;
    return stm_step_bytes(model, n_slots, most_rows, max_new_tokens) + n_links * n_batches * message;
}

/* A part of each row's attention, in all lists of rollout/ahead.h or rollout/awaited.h: those on the device, and those
 * that are on their way there. */
static size_t listed_bytes(const stm_model *model, const stm_sampling *sampling, size_t n_batches, size_t most_rows,
                           size_t n_stages)
{
    const size_t n_lists = n_stages > 1 ? 2 * n_batches : 1 + sampling->rounds_ahead + 1;
    if (!model->backend->apart || sampling->rounds_ahead == 0)
        return 0;
    return n_lists * most_rows * (model->end_layer - model->first_layer) * sizeof(stm_attend_part);
}

stm_slots_bytes stm_decode_bytes(const stm_model *model, const stm_sampling *sampling, size_t n_slots, size_t n_stages,
                                 bool other)
{
    size_t n_batches;
    const size_t most_rows = rows_of_batch(n_slots, n_stages, &n_batches);
    const size_t a_part = listed_bytes(model, sampling, n_batches, most_rows, n_stages);
    const size_t draw = other ? stm_draw_other_bytes(model, most_rows) : stm_draw_bytes(model, most_rows);
    return (stm_slots_bytes){.fixed = step_bytes(model, n_slots, n_stages, sampling->max_new_tokens) +
                                      (stm_model_is_last(model) ? draw : 0) + a_part,
                             .a_segment = a_part};
}

/* The same on every rank that will wait for this one. */
static stm_status agree(const stm_decode_work *work, stm_status status)
{
    if (work->grid->n_stages > 1)
        status = stm_agree_on(work->grid->column_comm, status);
    return stm_shares_are_needed(work) ? stm_agree_on(work->grid->team_comm, status) : status;
}

stm_status stm_decode(const stm_decode_work *work)
{
    const int rank = work->grid->team_rank;
    if (stm_decode_share(work, rank) == stm_decode_share(work, rank + 1))
        return STM_OK; /* then no rank has more than it has slots for, and none will come */
    const stm_pass *const passes[] = {work->pass, work->other};
    stm_mark device[2], host[2];
    for (size_t i = 0; i < stm_decode_n_models(work); i++) {
        device[i] = stm_arena_mark(passes[i]->device);
        host[i] = stm_arena_mark(passes[i]->host);
    }
    decoder d = {.work = work};
    stm_status status = agree(work, stm_fail_memory_of(create(&d), "K and V of rollouts", "a smaller rollout.slots"));
    if (status == STM_OK) {
        status = decode(&d);
        const stm_status ended = stm_ahead_finish(d.ahead);
        status = status == STM_OK ? ended : status;
        if (status != STM_OK && status != STM_ERR_NUMERIC && (d.handover || d.shares))
            stm_abort_in_team(work->grid->world);
    }
    stm_handover_destroy(d.handover);
    stm_shares_destroy(d.shares);
    stm_slots_clear(&d.slots);
    for (size_t i = 0; i < stm_decode_n_models(work); i++) {
        stm_arena_reset(passes[i]->device, device[i]);
        stm_arena_reset(passes[i]->host, host[i]);
    }
    return status;
}
