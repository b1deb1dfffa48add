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
             "memory of a rank: %.0f MiB planned, %.0f of them from start to end; limit %.0f MiB%s", mebibytes(planned),
             mebibytes((double)stm_engine_static_bytes(engine)), mebibytes(limit),
             planned <= limit ? ""
                              : "\nwarning: that is beyond memory.limit; less is needed with more stages "
                                "(parallel.pipeline), fewer rollout.slots or a smaller memory.chunk_tokens");
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
