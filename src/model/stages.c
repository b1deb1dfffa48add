#include "model/stages.h"

#include <stdio.h>

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

stm_status stm_stages_text(const stm_model_config *config, size_t n_stages, char **text)
{
    size_t n_bytes;
    FILE *out = open_memstream(text, &n_bytes);
    for (size_t s = 0; out && n_stages > 1 && s < n_stages; s++) {
        size_t first, end;
        stm_stage_layers(config, n_stages, s, &first, &end);
        fprintf(out, "stage %zu: %slayer%s %zu", s, s == 0 ? "embedding, " : "", end == first + 1 ? "" : "s", first);
        if (end > first + 1)
            fprintf(out, "-%zu", end - 1);
        fprintf(out, "%s\n", s + 1 == n_stages ? ", head" : "");
    }
    return out && fclose(out) == 0 ? STM_OK : stm_fail(STM_ERR_MEMORY, "out of memory");
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

enum { N_HELD = 2 };

stm_status stm_model_array_create(const stm_model *model, void *out)
{
    const stm_backend *backend = model->backend;
    const size_t real_bytes = backend->real_bytes, bytes = model->n_parameters * real_bytes;
    stm_byte_range ranges[N_HELD];
    if (stm_model_is_whole(model))
        return backend->alloc(model->stream, bytes, out);
    for (size_t i = 0; i < N_HELD; i++) {
        const stm_range held = stm_model_held(model, i);
        ranges[i] = (stm_byte_range){held.first * real_bytes, held.n * real_bytes};
    }
    return backend->reserve(model->stream, bytes, ranges, N_HELD, out);
}

void stm_model_array_destroy(const stm_model *model, void *array)
{
    if (!array)
        return;
    if (stm_model_is_whole(model))
        model->backend->free(model->stream, array);
    else
        model->backend->unreserve(model->stream, array, model->n_parameters * model->backend->real_bytes);
}

stm_status stm_model_array_zero(const stm_model *model, void *array)
{
    const stm_backend *backend = model->backend;
    for (size_t i = 0; i < N_HELD; i++) {
        const stm_range held = stm_model_held(model, i);
        STM_TRY(backend->zero(model->stream, stm_at(backend, array, held.first), held.n * backend->real_bytes));
    }
    return STM_OK;
}

stm_status stm_model_array_copy(const stm_model *model, void *to, const void *from)
{
    const stm_backend *backend = model->backend;
    for (size_t i = 0; i < N_HELD; i++) {
        const stm_range held = stm_model_held(model, i);
        STM_TRY(backend->copy(model->stream, stm_at(backend, to, held.first), stm_at(backend, from, held.first),
                              held.n * backend->real_bytes));
    }
    return STM_OK;
}

stm_status stm_model_round(const stm_model *model, const void *weights)
{
    for (size_t i = 0; i < N_HELD; i++) {
        const stm_range held = stm_model_held(model, i);
        if (held.n > 0)
            STM_TRY(model->backend->round_weights(model->stream, stm_at(model->backend, weights, held.first), held.n));
    }
    return STM_OK;
}

void stm_model_round_end(const stm_model *model, const void *weights)
{
    for (size_t i = 0; i < N_HELD; i++) {
        const stm_range held = stm_model_held(model, i);
        if (held.n > 0)
            (void)model->backend->round_weights(model->stream, stm_at(model->backend, weights, held.first), 0);
    }
}

size_t stm_model_n_held(const stm_model *model)
{
    return model->own.n + model->tied_copy.n;
}

size_t stm_model_own_bytes(const stm_model *model)
{
    return stm_model_n_held(model) * model->backend->real_bytes;
}

size_t stm_model_weights_bytes(const stm_model *model)
{
    return stm_model_n_held(model) * model->backend->weight_bytes;
}
