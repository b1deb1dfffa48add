#include "model/stages.h"

/* FLOPs of the slowest stage where the last one has n_last of the layers. */
static double slowest(const stm_model_config *config, size_t n_stages, size_t n_last)
{
    const double layer = stm_model_layer_flops(config) / (double)config->n_layers, head = stm_model_head_flops(config);
    const size_t n_others = n_stages - 1, n_left = config->n_layers - n_last;
    const double last = (double)n_last * layer + head;
    const double other = n_others == 0 ? 0 : (double)((n_left + n_others - 1) / n_others) * layer;
    return STM_MAX(last, other);
}

void stm_stage_layers(const stm_model_config *config, size_t n_stages, size_t stage, size_t *first, size_t *end)
{
    const size_t n_layers = config->n_layers, most = n_layers - (n_stages - 1);
    size_t n_last = n_stages == 1 ? n_layers : 1;
    for (size_t n = n_last + 1; n <= most; n++)
        if (slowest(config, n_stages, n) <= slowest(config, n_stages, n_last))
            n_last = n;
    *end = n_layers;
    *first = n_layers - n_last;
    if (stage + 1 == n_stages)
        return;
    const size_t n_others = n_stages - 1, n_left = n_layers - n_last;
    *first = stage * n_left / n_others;
    *end = (stage + 1) * n_left / n_others;
}

void stm_model_hold_stage(stm_model *model, size_t n_stages, size_t stage)
{
    stm_stage_layers(&model->config, n_stages, stage, &model->first_layer, &model->end_layer);
    const bool is_first = stm_model_is_first(model), is_last = stm_model_is_last(model);
    const size_t first = is_first ? 0 : model->layers[model->first_layer].input_norm;
    const size_t end = is_last ? model->n_parameters : model->layers[model->end_layer].input_norm;
    model->own = (stm_range){first, end - first};
    model->tied_copy = (stm_range){0};
    if (model->config.tied && is_last && !is_first)
        model->tied_copy = (stm_range){model->embedding, model->config.vocab_size * model->config.hidden_size};
}
