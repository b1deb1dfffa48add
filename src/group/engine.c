#include "group/engine_state.h"

#include <stdlib.h>
#include <string.h>

#include "base/limit.h"
#include "group/device_reach.h"
#include "group/walk.h"
#include "model/stages.h"
#include "mpi/rounds.h"

/* What a process takes after MPI_Init
 * beside arrays of numbers, as measured: buffers of MPI, BLAS and HDF5, the tokenizer, tables of the batch. */
enum { PROCESS_BYTES = 12 << 20, STATES_BYTES = 64 << 20 };

/* Memory */

/* What a leaf chunk of so many rows needs at once. */
static size_t chunk_bytes(const stm_model *model, size_t rows)
{
    return stm_chunk_kv_bytes(model, rows, true) + stm_chunk_kept_bytes(model, rows) +
           stm_chunk_scratch_bytes(model, rows, true);
}

size_t stm_engine_least_bytes(const stm_model *model)
{
    return chunk_bytes(model, STM_SMALLEST_CHUNK_ROWS);
}

size_t stm_engine_process_bytes(const stm_model *m)
{
    const size_t tables = m->config.max_positions * m->config.head_dim * m->backend->real_bytes; /* cosine and sine */
    const size_t n_couriers = stm_model_is_first(m) && stm_model_is_last(m) ? 1 : 2; /* of the team, of the column */
    return PROCESS_BYTES + tables + n_couriers * stm_device_reach_courier_bytes(m->backend);
}

/* Ranks of this node whose memory is this one's: all of them, or those on the same device. */
static int ranks_beside(MPI_Comm comm, const stm_device *device)
{
    MPI_Comm node;
    int n, n_beside = 0;
    char(*ids)[sizeof device->id];
    STM_MPI(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node));
    STM_MPI(MPI_Comm_size(node, &n));
    if (stm_alloc((size_t)n, sizeof *ids, &ids) != STM_OK)
        stm_abort_in_team(comm);
    STM_MPI(MPI_Allgather(device->id, sizeof *ids, MPI_CHAR, ids, sizeof *ids, MPI_CHAR, node));
    for (int i = 0; i < n; i++)
        n_beside += strcmp(ids[i], device->id) == 0;
    free(ids);
    STM_MPI(MPI_Comm_free(&node));
    return n_beside;
}

double stm_engine_limit_bytes(const stm_options *options, MPI_Comm comm, const stm_device *device)
{
    static const double AUTO_SHARE = 0.9;
    const int n_ranks = ranks_beside(comm, device);
    double limit = options->memory.limit_bytes != STM_AUTO
                       ? (double)options->memory.limit_bytes
                       : AUTO_SHARE * (double)(device->bytes > 0 ? device->bytes : stm_memory_bytes()) / n_ranks;
    stm_all_reduce_min(comm, &limit, 1);
    return limit;
}

/* The largest chunk, up to the backend's, of which a leaf and an open ancestor fit. Stages hand chunks on, so they need
 * as many more as there are stages, but none below a host's. */
size_t stm_engine_chunk_rows(const stm_options *options, const stm_model *model, int n_stages, size_t room_bytes)
{
    size_t rows = model->backend->chunk_rows;
    for (int n = n_stages; n > 1 && rows > STM_ROWS_OF_HOST; n = (n + 1) / 2)
        rows /= 2;
    if (options->memory.chunk_tokens != STM_AUTO)
        return (size_t)options->memory.chunk_tokens;
    while (rows > STM_SMALLEST_CHUNK_ROWS && 2 * chunk_bytes(model, rows) > room_bytes)
        rows /= 2;
    return rows;
}

static stm_status choose_memory(stm_engine *engine, const stm_options *options)
{
    stm_engine_settings *s = &engine->settings;
    stm_device device;
    engine->model->backend->describe(engine->model->stream, &device);
    const double limit = stm_engine_limit_bytes(options, engine->grid->world, &device);
    double fixed = (double)engine->static_bytes;        /* optimizer shards differ by an element or so */
    stm_all_reduce_max(engine->grid->world, &fixed, 1); /* so that every rank cuts alike */
    s->limit_bytes = (size_t)limit;
    engine->static_bytes = (size_t)fixed;
    const size_t room = s->limit_bytes > engine->static_bytes ? s->limit_bytes - engine->static_bytes : 0;
    double rows = (double)stm_engine_chunk_rows(options, engine->model, engine->grid->n_stages, room);
    stm_all_reduce_min(engine->grid->world, &rows, 1); /* stages differ in layers, but must cut alike */
    s->chunk_rows = (size_t)rows;
    s->slow_rows = STM_MIN(s->chunk_rows, engine->model->backend->chunk_rows / 8);
    const size_t least = engine->static_bytes + stm_engine_least_bytes(engine->model);
    if (s->limit_bytes < least)
        return stm_fail(STM_ERR_INPUT,
                        "memory.limit: found %.1f MiB a rank, expected at least %zu MiB for this model; less is needed "
                        "with more stages (parallel.pipeline) or parallel.shard=gradient",
                        limit / (1 << 20), (least >> 20) + 1);
    return STM_OK;
}

static stm_status commit(void *context, void *range, size_t first, size_t end)
{
    const stm_model *model = context;
    return model->backend->apart->commit(model->stream, range, first, end);
}

/* A device's own memory is addresses until it is used, as the host's is. */
static stm_status create_bank(const stm_model *model, stm_bank *bank)
{
    STM_TRY(stm_arena_create(&bank->host));
    stm_device device;
    model->backend->describe(model->stream, &device);
    if (device.bytes == 0)
        return stm_arena_create(&bank->device);
    bank->range_bytes = device.bytes;
    STM_TRY(model->backend->reserve(model->stream, bank->range_bytes, NULL, 0, &bank->range));
    return stm_arena_create_in(bank->range, bank->range_bytes, commit, (void *)(uintptr_t)model, &bank->device);
}

static void destroy_bank(const stm_model *model, stm_bank *bank)
{
    stm_arena_destroy(bank->device);
    stm_arena_destroy(bank->host);
    if (bank->range)
        model->backend->unreserve(model->stream, bank->range, bank->range_bytes);
}

static size_t bank_peak_bytes(const stm_bank *bank)
{
    return bank->device ? stm_arena_peak_bytes(bank->device) + stm_arena_peak_bytes(bank->host) : 0;
}

/* An arena is only addresses until it is used. */
static stm_status need_banks(stm_engine *engine, size_t n)
{
    STM_TRY(stm_reserve(&engine->banks, &engine->bank_capacity, n, sizeof *engine->banks));
    while (engine->n_banks < n) {
        stm_bank *bank = &engine->banks[engine->n_banks++];
        *bank = (stm_bank){NULL, NULL, NULL, 0};
        STM_TRY(create_bank(engine->model, bank));
    }
    return n > 1 && !engine->scratch.device ? create_bank(engine->model, &engine->scratch) : STM_OK;
}

/* Device memory is no matter of windows. */
static stm_status create_window(stm_engine *engine, const stm_options *options)
{
    if (options->parallel.shared_kv == STM_SHARED_KV_OFF || engine->model->backend->apart)
        return STM_OK;
    return stm_window_create(engine->grid, &engine->window);
}

/* Who is alone in its team has nobody to send to. */
static stm_status create_courier(stm_engine *engine)
{
    return stm_courier_create(engine->grid->team_size > 1 ? engine->grid->reach : NULL, 0, &engine->courier);
}

stm_status stm_engine_create(const stm_model *model, const stm_grid *grid, const stm_options *options,
                             size_t static_bytes, stm_engine **out)
{
    stm_engine *engine;
    stm_status status;
    STM_TRY(stm_alloc(1, sizeof *engine, &engine));
    *engine = (stm_engine){.model = model, .grid = grid, .static_bytes = static_bytes};
    engine->settings = (stm_engine_settings){.forest = stm_engine_forest_options(options),
                                             .recompute = options->memory.recompute,
                                             .states_bytes = STATES_BYTES,
                                             .placement = {.in_flight = (size_t)options->parallel.prefixes_in_flight,
                                                           .context = options->parallel.context,
                                                           .prefix = options->parallel.prefix,
                                                           .activation_bytes = model->backend->activation_bytes,
                                                           .real_bytes = model->backend->real_bytes}};
    STM_GOTO_OUT(choose_memory(engine, options));
    STM_GOTO_OUT(stm_agree_on(grid->team_comm, need_banks(engine, 1)));
    STM_GOTO_OUT(stm_agree_on(grid->team_comm, create_courier(engine)));
    STM_GOTO_OUT(create_window(engine, options));
    engine->settings.shares_kv = engine->window != NULL;
    *out = engine;
    return STM_OK;
out:
    stm_engine_destroy(engine);
    return status;
}

void stm_engine_destroy(stm_engine *engine)
{
    if (!engine)
        return;
    stm_forest_clear(&engine->prompts);
    stm_footprint_clear(&engine->planned);
    for (size_t i = 0; i < engine->n_banks; i++)
        destroy_bank(engine->model, &engine->banks[i]);
    destroy_bank(engine->model, &engine->scratch);
    stm_window_destroy(engine->window);
    stm_courier_destroy(engine->courier);
    free(engine->banks);
    free(engine);
}

stm_engine_settings *stm_engine_settings_of(stm_engine *engine)
{
    return &engine->settings;
}

const stm_pass_counts *stm_engine_counts(const stm_engine *engine)
{
    return &engine->counts;
}

size_t stm_engine_peak_bytes(const stm_engine *engine)
{
    size_t bytes = engine->static_bytes + stm_window_bytes(engine->window) + bank_peak_bytes(&engine->scratch);
    for (size_t i = 0; i < engine->n_banks; i++)
        bytes += bank_peak_bytes(&engine->banks[i]);
    return bytes;
}

size_t stm_engine_limit(const stm_engine *engine)
{
    return engine->settings.limit_bytes;
}

const stm_model *stm_engine_model(const stm_engine *engine)
{
    return engine->model;
}

size_t stm_engine_static_bytes(const stm_engine *engine)
{
    return engine->static_bytes;
}

/* Passes */

/* Plans the pass. Where there is no memory for the node's window, again without: the same on all ranks of the team. */
static stm_status plan(stm_engine *engine, const stm_pass *pass, const stm_placement *placement,
                       stm_schedule_options *options, stm_schedule *schedule)
{
    options->nodes = engine->window ? engine->grid->team_nodes : NULL;
    STM_TRY(stm_schedule_create(pass->forest, placement, engine->model, options, schedule));
    if (!engine->window)
        return STM_OK;
    if (engine->window_is_read)
        stm_window_barrier(engine->window);
    engine->window_is_read = pass->kind == STM_PASS_PREFILL;
    if (stm_window_reserve(engine->window, schedule->window_bytes))
        return STM_OK;
    if (engine->settings.log)
        engine->settings.log("no shared memory (/dev/shm) for the keys and values of prompts: each rank keeps its own");
    stm_window_destroy(engine->window);
    engine->window = NULL;
    engine->settings.shares_kv = false;
    stm_schedule_clear(schedule);
    return plan(engine, pass, placement, options, schedule);
}

stm_schedule_options stm_engine_schedule_options(const stm_engine *engine, stm_pass_kind kind)
{
    const stm_grid *grid = engine->grid;
    const stm_engine_settings *s = &engine->settings;
    return (stm_schedule_options){
        .kind = kind,
        .team_size = grid->team_size,
        .team_rank = grid->team_rank,
        .n_stages = (size_t)grid->n_stages,
        .stage = (size_t)grid->stage,
        .one_clock = kind == STM_PASS_GRADIENT && s->rounds,
        .chunk_rows = s->chunk_rows,
        .recompute = s->recompute,
        .room_bytes = s->limit_bytes > engine->static_bytes ? s->limit_bytes - engine->static_bytes : 0};
}

/* Plans and runs the pass, whose kind, forest and purpose are set. */
static stm_status run_placed(stm_engine *engine, stm_pass *pass, const stm_placement *placement)
{
    const stm_grid *grid = engine->grid;
    const stm_engine_settings *s = &engine->settings;
    stm_schedule_options options = stm_engine_schedule_options(engine, pass->kind);
    stm_schedule schedule;
    stm_status status;
    STM_GOTO_OUT(plan(engine, pass, placement, &options, &schedule));
    STM_GOTO_OUT(need_banks(engine, schedule.n_banks));
    const stm_bank *room = schedule.n_banks > 1 ? &engine->scratch : &engine->banks[0];
    pass->model = engine->model;
    pass->device = room->device;
    pass->host = room->host;
    pass->window = engine->window;
    pass->courier = engine->courier;
    pass->profile = s->profile;
    pass->reduction = pass->kind == STM_PASS_GRADIENT ? s->reduction : NULL;
    pass->rounds = pass->kind == STM_PASS_GRADIENT ? s->rounds : NULL;
    STM_GOTO_OUT(stm_pass_begin(pass));
    STM_GOTO_OUT(stm_walk_run(pass, &schedule, engine->banks, grid, s->timers));
out:
    stm_schedule_clear(&schedule);
    return status;
}

static void reset_banks(stm_engine *engine)
{
    for (size_t i = 0; i < engine->n_banks; i++)
        stm_bank_reset(&engine->banks[i], (stm_bank_mark){0});
    if (engine->scratch.device)
        stm_bank_reset(&engine->scratch, (stm_bank_mark){0});
}

/* Runs the pass over the team's sequences; takes the forest from them. */
static stm_status run_pass(stm_engine *engine, stm_pass *pass, const stm_batch *batch, stm_sequence_list *sequences)
{
    stm_forest forest = {0};
    stm_placement placement = {0};
    const stm_forest_options options = stm_engine_forest_options_now(engine);
    stm_status status;
    STM_GOTO_OUT(stm_engine_keep_own(engine, batch, sequences));
    STM_GOTO_OUT(stm_forest_create(batch, sequences->items, sequences->n, &options, &forest));
    STM_GOTO_OUT(stm_placement_create(&forest, &engine->model->config, engine->grid->team_size,
                                      &engine->settings.placement, &placement));
    pass->forest = &forest;
    STM_GOTO_OUT(run_placed(engine, pass, &placement));
    if (pass->counts.n_not_finite > 0)
        status = stm_fail(STM_ERR_NUMERIC, "group %zu, response %zu: %.0f log-probs are not finite numbers",
                          pass->not_finite_group, pass->not_finite_response, pass->counts.n_not_finite);
out:
    engine->counts = pass->counts;
    reset_banks(engine);
    stm_placement_clear(&placement);
    stm_forest_clear(&forest);
    return status;
}

/* After a failure that the others know nothing of. */
static void abort_with_others(const stm_engine *engine)
{
    stm_abort_in_team(engine->grid->team_comm);
    stm_abort_in_team(engine->grid->column_comm);
}

static stm_status of_pass(stm_status status)
{
    return stm_fail_memory_of(status, "K, V and activations",
                              "a smaller memory.limit or memory.chunk_tokens, or memory.recompute=always,");
}

static stm_status run(stm_engine *engine, const stm_batch *batch, const uint8_t *skip, stm_pass *pass)
{
    stm_sequence_list sequences;
    stm_status status = stm_engine_list_sequences(batch, pass->kind == STM_PASS_GRADIENT, skip, &sequences);
    if (status == STM_OK)
        status = of_pass(run_pass(engine, pass, batch, &sequences));
    free(sequences.items);
    if (status != STM_OK && status != STM_ERR_NUMERIC)
        abort_with_others(engine);
    if (pass->kind == STM_PASS_GRADIENT && engine->settings.rounds)
        stm_rounds_settle(engine->settings.rounds);
    return status;
}

stm_status stm_engine_score(stm_engine *engine, const stm_batch *batch,
                            void (*visit)(void *context, const stm_visit *visit), void *context)
{
    stm_pass pass = {.kind = STM_PASS_SCORE, .visit = visit, .context = context};
    return run(engine, batch, NULL, &pass);
}

/* rank_of [n_segments]: who computes it; -1: each for itself, and no response runs through it. */
static void find_ranks(const stm_forest *forest, const stm_placement *placement, int *rank_of)
{
    for (size_t i = 0; i < placement->n_shared; i++)
        for (size_t k = 0; k < placement->shared[i].n; k++)
            rank_of[placement->segments[placement->shared[i].first + k]] =
                placement->shared[i].everywhere ? -1 : placement->shared[i].owner;
    for (size_t i = 0; i < placement->n_units; i++)
        for (size_t s = placement->units[i].segment; s < forest->segments[placement->units[i].segment].last; s++)
            rank_of[s] = placement->units[i].rank;
}

static stm_status look_for_cuts(const stm_forest *forest, const stm_placement *placement, bool *whole)
{
    int *rank_of, *of_sequence;
    STM_TRY(stm_alloc(forest->n_segments + forest->n_sequences, sizeof *rank_of, &rank_of));
    of_sequence = rank_of + forest->n_segments;
    find_ranks(forest, placement, rank_of);
    for (size_t i = 0; i < forest->n_sequences; i++)
        of_sequence[i] = rank_of[forest->ends[i]];
    *whole = true;
    for (size_t s = 0; s < forest->n_segments; s++)
        for (size_t u = 0; u < forest->segments[s].n_uses; u++)
            *whole = *whole && rank_of[s] == of_sequence[forest->uses[forest->segments[s].first_use + u].sequence];
    free(rank_of);
    return STM_OK;
}

stm_status stm_engine_keeps_responses_whole(stm_engine *engine, const stm_batch *batch, const uint8_t *skip,
                                            bool *whole)
{
    stm_sequence_list sequences;
    stm_forest forest = {0};
    stm_placement placement = {0};
    const stm_forest_options options = stm_engine_forest_options_now(engine);
    stm_status status;
    STM_GOTO_OUT(stm_engine_list_sequences(batch, true, skip, &sequences));
    STM_GOTO_OUT(stm_engine_keep_own(engine, batch, &sequences));
    STM_GOTO_OUT(stm_forest_create(batch, sequences.items, sequences.n, &options, &forest));
    STM_GOTO_OUT(stm_placement_create(&forest, &engine->model->config, engine->grid->team_size,
                                      &engine->settings.placement, &placement));
    STM_GOTO_OUT(look_for_cuts(&forest, &placement, whole));
out:
    stm_placement_clear(&placement);
    stm_forest_clear(&forest);
    free(sequences.items);
    return status;
}

stm_status stm_engine_gradient(stm_engine *engine, const stm_batch *batch, const uint8_t *skip,
                               void (*preview)(void *context, const stm_visit *visit),
                               void (*visit)(void *context, const stm_visit *visit), void *context, void *gradient)
{
    stm_pass pass = {
        .kind = STM_PASS_GRADIENT, .preview = preview, .visit = visit, .context = context, .gradient = gradient};
    return run(engine, batch, skip, &pass);
}

stm_status stm_engine_prefill(stm_engine *engine, const stm_batch *batch, const size_t *groups, size_t n,
                              const stm_pass **out)
{
    stm_sequence_list sequences;
    stm_placement placement = {0};
    stm_forest_options options = stm_engine_forest_options_now(engine);
    options.mode = STM_FORWARD_TREE;
    stm_status status;
    STM_GOTO_OUT(stm_engine_list_prompts(batch, groups, n, &sequences));
    STM_GOTO_OUT(stm_forest_create(batch, sequences.items, sequences.n, &options, &engine->prompts));
    STM_GOTO_OUT(stm_placement_create_shared(&engine->prompts, &engine->model->config, engine->grid->team_size,
                                             &engine->settings.placement, &placement));
    engine->pass = (stm_pass){.kind = STM_PASS_PREFILL, .forest = &engine->prompts};
    STM_GOTO_OUT(of_pass(run_placed(engine, &engine->pass, &placement)));
    *out = &engine->pass;
out:
    if (status != STM_OK)
        abort_with_others(engine);
    stm_placement_clear(&placement);
    free(sequences.items);
    return status;
}

void stm_engine_release(stm_engine *engine)
{
    reset_banks(engine);
    stm_forest_clear(&engine->prompts);
}
