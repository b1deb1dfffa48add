#include <stdlib.h>

#include "group/engine_state.h"

enum { TEAM_PIECE_TOKENS = 512 }; /* enough rows for products at their full rate */

/* Tokens of a response that must be computed: up to the last with loss, or all of them. */
static size_t wanted_tokens(const stm_response *response, bool loss_only)
{
    size_t n = response->n;
    while (loss_only && n > 0 && !response->mask[n - 1])
        n--;
    return n;
}

double stm_engine_rows_repeated(const stm_batch *batch, bool loss_only)
{
    double rows = 0;
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++) {
            const size_t n = wanted_tokens(&batch->groups[g].responses[i], loss_only);
            rows += n > 0 ? (double)(batch->groups[g].n_prompt + n - 1) : 0;
        }
    return rows;
}

stm_status stm_engine_list_sequences(const stm_batch *batch, bool loss_only, const uint8_t *skip,
                                     stm_sequence_list *out)
{
    size_t most = 0;
    for (size_t g = 0; g < batch->n_groups; g++)
        most += batch->groups[g].n_responses;
    *out = (stm_sequence_list){0};
    STM_TRY(stm_alloc(most, sizeof *out->items, &out->items));
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++) {
            const size_t n = wanted_tokens(&batch->groups[g].responses[i], loss_only);
            if (n > 0 && !(skip && skip[g]))
                out->items[out->n++] = (stm_sequence){g, i, batch->groups[g].n_prompt + n};
        }
    return STM_OK;
}

stm_status stm_engine_list_prompts(const stm_batch *batch, const size_t *groups, size_t n, stm_sequence_list *out)
{
    *out = (stm_sequence_list){0};
    STM_TRY(stm_alloc(n, sizeof *out->items, &out->items));
    for (size_t i = 0; i < n; i++)
        out->items[out->n++] = (stm_sequence){groups[i], STM_NONE, batch->groups[groups[i]].n_prompt};
    return STM_OK;
}

stm_forest_options stm_engine_forest_options(const stm_options *options)
{
    return (stm_forest_options){.mode = options->forward,
                                .min_shared_tokens = (size_t)options->tree.min_shared_tokens,
                                .across_groups = options->tree.across_groups,
                                .max_segment_tokens = (size_t)options->memory.max_segment_tokens};
}

/* Segments no longer than a chunk; in a team shorter, so that one prompt's pieces keep several ranks at work. */
size_t stm_engine_segment_tokens(size_t as_asked, size_t chunk_rows, int team_size)
{
    const size_t most = team_size > 1 ? STM_MIN(chunk_rows, (size_t)TEAM_PIECE_TOKENS) : chunk_rows;
    return as_asked == 0 ? most : STM_MIN(as_asked, most);
}

stm_forest_options stm_engine_forest_options_now(const stm_engine *engine)
{
    stm_forest_options options = engine->settings.forest;
    options.max_segment_tokens =
        stm_engine_segment_tokens(options.max_segment_tokens, engine->settings.chunk_rows, engine->grid->team_size);
    return options;
}

static stm_status assign_teams(const stm_engine *engine, const stm_batch *batch, const stm_sequence_list *sequences,
                               int *team_of)
{
    const stm_grid *grid = engine->grid;
    int *sizes;
    STM_TRY(stm_alloc((size_t)grid->n_teams, sizeof *sizes, &sizes));
    for (int t = 0; t < grid->n_teams; t++)
        sizes[t] = grid->team_first[t + 1] - grid->team_first[t];
    const stm_forest_options options = stm_engine_forest_options_now(engine);
    const stm_status status = stm_teams_assign(batch, sequences->items, sequences->n, &options, &engine->model->config,
                                               &engine->settings.placement.rates, grid->n_teams, sizes, team_of);
    free(sizes);
    return status;
}

stm_status stm_engine_keep_own(const stm_engine *engine, const stm_batch *batch, stm_sequence_list *sequences)
{
    int *team_of;
    STM_TRY(stm_alloc(batch->n_groups, sizeof *team_of, &team_of));
    const stm_status status = assign_teams(engine, batch, sequences, team_of);
    size_t n = 0;
    for (size_t i = 0; status == STM_OK && i < sequences->n; i++)
        if (team_of[sequences->items[i].group] == engine->grid->team)
            sequences->items[n++] = sequences->items[i];
    sequences->n = n;
    free(team_of);
    return status;
}

stm_status stm_engine_assign_responses(const stm_engine *engine, const stm_batch *batch, int *team_of)
{
    stm_sequence_list sequences;
    stm_status status = stm_engine_list_sequences(batch, false, NULL, &sequences);
    if (status == STM_OK)
        status = assign_teams(engine, batch, &sequences, team_of);
    free(sequences.items);
    return status;
}

/* 0 .. n_groups - 1. */
static stm_status list_groups(const stm_batch *batch, size_t **all)
{
    STM_TRY(stm_alloc(batch->n_groups, sizeof **all, all));
    for (size_t g = 0; g < batch->n_groups; g++)
        (*all)[g] = g;
    return STM_OK;
}

stm_status stm_engine_assign_prompts(stm_engine *engine, const stm_batch *batch, int *team_of)
{
    stm_sequence_list sequences;
    size_t *all;
    stm_status status;
    STM_TRY(list_groups(batch, &all));
    status = stm_engine_list_prompts(batch, all, batch->n_groups, &sequences);
    if (status == STM_OK)
        status = assign_teams(engine, batch, &sequences, team_of);
    free(sequences.items);
    free(all);
    return status;
}

static stm_status flops_of(const stm_engine *engine, const stm_batch *batch, const stm_sequence_list *sequences,
                           stm_forest_options options, stm_flops *flops)
{
    stm_forest forest;
    const stm_status status = stm_forest_create(batch, sequences->items, sequences->n, &options, &forest);
    if (status == STM_OK)
        stm_flops_of_forest(&engine->model->config, &forest, flops);
    stm_forest_clear(&forest);
    return status;
}

stm_status stm_engine_flops(const stm_engine *engine, const stm_batch *batch, stm_flops *flops)
{
    stm_sequence_list sequences;
    stm_status status = stm_engine_list_sequences(batch, true, NULL, &sequences);
    if (status == STM_OK)
        status = flops_of(engine, batch, &sequences, stm_engine_forest_options_now(engine), flops);
    free(sequences.items);
    return status;
}

stm_status stm_engine_sampling_flops(const stm_engine *engine, const stm_batch *batch, size_t group_size, size_t n_new,
                                     stm_flops *flops)
{
    stm_sequence_list sequences = {0};
    size_t *all;
    stm_forest_options options = stm_engine_forest_options_now(engine);
    options.mode = STM_FORWARD_TREE;
    STM_TRY(list_groups(batch, &all));
    stm_status status = stm_engine_list_prompts(batch, all, batch->n_groups, &sequences);
    if (status == STM_OK)
        status = flops_of(engine, batch, &sequences, options, flops);
    for (size_t g = 0; status == STM_OK && g < batch->n_groups; g++)
        for (size_t i = 0; i < group_size; i++)
            stm_flops_add_sampling(&engine->model->config, batch->groups[g].n_prompt, n_new, flops);
    free(sequences.items);
    free(all);
    return status;
}
