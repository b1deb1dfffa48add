#include <stdlib.h>

#include "group/engine_state.h"

static stm_status expect_placed(stm_engine *engine, const stm_forest *forest, const stm_placement *placement,
                                stm_pass_kind kind, size_t slots_bytes, size_t other_slots_bytes)
{
    stm_schedule_options options = stm_engine_schedule_options(engine, kind);
    stm_schedule schedule;
    stm_footprint footprint = {0}, other = {0};
    stm_status status;
    options.nodes = engine->settings.shares_kv ? engine->grid->team_nodes : NULL;
    STM_GOTO_OUT(stm_schedule_create(forest, placement, engine->model, &options, &schedule));
    STM_GOTO_OUT(stm_footprint_of(&schedule, engine->model, &options, &footprint));
    if (other_slots_bytes > 0) {
        STM_GOTO_OUT(stm_footprint_join(&footprint, &other));
        stm_footprint_add_slots(other_slots_bytes, &other);
        footprint.beside = stm_footprint_sum(&other);
    }
    stm_footprint_add_slots(slots_bytes, &footprint);
    STM_GOTO_OUT(stm_footprint_join(&footprint, &engine->planned));
out:
    stm_footprint_clear(&other);
    stm_footprint_clear(&footprint);
    stm_schedule_clear(&schedule);
    return status;
}

stm_status stm_engine_expect(stm_engine *engine, const stm_batch *batch, stm_pass_kind kind)
{
    return stm_engine_expect_beside(engine, batch, kind, 0);
}

stm_status stm_engine_expect_beside(stm_engine *engine, const stm_batch *batch, stm_pass_kind kind, size_t bytes)
{
    stm_sequence_list sequences;
    stm_forest forest = {0};
    stm_placement placement = {0};
    const stm_forest_options options = stm_engine_forest_options_now(engine);
    stm_status status;
    STM_GOTO_OUT(stm_engine_list_sequences(batch, kind == STM_PASS_GRADIENT, NULL, &sequences));
    STM_GOTO_OUT(stm_engine_keep_own(engine, batch, &sequences));
    STM_GOTO_OUT(stm_forest_create(batch, sequences.items, sequences.n, &options, &forest));
    STM_GOTO_OUT(stm_placement_create(&forest, &engine->model->config, engine->grid->team_size,
                                      &engine->settings.placement, &placement));
    STM_GOTO_OUT(expect_placed(engine, &forest, &placement, kind, bytes, 0));
out:
    stm_placement_clear(&placement);
    stm_forest_clear(&forest);
    free(sequences.items);
    return status;
}

static size_t bytes_below(const stm_forest *prompts, stm_slots_bytes slots)
{
    size_t longest = 0;
    for (size_t i = 0; i < prompts->n_segments; i++)
        longest = STM_MAX(longest, prompts->segments[i].depth + 1);
    return slots.fixed + longest * slots.a_segment;
}

stm_status stm_engine_expect_prompts(stm_engine *engine, const stm_batch *batch, const size_t *groups, size_t n,
                                     stm_slots_bytes slots, stm_slots_bytes other)
{
    stm_sequence_list sequences;
    stm_forest forest = {0};
    stm_placement placement = {0};
    stm_forest_options options = stm_engine_forest_options_now(engine);
    options.mode = STM_FORWARD_TREE;
    stm_status status;
    STM_GOTO_OUT(stm_engine_list_prompts(batch, groups, n, &sequences));
    STM_GOTO_OUT(stm_forest_create(batch, sequences.items, sequences.n, &options, &forest));
    STM_GOTO_OUT(stm_placement_create_shared(&forest, &engine->model->config, engine->grid->team_size,
                                             &engine->settings.placement, &placement));
    STM_GOTO_OUT(expect_placed(engine, &forest, &placement, STM_PASS_PREFILL, bytes_below(&forest, slots),
                               bytes_below(&forest, other)));
out:
    stm_placement_clear(&placement);
    stm_forest_clear(&forest);
    free(sequences.items);
    return status;
}

bool stm_engine_spare(stm_engine *engine, const stm_options *options)
{
    stm_engine_settings *s = &engine->settings;
    const bool is_shrinking = options->memory.chunk_tokens == STM_AUTO && s->chunk_rows > STM_SMALLEST_CHUNK_ROWS;
    if (is_shrinking && s->chunk_rows > s->slow_rows)
        s->chunk_rows /= 2;
    else if (s->recompute == STM_RECOMPUTE_AUTO)
        s->recompute = STM_RECOMPUTE_ALWAYS;
    else if (is_shrinking)
        s->chunk_rows = STM_MAX(s->chunk_rows / 2, (size_t)STM_SMALLEST_CHUNK_ROWS);
    else
        return false;
    stm_footprint_clear(&engine->planned);
    return true;
}

stm_footprint_parts stm_engine_planned_parts(const stm_engine *engine)
{
    return stm_footprint_sum(&engine->planned);
}

size_t stm_engine_planned_bytes(const stm_engine *engine)
{
    return engine->static_bytes + stm_footprint_bytes(&engine->planned);
}
