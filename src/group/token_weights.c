#include "group/token_weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "group/engine_state.h"
#include "model/head.h"
#include "model/stages.h"

/* Where the rows of a group stand: position by position, the members that have not ended side by side. */
typedef struct {
    size_t n_positions, first_position; /* in the slice */
} group_place;

/* Some groups, and what is kept of them. */
typedef struct {
    stm_engine *engine;
    const stm_grid *grid;
    stm_batch groups;
    group_place *places; /* [n_groups] */
    size_t n_positions;
    size_t *first_rows; /* [n_positions + 1]; positions of other teams have no rows */
    char *x;            /* [rows, hidden] reals: of this rank, and 0 where another computes them */
    double *lse;        /* [rows], likewise */
    char *staged;       /* [STM_HEAD_ROWS, hidden] reals */
    double *staged_lse; /* [STM_HEAD_ROWS] */
    double *sums;       /* [n_positions] */
    stm_status status;  /* of the visits */
} slice;

static size_t row_bytes(const stm_model *model)
{
    return model->config.hidden_size * model->backend->real_bytes;
}

static size_t longest(const stm_group *group)
{
    size_t n = 0;
    for (size_t i = 0; i < group->n_responses; i++)
        n = STM_MAX(n, group->responses[i].n);
    return n;
}

static size_t n_at(const stm_group *group, size_t n_members, size_t position)
{
    size_t n = 0;
    for (size_t i = 0; i < n_members; i++)
        n += group->responses[i].n > position;
    return n;
}

static void clear(slice *s)
{
    free(s->places);
    free(s->first_rows);
    free(s->x);
    free(s->lse);
    free(s->staged);
    free(s->staged_lse);
    free(s->sums);
}

/* Rows are laid out for the groups of this rank's team, if it has the head. */
static stm_status lay_out(slice *s)
{
    const stm_model *model = s->engine->model;
    int *team_of;
    STM_TRY(stm_alloc(s->groups.n_groups, sizeof *s->places, &s->places));
    for (size_t g = 0; g < s->groups.n_groups; g++) {
        s->places[g] = (group_place){longest(&s->groups.groups[g]), s->n_positions};
        s->n_positions += s->places[g].n_positions;
    }
    STM_TRY(stm_alloc(s->n_positions + 1, sizeof *s->first_rows, &s->first_rows));
    STM_TRY(stm_alloc(s->n_positions, sizeof *s->sums, &s->sums));
    STM_TRY(stm_alloc(s->groups.n_groups, sizeof *team_of, &team_of));
    const stm_status status = stm_engine_assign_responses(s->engine, &s->groups, team_of);
    size_t rows = 0, p = 0;
    for (size_t g = 0; status == STM_OK && g < s->groups.n_groups; g++)
        for (size_t t = 0; t < s->places[g].n_positions; t++) {
            const stm_group *group = &s->groups.groups[g];
            const bool here = team_of[g] == s->grid->team && stm_model_is_last(model);
            rows += here ? n_at(group, group->n_responses, t) : 0;
            s->first_rows[++p] = rows;
        }
    free(team_of);
    STM_TRY(status);
    STM_TRY(stm_alloc(rows, row_bytes(model), &s->x)); /* pages that nobody touches take no memory */
    STM_TRY(stm_alloc(rows, sizeof *s->lse, &s->lse));
    STM_TRY(stm_alloc(STM_HEAD_ROWS, row_bytes(model), &s->staged));
    return stm_alloc(STM_HEAD_ROWS, sizeof *s->staged_lse, &s->staged_lse);
}

/* Keeps hidden states and log-sum-exps of what this rank computes. */
static void keep(void *context, const stm_visit *visit)
{
    slice *s = context;
    const stm_model *model = s->engine->model;
    const stm_group *group = &s->groups.groups[visit->group];
    const size_t bytes = row_bytes(model), first = s->places[visit->group].first_position + visit->first_token;
    if (s->status == STM_OK)
        s->status = model->backend->read(model->stream, s->staged, visit->x, visit->n * bytes);
    if (s->status == STM_OK)
        s->status = model->backend->read(model->stream, s->staged_lse, visit->lse, visit->n * sizeof(double));
    for (size_t k = 0; k < visit->n; k++) {
        const size_t row = s->first_rows[first + k] + n_at(group, visit->response, visit->first_token + k);
        memcpy(s->x + row * bytes, s->staged + k * bytes, bytes);
        s->lse[row] = s->staged_lse[k];
    }
}

/* Room on the device for a block of positions. */
typedef struct {
    size_t most_rows;
    void *x, *scratch;
    double *lse, *sums;
    int32_t *first_rows;
    int32_t *host_first_rows; /* [most_rows + 1] */
} block_room;

static stm_status take_room(const slice *s, block_room *room)
{
    const stm_model *model = s->engine->model;
    stm_arena *device = s->engine->banks[0].device;
    room->most_rows = STM_HEAD_ROWS;
    for (size_t g = 0; g < s->groups.n_groups; g++)
        room->most_rows = STM_MAX(room->most_rows, s->groups.groups[g].n_responses);
    const size_t n = room->most_rows;
    STM_TRY(stm_arena_take(device, n * row_bytes(model), &room->x));
    STM_TRY(stm_arena_take(device, n * sizeof *room->lse, &room->lse));
    STM_TRY(stm_arena_take(device, n * sizeof *room->sums, &room->sums));
    STM_TRY(stm_arena_take(device, (n + 1) * sizeof *room->first_rows, &room->first_rows));
    STM_TRY(stm_arena_take(device, stm_head_spread_bytes(model, n), &room->scratch));
    return stm_arena_take(s->engine->banks[0].host, (n + 1) * sizeof *room->host_first_rows, &room->host_first_rows);
}

/* Sums of positions [first, end) of the slice, which are of group g, from all of their rows. */
static stm_status compare(slice *s, const block_room *room, size_t g, size_t first, size_t end)
{
    const stm_model *model = s->engine->model;
    const stm_backend *b = model->backend;
    const size_t row_0 = s->first_rows[first], n = end - first, n_rows = s->first_rows[end] - row_0;
    for (size_t t = 0; t <= n; t++)
        room->host_first_rows[t] = (int32_t)(s->first_rows[first + t] - row_0);
    STM_TRY(b->write(model->stream, room->x, s->x + row_0 * row_bytes(model), n_rows * row_bytes(model)));
    STM_TRY(b->write(model->stream, room->lse, s->lse + row_0, n_rows * sizeof(double)));
    STM_TRY(b->write(model->stream, room->first_rows, room->host_first_rows, (n + 1) * sizeof(int32_t)));
    const stm_head_positions positions = {.n_rows = n_rows,
                                          .n_positions = n,
                                          .n_members = s->groups.groups[g].n_responses,
                                          .inverse_temperature = 1.0 / s->groups.groups[g].temperature,
                                          .x = room->x,
                                          .lse = room->lse,
                                          .first_rows = room->first_rows,
                                          .sums = room->sums};
    STM_TRY(stm_head_spread(model, &positions, room->scratch));
    return b->read(model->stream, s->sums + first, room->sums, n * sizeof(double));
}

/* As many positions of the group from `first` on as the room has rows for. */
static size_t end_of_block(const slice *s, const block_room *room, size_t g, size_t first)
{
    const size_t last = s->places[g].first_position + s->places[g].n_positions;
    size_t end = first + 1;
    while (end < last && s->first_rows[end + 1] - s->first_rows[first] <= room->most_rows)
        end++;
    return end;
}

/* Blocks of positions go to the ranks of the team in turn, with the rows that the others have of them. What fails on
 * one rank is known to all when the slice is done. */
static void compare_members(slice *s)
{
    const stm_grid *grid = s->grid;
    const stm_model *model = s->engine->model;
    stm_arena *device = s->engine->banks[0].device, *host = s->engine->banks[0].host;
    const stm_mark device_mark = stm_arena_mark(device), host_mark = stm_arena_mark(host);
    block_room room;
    size_t n_blocks = 0;
    const stm_status taken = take_room(s, &room);
    s->status = s->status == STM_OK ? taken : s->status;
    for (size_t g = 0; g < s->groups.n_groups; g++) {
        const size_t first_position = s->places[g].first_position, last = first_position + s->places[g].n_positions;
        if (s->first_rows[first_position] == s->first_rows[last])
            continue; /* another team's */
        for (size_t first = first_position, end; first < last; first = end) {
            const int owner = (int)(n_blocks++ % (size_t)grid->team_size);
            const size_t row = s->first_rows[first];
            end = end_of_block(s, &room, g, first);
            const size_t n = s->first_rows[end] - row;
            stm_reduce_to(grid->team_comm, owner, s->x + row * row_bytes(model), n * model->config.hidden_size,
                          model->backend->real_bytes);
            stm_reduce_to(grid->team_comm, owner, s->lse + row, n, sizeof(double));
            if (owner == grid->team_rank && s->status == STM_OK)
                s->status = compare(s, &room, g, first, end);
        }
    }
    stm_arena_reset(device, device_mark);
    stm_arena_reset(host, host_mark);
}

/* divergence [positions of the slice]: D, the same on every rank. */
static stm_status run_slice(slice *s)
{
    STM_TRY(stm_agree(s->grid, lay_out(s)));
    STM_TRY(stm_agree(s->grid, stm_engine_score(s->engine, &s->groups, keep, s)));
    compare_members(s);
    STM_TRY(stm_agree(s->grid, s->status));
    stm_all_reduce(s->grid->world, s->sums, s->n_positions, sizeof(double)); /* each was formed on one rank */
    for (size_t g = 0; g < s->groups.n_groups; g++)
        for (size_t t = 0; t < s->places[g].n_positions; t++)
            s->sums[s->places[g].first_position + t] /= (double)s->groups.groups[g].n_responses;
    return STM_OK;
}

void stm_weigh_positions(double alpha, size_t n, const double *divergence, double *weights)
{
    double least = INFINITY, most = -INFINITY;
    for (size_t t = 0; t < n; t++) {
        least = fmin(least, divergence[t]);
        most = fmax(most, divergence[t]);
    }
    for (size_t t = 0; t < n; t++)
        weights[t] = 1.0 + (alpha - 1.0) * (divergence[t] - least) / (most - least + 1e-8);
}

/* The next groups of a list, from `first` on: as many as keep a rank's hidden states small, but one for each team. */
static size_t slice_groups(const stm_engine *engine, const stm_batch *list, size_t first)
{
    const stm_grid *grid = engine->grid;
    const double bytes = (double)row_bytes(engine->model) / (double)grid->stage_size;
    double sum = 0;
    size_t n = 0;
    for (; first + n < list->n_groups; n++) {
        for (size_t i = 0; i < list->groups[first + n].n_responses; i++)
            sum += bytes * (double)list->groups[first + n].responses[i].n;
        if (sum > (double)engine->settings.states_bytes && n >= (size_t)grid->n_teams)
            break;
    }
    return n;
}

/* The groups that are not skipped, and where in the whole batch their tokens begin: first_tokens [n_groups]. */
static stm_status list_groups(const stm_batch *batch, const uint8_t *skip, stm_batch *list, size_t **first_tokens)
{
    size_t at = 0;
    STM_TRY(stm_alloc(batch->n_groups, sizeof *list->groups, &list->groups));
    STM_TRY(stm_alloc(batch->n_groups, sizeof **first_tokens, first_tokens));
    for (size_t g = 0; g < batch->n_groups; g++) {
        if (!(skip && skip[g])) {
            (*first_tokens)[list->n_groups] = at;
            list->groups[list->n_groups++] = batch->groups[g];
        }
        for (size_t i = 0; i < batch->groups[g].n_responses; i++)
            at += batch->groups[g].responses[i].n;
    }
    return STM_OK;
}

static size_t count_tokens(const stm_batch *batch)
{
    size_t n = 0;
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++)
            n += batch->groups[g].responses[i].n;
    return n;
}

/* The weight of a position goes to the token that each member has there. */
static void hand_out(const slice *s, double alpha, const size_t *first_tokens, double *weights)
{
    for (size_t g = 0; g < s->groups.n_groups; g++) {
        const stm_group *group = &s->groups.groups[g];
        double *of_position = s->sums + s->places[g].first_position, *out = weights + first_tokens[g];
        stm_weigh_positions(alpha, s->places[g].n_positions, of_position, of_position);
        for (size_t i = 0; i < group->n_responses; out += group->responses[i++].n)
            if (group->responses[i].n > 0)
                memcpy(out, of_position, group->responses[i].n * sizeof *out);
    }
}

stm_status stm_token_weights(stm_engine *engine, const stm_grid *grid, const stm_batch *batch, const uint8_t *skip,
                             double alpha, double *weights)
{
    stm_batch list = {0};
    size_t *first_tokens = NULL;
    for (size_t k = 0, n = count_tokens(batch); k < n; k++)
        weights[k] = 1;
    stm_status status = stm_agree(grid, list_groups(batch, skip, &list, &first_tokens));
    for (size_t first = 0, n; status == STM_OK && first < list.n_groups; first += n) {
        n = slice_groups(engine, &list, first);
        slice s = {.engine = engine, .grid = grid, .groups = {.n_groups = n, .groups = list.groups + first}};
        status = run_slice(&s);
        if (status == STM_OK)
            hand_out(&s, alpha, first_tokens + first, weights);
        clear(&s);
    }
    free(list.groups);
    free(first_tokens);
    return status;
}

stm_status stm_token_weights_expect(stm_engine *engine, const stm_grid *grid, const stm_batch *batch)
{
    for (size_t first = 0, n; first < batch->n_groups; first += n) {
        n = slice_groups(engine, batch, first);
        const stm_batch groups = {.n_groups = n, .groups = batch->groups + first};
        const size_t tokens = count_tokens(&groups) / (size_t)grid->stage_size + 1;
        STM_TRY(stm_engine_expect_beside(engine, &groups, STM_PASS_SCORE, tokens * row_bytes(engine->model)));
    }
    return STM_OK;
}
