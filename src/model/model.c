#include "model/layout.h"
#include "model/stages.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* Appends a parameter; n_columns 0: a vector. Returns its offset. */
__attribute__((format(printf, 4, 5))) static size_t append(stm_model *model, size_t n_rows, size_t n_columns,
                                                           const char *format, ...)
{
    stm_parameter *tensor = &model->tensors[model->n_tensors++];
    va_list list;
    va_start(list, format);
    vsnprintf(tensor->name, sizeof tensor->name, format, list);
    va_end(list);
    tensor->n_dims = n_columns ? 2 : 1;
    tensor->shape[0] = n_rows;
    tensor->shape[1] = n_columns ? n_columns : 1;
    tensor->offset = model->n_parameters;
    tensor->n = n_rows * tensor->shape[1];
    model->n_parameters += tensor->n;
    return tensor->offset;
}

static void append_layer(stm_model *model, size_t layer)
{
    const stm_model_config *c = &model->config;
    const size_t n_q = c->n_heads * c->head_dim, n_kv = c->n_kv_heads * c->head_dim;
    stm_layer_offsets *at = &model->layers[layer];
    at->input_norm = append(model, c->hidden_size, 0, "model.layers.%zu.input_layernorm.weight", layer);
    at->qkv = append(model, n_q, c->hidden_size, "model.layers.%zu.self_attn.q_proj.weight", layer);
    append(model, n_kv, c->hidden_size, "model.layers.%zu.self_attn.k_proj.weight", layer);
    append(model, n_kv, c->hidden_size, "model.layers.%zu.self_attn.v_proj.weight", layer);
    if (c->qkv_bias) {
        at->qkv_bias = append(model, n_q, 0, "model.layers.%zu.self_attn.q_proj.bias", layer);
        append(model, n_kv, 0, "model.layers.%zu.self_attn.k_proj.bias", layer);
        append(model, n_kv, 0, "model.layers.%zu.self_attn.v_proj.bias", layer);
    }
    if (c->qk_norm) {
        at->q_norm = append(model, c->head_dim, 0, "model.layers.%zu.self_attn.q_norm.weight", layer);
        at->k_norm = append(model, c->head_dim, 0, "model.layers.%zu.self_attn.k_norm.weight", layer);
    }
    at->o = append(model, c->hidden_size, n_q, "model.layers.%zu.self_attn.o_proj.weight", layer);
    at->post_norm = append(model, c->hidden_size, 0, "model.layers.%zu.post_attention_layernorm.weight", layer);
    at->gate_up = append(model, c->intermediate_size, c->hidden_size, "model.layers.%zu.mlp.gate_proj.weight", layer);
    append(model, c->intermediate_size, c->hidden_size, "model.layers.%zu.mlp.up_proj.weight", layer);
    at->down = append(model, c->hidden_size, c->intermediate_size, "model.layers.%zu.mlp.down_proj.weight", layer);
}

enum { MOST_TENSORS_A_LAYER = 14, TENSORS_OUTSIDE = 3 };

stm_status stm_model_lay_out(const stm_model_config *config, stm_model **out)
{
    stm_model *model;
    stm_status status = STM_OK;
    STM_TRY(stm_alloc(1, sizeof *model, &model));
    model->config = *config;
    STM_GOTO_OUT(stm_alloc(config->n_layers, sizeof *model->layers, &model->layers));
    STM_GOTO_OUT(
        stm_alloc(config->n_layers * MOST_TENSORS_A_LAYER + TENSORS_OUTSIDE, sizeof *model->tensors, &model->tensors));
    model->embedding = append(model, config->vocab_size, config->hidden_size, "model.embed_tokens.weight");
    for (size_t layer = 0; layer < config->n_layers; layer++)
        append_layer(model, layer);
    model->final_norm = append(model, config->hidden_size, 0, "model.norm.weight");
    model->head =
        config->tied ? model->embedding : append(model, config->vocab_size, config->hidden_size, "lm_head.weight");
    stm_model_hold_stage(model, 1, 0);
    *out = model;
    model = NULL;
out:
    stm_model_destroy(model);
    return status;
}

stm_status stm_model_allocate(stm_model *model, const stm_backend *backend, stm_stream *stream)
{
    model->backend = backend;
    model->stream = stream;
    STM_TRY(
        stm_fail_memory_of(stm_model_array_create(model, &model->weights), "the model's weights", "parallel.pipeline"));
    return stm_model_fill_rope(model);
}

stm_status stm_model_share(const stm_model *model, stm_model *out)
{
    *out = *model;
    out->weights = NULL;
    STM_TRY(stm_fail_memory_of(stm_model_array_create(model, &out->weights), "another model's weights",
                               "parallel.pipeline"));
    STM_TRY(stm_model_array_copy(model, out->weights, model->weights));
    STM_TRY(stm_model_weights_changed(out));
    return model->backend->synchronize(model->stream);
}

void stm_model_unshare(stm_model *shared)
{
    if (shared->weights) {
        stm_model_round_end(shared, shared->weights);
        stm_model_array_destroy(shared, shared->weights);
    }
    *shared = (stm_model){0};
}

stm_status stm_model_create(const stm_model_config *config, const stm_backend *backend, stm_stream *stream,
                            stm_model **out)
{
    stm_model *model;
    STM_TRY(stm_model_lay_out(config, &model));
    const stm_status status = stm_model_allocate(model, backend, stream);
    if (status != STM_OK) {
        stm_model_destroy(model);
        return status;
    }
    *out = model;
    return STM_OK;
}

stm_status stm_model_weights_changed(const stm_model *model)
{
    return stm_model_round(model, model->weights);
}

void stm_model_destroy(stm_model *model)
{
    if (!model)
        return;
    if (model->weights) {
        stm_model_round_end(model, model->weights);
        stm_model_array_destroy(model, model->weights);
    }
    void *device_memory[] = {model->cosine, model->sine};
    for (size_t i = 0; i < sizeof device_memory / sizeof *device_memory; i++) {
        if (device_memory[i])
            model->backend->free(model->stream, device_memory[i]);
    }
    free(model->config_json);
    free(model->tokenizer_json);
    free(model->tokenizer_config_json);
    free(model->generation_config_json);
    free(model->tensors);
    free(model->layers);
    free(model);
}

double stm_model_layer_flops(const stm_model_config *c)
{
    const double attention = (double)c->head_dim * (double)(2 * c->n_heads + 2 * c->n_kv_heads); /* q and o; k and v */
    return 2.0 * (double)c->n_layers * (double)c->hidden_size * (attention + 3.0 * (double)c->intermediate_size);
}

double stm_model_head_flops(const stm_model_config *c)
{
    return 2.0 * (double)c->hidden_size * (double)c->vocab_size;
}
