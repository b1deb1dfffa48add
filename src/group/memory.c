#include "group/memory.h"

#include <math.h>
#include <stdio.h>

#include "base/usage.h"

static double mebibytes(double bytes)
{
    return bytes / (1 << 20);
}

static double most_planned(const stm_engine *engine, const stm_grid *grid)
{
    double bytes = (double)stm_engine_planned_bytes(engine);
    stm_all_reduce_max(grid->world, &bytes, 1);
    return bytes;
}

void stm_memory_plan_line(stm_engine *engine, const stm_grid *grid, char line[STM_MEMORY_LINE_BYTES])
{
    const double planned = most_planned(engine, grid), limit = (double)stm_engine_settings_of(engine)->limit_bytes;
    snprintf(line, STM_MEMORY_LINE_BYTES,
             "memory of a rank: %.0f MiB planned, %.0f of them from start to end; limit %.0f MiB", mebibytes(planned),
             mebibytes((double)stm_engine_static_bytes(engine)), mebibytes(limit));
}

bool stm_memory_spare(stm_engine *engine, const stm_grid *grid, const stm_options *options)
{
    const double limit = (double)stm_engine_settings_of(engine)->limit_bytes;
    return most_planned(engine, grid) > limit && stm_engine_spare(engine, options);
}

/* The options that would need less, of those that are not at their least. */
static void list_helps(const stm_engine *engine, const stm_grid *grid, const stm_options *o, char text[256])
{
    const stm_footprint_parts parts = stm_engine_planned_parts(engine);
    const size_t n_layers = stm_engine_model(engine)->config.n_layers;
    const struct {
        bool helps;
        const char *words;
    } all[] = {{parts.kept > 0 && o->memory.recompute == STM_RECOMPUTE_NEVER, "memory.recompute=auto"},
               {o->memory.chunk_tokens != STM_AUTO, "memory.chunk_tokens=auto"},
               {grid->stage_size > 1 && o->parallel.shard != STM_SHARD_GRADIENT, "parallel.shard=gradient"},
               {(size_t)grid->n_stages < n_layers, "more stages (parallel.pipeline)"},
               {parts.slots > 0 && o->rollout.slots > 1, "fewer rollout.slots"},
               {parts.kv > 0, "shorter prompts (data.max_prompt_tokens)"}};
    size_t n = 0;
    *text = '\0';
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].helps)
            n += (size_t)snprintf(text + n, 256 - n, "%s%s", n > 0 ? ", " : "", all[i].words);
}

stm_status stm_memory_check(const stm_engine *engine, const stm_grid *grid, const stm_options *options)
{
    const double most = most_planned(engine, grid), own = (double)stm_engine_planned_bytes(engine);
    const double limit = (double)stm_engine_limit(engine);
    const stm_footprint_parts p = stm_engine_planned_parts(engine);
    char helps[256];
    if (most <= limit)
        return STM_OK;
    list_helps(engine, grid, options, helps);
    return stm_agree(
        grid, own < most
                  ? STM_OK
                  : stm_fail(STM_ERR_INPUT,
                             "memory.limit: found %.0f MiB a rank, expected at least %.0f MiB: %.0f from start to "
                             "end (weights and what goes with them), %.0f K and V, %.0f activations, %.0f scratch, "
                             "%.0f messages, %.0f decoding; less is needed with %s",
                             mebibytes(limit), ceil(mebibytes(own)), mebibytes((double)stm_engine_static_bytes(engine)),
                             mebibytes((double)p.kv), mebibytes((double)p.kept), mebibytes((double)p.scratch),
                             mebibytes((double)p.messages), mebibytes((double)p.slots), helps));
}

void stm_memory_usage_line(const stm_engine *engine, const stm_grid *grid, char line[STM_MEMORY_LINE_BYTES])
{
    (void)stm_usage_sample();
    double most = stm_usage_peak_bytes();
    most = isnan(most) ? 0 : most;
    stm_all_reduce_max(grid->world, &most, 1);
    const double planned = most_planned(engine, grid);
    snprintf(line, STM_MEMORY_LINE_BYTES, "memory of a rank: %.0f MiB planned, %.0f MiB the most in use",
             mebibytes(planned), mebibytes(most));
}
