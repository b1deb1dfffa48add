#include "rollout/rollout.h"

#include <stdlib.h>
#include <string.h>

#include "rollout/decode.h"

void stm_sampling_init(const stm_options *options, const stm_model *model, const stm_tokenizer *tokenizer,
                       stm_random_use use, uint64_t step, stm_sampling *sampling)
{
    *sampling = (stm_sampling){.use = use,
                               .seed = (uint64_t)options->run.seed,
                               .step = step,
                               .group_size = (size_t)options->rollout.group_size,
                               .temperature = options->rollout.temperature,
                               .top_p = options->rollout.top_p,
                               .min_p = options->rollout.min_p,
                               .top_k = (size_t)options->rollout.top_k,
                               .max_new_tokens = (size_t)options->rollout.max_new_tokens,
                               .min_new_tokens = (size_t)options->rollout.min_new_tokens,
                               .slots = (size_t)options->rollout.slots,
                               .rounds_ahead = (size_t)options->rollout.rounds_ahead,
                               .stop = &options->rollout.stop,
                               .max_turns = *options->rollout.environment ? (size_t)options->rollout.max_turns : 1,
                               .max_appended = stm_sampling_longest(options) - (size_t)options->rollout.max_new_tokens,
                               .tokenizer = tokenizer};
    if (options->rollout.ignore_eos)
        return;
    for (; sampling->n_end < model->config.n_eos; sampling->n_end++)
        sampling->end[sampling->n_end] = model->config.eos[sampling->n_end];
    if (sampling->n_end == 0 && tokenizer && stm_tokenizer_eos(tokenizer) >= 0)
        sampling->end[sampling->n_end++] = stm_tokenizer_eos(tokenizer);
}

size_t stm_sampling_longest(const stm_options *options)
{
    const stm_numbers *budgets = &options->rollout.budgets;
    const size_t appended = *options->rollout.environment ? (size_t)options->rollout.max_environment_tokens : 0;
    const size_t thought =
        budgets->n > 0 ? (size_t)budgets->items[budgets->n - 1] + stm_sampling_closing_tokens(options) : 0;
    return (size_t)options->rollout.max_new_tokens + appended + thought;
}

size_t stm_sampling_closing_tokens(const stm_options *options)
{
    return strlen(options->rollout.closing) + 1; /* and a space that some tokenizers put before */
}

void stm_rollout_counts_add(stm_rollout_counts *to, const stm_rollout_counts *from)
{
    to->tokens += from->tokens;
    to->prompt_rows += from->prompt_rows;
    to->decode_rounds += from->decode_rounds;
}

/* Responses */

static stm_status create_response(size_t max_new_tokens, stm_response *response)
{
    *response = (stm_response){0};
    STM_TRY(stm_alloc(max_new_tokens, sizeof *response->ids, &response->ids));
    STM_TRY(stm_alloc(max_new_tokens, sizeof *response->mask, &response->mask));
    STM_TRY(stm_alloc(max_new_tokens, sizeof *response->old_logprobs, &response->old_logprobs));
    STM_TRY(stm_alloc(max_new_tokens, sizeof *response->kept_mass, &response->kept_mass));
    memset(response->mask, 1, max_new_tokens);
    return STM_OK;
}

/* Room for every response of the batch, on every rank. */
static stm_status create_responses(const stm_sampling *sampling, stm_batch *batch)
{
    for (size_t g = 0; g < batch->n_groups; g++) {
        stm_group *group = &batch->groups[g];
        STM_TRY(stm_alloc(sampling->group_size, sizeof *group->responses, &group->responses));
        group->temperature = sampling->temperature > 0 ? sampling->temperature : 1;
        for (; group->n_responses < sampling->group_size; group->n_responses++)
            STM_TRY(create_response(sampling->max_new_tokens, &group->responses[group->n_responses]));
    }
    return STM_OK;
}

/* Exchange: a rank sends what it sampled as records of doubles-aligned bytes. */
typedef struct {
    uint64_t group, rollout, n, finish;
} record_head;

static size_t record_bytes(size_t n)
{
    return sizeof(record_head) + n * (2 * sizeof(double) + sizeof(int32_t)) + (n % 2) * sizeof(int32_t);
}

static char *write_record(char *at, const stm_rollout_item *item)
{
    const stm_response *r = item->response;
    const record_head head = {item->group, item->rollout, r->n, (uint64_t)r->finish};
    memcpy(at, &head, sizeof head);
    double *numbers = (double *)(at + sizeof head);
    memcpy(numbers, r->old_logprobs, r->n * sizeof(double));
    memcpy(numbers + r->n, r->kept_mass, r->n * sizeof(double));
    memcpy(numbers + 2 * r->n, r->ids, r->n * sizeof(int32_t));
    return at + record_bytes(r->n);
}

static const char *read_record(const char *at, stm_batch *batch)
{
    record_head head;
    memcpy(&head, at, sizeof head);
    stm_response *r = &batch->groups[head.group].responses[head.rollout];
    const double *numbers = (const double *)(at + sizeof head);
    r->n = head.n;
    r->finish = (stm_finish)head.finish;
    memcpy(r->old_logprobs, numbers, r->n * sizeof(double));
    memcpy(r->kept_mass, numbers + r->n, r->n * sizeof(double));
    memcpy(r->ids, numbers + 2 * r->n, r->n * sizeof(int32_t));
    return at + record_bytes(r->n);
}

/* Whether this rank has all of what was sampled: of a column the last stage does. */
static bool is_mine(const stm_grid *grid, const stm_rollout_item *item)
{
    return item->is_here && grid->stage + 1 == grid->n_stages;
}

/* Everything to every rank. Collective over the world. */
static stm_status exchange(const stm_grid *grid, const stm_rollout_item *items, size_t n, stm_batch *batch)
{
    size_t bytes = 0, *starts = NULL;
    char *mine = NULL, *all = NULL;
    for (size_t i = 0; i < n; i++)
        bytes += is_mine(grid, &items[i]) ? record_bytes(items[i].response->n) : 0;
    stm_status status = stm_alloc(bytes, 1, &mine);
    if (status == STM_OK)
        status = stm_alloc((size_t)grid->n_ranks + 1, sizeof *starts, &starts);
    status = stm_agree(grid, status);
    if (status == STM_OK) {
        char *at = mine;
        for (size_t i = 0; i < n; i++)
            if (is_mine(grid, &items[i]))
                at = write_record(at, &items[i]);
        status = stm_gather_bytes(grid->world, mine, bytes, &all, starts);
    }
    if (status == STM_OK)
        for (const char *at = all; at < all + starts[grid->n_ranks];)
            at = read_record(at, batch);
    free(mine);
    free(all);
    free(starts);
    return status;
}

/* Work of this rank */

typedef struct {
    stm_engine *engine;
    const stm_model *model;
    const stm_grid *grid;
    const stm_sampling *sampling;
    stm_batch *batch;
    size_t *groups, n_groups; /* the team's */
    stm_rollout_item *items;  /* the team's, of all waves so far */
    size_t n_items;
    stm_rollout_counts counts;
} rollout_work;

/* Room for prompts and slots: what the engine may use, half for each; of two models each has half of that. */
static size_t room_bytes(const rollout_work *w)
{
    const size_t limit = stm_engine_settings_of(w->engine)->limit_bytes, fixed = stm_engine_static_bytes(w->engine);
    const size_t n_parts = w->sampling->mixture ? 4 : 2;
    return limit > fixed ? (limit - fixed) / n_parts : 0;
}

/* Stages of a column have different layers, and the same work. */
static size_t least_of_column(const rollout_work *w, size_t n)
{
    double least = (double)n;
    if (w->grid->n_stages > 1)
        stm_all_reduce_min(w->grid->column_comm, &least, 1);
    return (size_t)least;
}

static size_t slots_that_fit(const rollout_work *w)
{
    size_t n = w->sampling->slots;
    while (n > 1 && stm_decode_slot_bytes(w->model, n, w->sampling->max_new_tokens) > room_bytes(w))
        n /= 2;
    return least_of_column(w, n);
}

/* The groups from `first` on whose prompts fit into memory together; at least one. */
static size_t groups_that_fit(const rollout_work *w, size_t first)
{
    size_t rows = 0, n = 0;
    while (first + n < w->n_groups) {
        rows += w->batch->groups[w->groups[first + n]].n_prompt;
        if (n > 0 && stm_chunk_kv_bytes(w->model, rows, false) > room_bytes(w))
            break;
        n++;
    }
    return least_of_column(w, n);
}

static stm_origin origin_of(const stm_sampling *sampling, size_t group, size_t rollout)
{
    stm_origin origin = sampling->origins ? sampling->origins[group] : (stm_origin){.group = group};
    origin.rollout += rollout;
    return origin;
}

/* A wave's rollouts in the order of the forest, so that a share of them reads few prompts. */
static stm_rollout_item *list_items(rollout_work *w, const stm_forest *forest, size_t *n)
{
    const size_t size = w->sampling->group_size;
    stm_rollout_item *items = w->items + w->n_items;
    *n = forest->n_sequences * size;
    for (size_t i = 0; i < *n; i++) {
        const size_t group = forest->sequences[i / size].group;
        items[i] = (stm_rollout_item){.sequence = i / size,
                                      .group = group,
                                      .rollout = i % size,
                                      .origin = origin_of(w->sampling, group, i % size),
                                      .response = &w->batch->groups[group].responses[i % size]};
    }
    w->n_items += *n;
    return items;
}

static stm_status run_wave(rollout_work *w, size_t first, size_t n)
{
    const stm_mixture *mixture = w->sampling->mixture;
    const stm_pass *pass, *other = NULL;
    stm_status status = stm_engine_prefill(w->engine, w->batch, w->groups + first, n, &pass);
    if (status == STM_OK && mixture)
        status = stm_engine_prefill(mixture->engine, w->batch, w->groups + first, n, &other);
    if (status == STM_OK) {
        stm_decode_work work = {.pass = pass,
                                .other = other,
                                .batch = w->batch,
                                .sampling = w->sampling,
                                .grid = w->grid,
                                .timers = stm_engine_settings_of(w->engine)->timers,
                                .n_slots = slots_that_fit(w),
                                .rounds = &w->counts.decode_rounds};
        work.items = list_items(w, pass->forest, &work.n_items);
        if (w->grid->stage == 0)
            w->counts.prompt_rows += pass->counts.rows + (other ? other->counts.rows : 0);
        status = stm_decode(&work);
    }
    stm_engine_release(w->engine);
    if (mixture)
        stm_engine_release(mixture->engine);
    return status;
}

static stm_status find_groups(rollout_work *w)
{
    int *team_of;
    STM_TRY(stm_alloc(w->batch->n_groups, sizeof *w->groups, &w->groups));
    STM_TRY(stm_alloc(w->batch->n_groups * w->sampling->group_size, sizeof *w->items, &w->items));
    STM_TRY(stm_alloc(w->batch->n_groups, sizeof *team_of, &team_of));
    const stm_status status = stm_engine_assign_prompts(w->engine, w->batch, team_of);
    for (size_t g = 0; status == STM_OK && g < w->batch->n_groups; g++)
        if (team_of[g] == w->grid->team)
            w->groups[w->n_groups++] = g;
    free(team_of);
    return status;
}

/* Whether no more waves shall follow: the same on every rank that works on this one's prompts. */
static bool is_left(const rollout_work *w, size_t first)
{
    double leaves = stm_watch_leaves(w->sampling->watch);
    if (first == 0 || !w->sampling->watch)
        return false;
    if (w->grid->n_stages > 1)
        stm_all_reduce_max(w->grid->column_comm, &leaves, 1);
    stm_all_reduce_max(w->grid->team_comm, &leaves, 1);
    return leaves > 0;
}

/* What data can cause here (a log-prob that is no number) must not keep this rank from the next collective. */
static stm_status run_waves(rollout_work *w)
{
    stm_status worst = STM_OK;
    for (size_t first = 0, n; first < w->n_groups && !is_left(w, first); first += n) {
        n = groups_that_fit(w, first);
        const stm_status status = run_wave(w, first, n);
        if (status != STM_OK && status != STM_ERR_NUMERIC)
            return status;
        worst = worst == STM_OK ? status : worst;
    }
    return worst;
}

/* Collective over the world. */
static stm_status run_watched(rollout_work *w)
{
    stm_timers *timers = stm_engine_settings_of(w->engine)->timers;
    stm_watch_begin(w->sampling->watch, w->grid->world);
    stm_status status = run_waves(w);
    stm_timers_push(timers, STM_PHASE_WAIT);
    stm_watch_end(w->sampling->watch);
    status = stm_agree(w->grid, status);
    stm_timers_pop(timers, STM_PHASE_WAIT);
    return status;
}

stm_status stm_rollout_expect_turn(stm_engine *engine, const stm_model *model, const stm_grid *grid,
                                   const stm_sampling *sampling, stm_batch *batch)
{
    rollout_work w = {.engine = engine, .model = model, .grid = grid, .sampling = sampling, .batch = batch};
    stm_status status = stm_agree(grid, find_groups(&w));
    for (size_t first = 0, n; status == STM_OK && first < w.n_groups; first += n) {
        n = groups_that_fit(&w, first);
        const size_t size = (size_t)grid->team_size, own = (n * sampling->group_size + size - 1) / size;
        const size_t n_slots = STM_MIN(slots_that_fit(&w), own);
        const stm_slots_bytes slots = stm_decode_bytes(model, sampling, n_slots, (size_t)grid->n_stages, false);
        stm_slots_bytes other = {0, 0};
        if (sampling->mixture)
            other = stm_decode_bytes(model, sampling, n_slots, (size_t)grid->n_stages, true);
        status = stm_engine_expect_prompts(engine, batch, w.groups + first, n, slots, other);
    }
    free(w.groups);
    free(w.items);
    return status;
}

stm_status stm_rollout_turn(stm_engine *engine, const stm_model *model, const stm_grid *grid,
                            const stm_sampling *sampling, stm_batch *batch, stm_rollout_counts *counts)
{
    rollout_work w = {.engine = engine, .model = model, .grid = grid, .sampling = sampling, .batch = batch};
    stm_status status = create_responses(sampling, batch);
    if (status == STM_OK)
        status = find_groups(&w);
    if ((status = stm_agree(grid, status)) == STM_OK)
        status = run_watched(&w);
    if (status == STM_OK && !stm_watch_leaves(sampling->watch))
        status = exchange(grid, w.items, w.n_items, batch);
    if (counts) {
        w.counts.tokens = 0;
        for (size_t i = 0; i < w.n_items; i++)
            w.counts.tokens += is_mine(grid, &w.items[i]) ? (double)w.items[i].response->n : 0;
        double sums[2] = {w.counts.tokens, w.counts.prompt_rows};
        stm_all_reduce(grid->world, sums, 2, sizeof(double));
        stm_all_reduce_max(grid->world, &w.counts.decode_rounds, 1);
        *counts = (stm_rollout_counts){sums[0], sums[1], w.counts.decode_rounds};
    }
    free(w.groups);
    free(w.items);
    return status;
}

/* What was a group is several here. */
static bool share_across_groups(stm_engine *engine, bool shares)
{
    stm_forest_options *forest = &stm_engine_settings_of(engine)->forest;
    const bool before = forest->across_groups;
    forest->across_groups = shares;
    return before;
}

stm_status stm_rollout_further(stm_engine *engine, const stm_model *model, const stm_grid *grid,
                               const stm_sampling *sampling, stm_batch *batch, stm_rollout_counts *counts)
{
    const bool before = share_across_groups(engine, true);
    const stm_status status = stm_rollout_turn(engine, model, grid, sampling, batch, counts);
    (void)share_across_groups(engine, before);
    return status;
}

stm_status stm_rollout_expect_further(stm_engine *engine, const stm_model *model, const stm_grid *grid,
                                      const stm_sampling *sampling, stm_batch *batch)
{
    const bool before = share_across_groups(engine, true);
    const stm_status status = stm_rollout_expect_turn(engine, model, grid, sampling, batch);
    (void)share_across_groups(engine, before);
    return status;
}
