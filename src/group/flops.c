#include "group/flops.h"

/* Keys that rows first .. first + n - 1 see, themselves included, summed over the rows. */
static double pairs(size_t first, size_t n)
{
    return (double)n * ((double)first + ((double)n + 1) / 2);
}

/* Of one layer. */
static double row_flops(const stm_model_config *c)
{
    return stm_model_layer_flops(c) / (double)c->n_layers;
}

/* Of one layer: scores and their product with V, all heads. */
static double pair_flops(const stm_model_config *c)
{
    return 4.0 * (double)(c->n_heads * c->head_dim);
}

static double kv_flops(const stm_model_config *c)
{
    return 4.0 * (double)(c->hidden_size * c->n_kv_heads * c->head_dim);
}

void stm_flops_add_rows(const stm_model_config *config, size_t first, size_t n, stm_flops *flops)
{
    const double layers = (double)(config->n_layers - 1);
    flops->dense += layers * (double)n * row_flops(config);
    flops->attention += layers * pairs(first, n) * pair_flops(config);
}

void stm_flops_add_last_layer(const stm_model_config *config, size_t first, size_t n, bool active, stm_flops *flops)
{
    flops->dense += (double)n * (active ? row_flops(config) : kv_flops(config));
    if (!active)
        return;
    flops->attention += pairs(first, n) * pair_flops(config);
    flops->head += (double)n * stm_model_head_flops(config);
}

/* Whether some sequence has loss on what a row of the segment predicts. */
static bool row_is_active(const stm_forest *forest, const stm_segment *segment, size_t row)
{
    for (size_t u = 0; u < segment->n_uses; u++) {
        const stm_use *use = &forest->uses[segment->first_use + u];
        const stm_sequence *s = &forest->sequences[use->sequence];
        if (row >= use->first_row && row < use->first_row + use->n &&
            forest->batch->groups[s->group].responses[s->response].mask[use->first_token + row - use->first_row])
            return true;
    }
    return false;
}

void stm_flops_of_forest(const stm_model_config *config, const stm_forest *forest, stm_flops *flops)
{
    *flops = (stm_flops){0};
    for (size_t i = 0; i < forest->n_segments; i++) {
        const stm_segment *segment = &forest->segments[i];
        const size_t first = stm_segment_first_position(segment);
        stm_flops_add_rows(config, first, segment->n_rows, flops);
        for (size_t row = 0; row < segment->n_rows; row++)
            stm_flops_add_last_layer(config, first + row, 1, row_is_active(forest, segment, row), flops);
    }
}

void stm_flops_add_sampling(const stm_model_config *config, size_t n_prompt, size_t n_new, stm_flops *flops)
{
    stm_flops_add_rows(config, n_prompt - 1, n_new, flops);
    stm_flops_add_last_layer(config, n_prompt - 1, n_new, true, flops);
}

double stm_flops_forward(const stm_flops *flops)
{
    return flops->dense + flops->attention + flops->head;
}

double stm_flops_update(const stm_flops *flops)
{
    return 3 * stm_flops_forward(flops);
}
