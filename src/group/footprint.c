#include "group/footprint.h"

#include <stdlib.h>

#include "model/head.h"
#include "model/layer.h"
#include "model/stages.h"
#include "mpi/relay.h"

typedef struct {
    const stm_schedule *schedule;
    const stm_model *model;
    const stm_schedule_options *options;
    stm_footprint_parts *now; /* [n_arenas] */
    stm_footprint *out;
} following;

static size_t bytes_of(const stm_footprint_parts *p)
{
    return p->kv + p->kept + p->scratch + p->messages + p->slots;
}

static bool goes_back(const following *f)
{
    return f->options->kind == STM_PASS_GRADIENT;
}

static size_t row_bytes(const following *f, size_t n_rows)
{
    return n_rows * f->model->config.hidden_size * f->model->backend->real_bytes;
}

/* Chunks */

/* K and V where they are not in a window, dK and dV, and room for a part of a layer's that comes from another rank. */
static size_t open_bytes(const following *f, const stm_planned_chunk *c)
{
    const stm_shared_chunk *shared = c->shared == STM_NONE ? NULL : &f->schedule->shared[c->shared];
    const size_t here = shared && shared->n_local > 0 ? 0 : stm_chunk_kv_bytes(f->model, c->n_rows, false);
    const size_t dkv = stm_chunk_dkv_bytes(f->model, c->n_rows);
    if (!goes_back(f))
        return here;
    const bool adds =
        shared && shared->n_members > 1 &&
        stm_relay_n_children(f->schedule->members + shared->first_member, shared->n_members, f->options->team_rank) > 0;
    return here + dkv + (adds ? dkv / (f->model->end_layer - f->model->first_layer) : 0);
}

/* What stays of a chunk's forward: activations, or the rows that a stage before it has sent. */
static size_t stays_bytes(const following *f, const stm_planned_chunk *c)
{
    if (c->keeps)
        return stm_chunk_kept_bytes(f->model, c->n_rows);
    return goes_back(f) && !stm_model_is_first(f->model) ? row_bytes(f, c->n_rows) : 0;
}

static size_t forward_bytes(const following *f, const stm_planned_chunk *c)
{
    const stm_model *m = f->model;
    const size_t layer = stm_layer_scratch_bytes(m, c->n_rows, false);
    if (c->keeps)
        return layer;
    const size_t two = 2 * stm_layer_kept_bytes(m, c->n_rows, c->n_rows);
    const bool head = f->options->kind == STM_PASS_SCORE && stm_model_is_last(m);
    return layer + two + row_bytes(f, c->n_rows) + (head ? stm_head_scratch_bytes(m) : 0);
}

static size_t backward_bytes(const following *f, const stm_planned_chunk *c)
{
    const size_t all = stm_chunk_scratch_bytes(f->model, c->n_rows, true);
    return stm_model_is_last(f->model) ? all : all - stm_head_scratch_bytes(f->model);
}

/* Arenas: of all of one, what is for one purpose is known only at its fullest. */

static void see(following *f, size_t arena)
{
    if (bytes_of(&f->now[arena]) > bytes_of(&f->out->arenas[arena]))
        f->out->arenas[arena] = f->now[arena];
}

/* The arena of what lives while a chunk runs. */
static size_t room_of(size_t n_banks)
{
    return n_banks > 1 ? 0 : 1;
}

static void see_running(following *f, size_t kept, size_t scratch)
{
    const size_t room = room_of(f->schedule->n_banks);
    f->now[room].kept += kept;
    f->now[room].scratch += scratch;
    see(f, room);
    f->now[room].kept -= kept;
    f->now[room].scratch -= scratch;
}

static void meet(following *f, const stm_event *event)
{
    const stm_planned_chunk *c = &f->schedule->chunks[event->chunk];
    stm_footprint_parts *bank = &f->now[1 + c->bank];
    if (c->n_rows == 0)
        return;
    switch (event->kind) {
    case STM_EVENT_OPEN:
        bank->kv += open_bytes(f, c);
        break;
    case STM_EVENT_FORWARD:
        bank->kept += stays_bytes(f, c);
        see_running(f, 0, forward_bytes(f, c));
        break;
    case STM_EVENT_BACKWARD:
        see_running(f, c->keeps ? 0 : stm_chunk_kept_bytes(f->model, c->n_rows), backward_bytes(f, c));
        break;
    case STM_EVENT_CLOSE:
        bank->kv -= open_bytes(f, c);
        bank->kept -= c->computes ? stays_bytes(f, c) : 0;
        break;
    }
    see(f, 1 + c->bank);
}

/* Buffers of rows to and from the stages beside this one. */
static size_t message_bytes(const following *f)
{
    enum { SLOTS = 2 }; /* as group/neighbours.c */
    const stm_schedule_options *o = f->options;
    const size_t beside = (o->stage > 0) + (o->stage + 1 < o->n_stages);
    return (goes_back(f) ? 2 : 1) * beside * SLOTS * row_bytes(f, f->schedule->largest_rows);
}

/* Pages that several ranks read count for each in part. */
static size_t window_bytes(const following *f)
{
    const stm_schedule_options *o = f->options;
    size_t bytes = 0, n = 0;
    for (int i = 0; o->nodes && i < o->team_size; i++)
        if (o->nodes[i] == o->nodes[o->team_rank]) {
            bytes += f->schedule->window_bytes[i];
            n++;
        }
    return n > 0 ? bytes / n : 0;
}

static stm_status need_arenas(size_t n, stm_footprint *out)
{
    STM_TRY(stm_reserve(&out->arenas, &out->capacity, n, sizeof *out->arenas));
    while (out->n_arenas < n)
        out->arenas[out->n_arenas++] = (stm_footprint_parts){0};
    return STM_OK;
}

stm_status stm_footprint_of(const stm_schedule *schedule, const stm_model *model, const stm_schedule_options *options,
                            stm_footprint *out)
{
    following f = {.schedule = schedule, .model = model, .options = options, .out = out};
    *out = (stm_footprint){0};
    STM_TRY(need_arenas(1 + STM_MAX(schedule->n_banks, (size_t)1), out));
    STM_TRY(stm_alloc(out->n_arenas, sizeof *f.now, &f.now));
    const size_t room = room_of(schedule->n_banks);
    f.now[room].messages = message_bytes(&f);
    see(&f, room);
    for (size_t e = 0; e < schedule->n_events; e++)
        meet(&f, &schedule->events[e]);
    out->window_bytes = window_bytes(&f);
    free(f.now);
    return STM_OK;
}

void stm_footprint_add_slots(size_t bytes, stm_footprint *footprint)
{
    stm_footprint_parts *room = &footprint->arenas[room_of(footprint->n_arenas - 1)];
    const stm_footprint_parts decoding = {.kv = room->kv, .messages = room->messages, .slots = bytes};
    if (bytes_of(&decoding) > bytes_of(room)) /* a pass for prompts keeps K and V alone */
        *room = decoding;
}

stm_status stm_footprint_join(const stm_footprint *other, stm_footprint *most)
{
    STM_TRY(need_arenas(other->n_arenas, most));
    for (size_t i = 0; i < other->n_arenas; i++)
        if (bytes_of(&other->arenas[i]) > bytes_of(&most->arenas[i]))
            most->arenas[i] = other->arenas[i];
    most->window_bytes = STM_MAX(most->window_bytes, other->window_bytes);
    if (bytes_of(&other->beside) > bytes_of(&most->beside))
        most->beside = other->beside;
    return STM_OK;
}

stm_footprint_parts stm_footprint_sum(const stm_footprint *footprint)
{
    stm_footprint_parts sum = footprint->beside;
    sum.kv += footprint->window_bytes;
    for (size_t i = 0; i < footprint->n_arenas; i++) {
        sum.kv += footprint->arenas[i].kv;
        sum.kept += footprint->arenas[i].kept;
        sum.scratch += footprint->arenas[i].scratch;
        sum.messages += footprint->arenas[i].messages;
        sum.slots += footprint->arenas[i].slots;
    }
    return sum;
}

size_t stm_footprint_bytes(const stm_footprint *footprint)
{
    const stm_footprint_parts sum = stm_footprint_sum(footprint);
    return bytes_of(&sum);
}

void stm_footprint_clear(stm_footprint *footprint)
{
    free(footprint->arenas);
    *footprint = (stm_footprint){0};
}
