#include "group/profile.h"

#include "group/flops.h"

static const char *const names[] = {
#define NAME_OF(NAME, name) [STM_STAGE_##NAME] = name,
    STM_STAGES(NAME_OF)
#undef NAME_OF
};

const char *stm_stage_name(stm_stage stage)
{
    return names[stage];
}

/* Seconds since the last boundary. A device that fails says so to whoever uses it next. */
static double lap_s(const stm_pass *pass)
{
    (void)pass->model->backend->synchronize(pass->model->stream);
    const double now_s = stm_now_s(), spent_s = now_s - pass->profile->since;
    pass->profile->since = now_s;
    return spent_s;
}

void stm_profile_start(const stm_pass *pass)
{
    if (pass->profile)
        lap_s(pass);
}

void stm_profile_lap(const stm_pass *pass, stm_stage stage)
{
    if (pass->profile)
        pass->profile->seconds[stage] += lap_s(pass);
}

void stm_profile_exclude(const stm_pass *pass, stm_stage stage, double seconds)
{
    if (!pass->profile)
        return;
    pass->profile->seconds[stage] += seconds;
    pass->profile->since += seconds;
}

/* Rows at the segment's beginning that predict the prompt. */
static size_t prompt_rows(const stm_pass *pass, const stm_segment *segment)
{
    size_t n = segment->n_rows;
    for (size_t u = 0; u < segment->n_uses; u++)
        n = STM_MIN(n, pass->forest->uses[segment->first_use + u].first_row);
    return n;
}

void stm_profile_lap_forward(const stm_pass *pass, const size_t *segments, size_t n)
{
    if (!pass->profile)
        return;
    const stm_model_config *config = &pass->model->config;
    stm_flops prefix = {0}, suffix = {0};
    for (size_t i = 0; i < n; i++) {
        const stm_segment *segment = &pass->forest->segments[segments[i]];
        const size_t first = stm_segment_first_position(segment), n_prompt = prompt_rows(pass, segment);
        stm_flops_add_rows(config, first, n_prompt, &prefix);
        stm_flops_add_last_layer(config, first, n_prompt, false, &prefix);
        stm_flops_add_rows(config, first + n_prompt, segment->n_rows - n_prompt, &suffix);
        stm_flops_add_last_layer(config, first + n_prompt, segment->n_rows - n_prompt, true, &suffix);
    }
    prefix.head = suffix.head = 0; /* it has a lap of its own */
    const double work = stm_flops_forward(&prefix) + stm_flops_forward(&suffix);
    const double share = work > 0 ? stm_flops_forward(&prefix) / work : 0;
    const double spent_s = lap_s(pass);
    pass->profile->seconds[STM_STAGE_PREFIX] += share * spent_s;
    pass->profile->seconds[STM_STAGE_SUFFIX] += (1 - share) * spent_s;
}
