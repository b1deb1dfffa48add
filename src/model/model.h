/* src/model/model.h: a decoder language model: its configuration, its parameters in one buffer, and where each lies.
 *
 * All parameters are one array of `n_parameters` reals, so that the optimizer, the gradient's reduction and the
 * checkpoint work on ranges. A stage of a pipeline has the addresses of the whole array, but memory for its own ranges
 * alone: offsets are the same everywhere. Inside a layer q, k, v (weights, then biases) and gate, up lie side by side:
 * one GEMM computes them. A gradient is an array of the same layout. Weight matrices are [out, in], as in the file. */
#ifndef STM_MODEL_MODEL_H
#define STM_MODEL_MODEL_H

#include "backend/backend.h"

typedef enum { STM_ROPE_DEFAULT, STM_ROPE_LINEAR, STM_ROPE_LLAMA3 } stm_rope_kind;

typedef struct {
    char architecture[16]; /* model_type: llama, mistral, qwen2, qwen3 */
    size_t vocab_size, hidden_size, intermediate_size, n_layers, n_heads, n_kv_heads, head_dim, max_positions;
    double rms_eps, rope_theta, initializer_range; /* the last: deviation of random weights; 0: 0.02 */
    stm_rope_kind rope;
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    size_t rope_original_positions;
    bool tied, qkv_bias, qk_norm;
    size_t n_eos; /* from generation_config.json, else config.json */
    int32_t eos[16];
    int32_t bos; /* -1: none */
} stm_model_config;

typedef struct {
    char name[96]; /* as in the safetensors file */
    size_t n_dims, shape[2];
    size_t offset, n; /* elements in the parameter buffer */
} stm_parameter;

/* Offsets (elements) of one layer's parameters. q_bias and the norms are meaningful only where the configuration has
 * them. */
typedef struct {
    size_t input_norm, qkv, qkv_bias, q_norm, k_norm, o, post_norm, gate_up, down;
} stm_layer_offsets;

typedef struct {
    size_t first, n; /* elements of the parameter buffer */
} stm_range;

typedef struct stm_model {
    stm_model_config config;
    size_t n_parameters; /* elements in the buffer */
    /* What this rank computes and holds: all of it, or one stage of a pipeline (model/stages.h). */
    size_t first_layer, end_layer;
    stm_range own;       /* parameters of its layers, of the embedding (first stage), of final norm and head (last) */
    stm_range tied_copy; /* the last stage's copy of a tied embedding; n = 0: none */
    size_t n_tensors;
    stm_parameter *tensors;             /* [n_tensors], in order of offset */
    stm_layer_offsets *layers;          /* [n_layers] */
    size_t embedding, final_norm, head; /* offsets; tied: head == embedding */
    const stm_backend *backend;
    stm_stream *stream;  /* not owned */
    void *weights;       /* [n_parameters] reals */
    void *cosine, *sine; /* [max_positions, head_dim/2] reals */
    /* Texts; the last three NULL where the folder has none. A chat_template.jinja is a member of tokenizer_config_json.
     */
    char *config_json, *tokenizer_json, *tokenizer_config_json, *generation_config_json;
    uint64_t hash; /* of all parameters as loaded; 0 for random ones */
} stm_model;

/* Lays out tensors and tables for a configuration; weights are allocated, not set. The caller destroys *out. Local.
 * Fails: STM_ERR_MEMORY. */
stm_status stm_model_create(const stm_model_config *config, const stm_backend *backend, stm_stream *stream,
                            stm_model **out);
void stm_model_destroy(stm_model *model); /* NULL is fine */

/* To be called whenever numbers of model->weights have been written, before the model computes again: a backend may
 * keep a rounded copy of them. What loads, randomizes or updates a whole model calls it itself. Local. Fails:
 * STM_ERR_DEVICE, STM_ERR_MEMORY. */
stm_status stm_model_weights_changed(const stm_model *model);

/* A config.json text -> configuration. `path` is for messages. Refused by name: other architectures, sliding window in
 * use, other activations, rope kinds, biases or options that we do not compute. generation_json may be NULL. Local.
 * Fails: STM_ERR_INPUT. */
stm_status stm_model_config_parse(const char *path, const char *config_json, const char *generation_json,
                                  stm_model_config *out);

/* Opens a Hugging Face folder: reads the texts, creates the model, loads *.safetensors (one file or
 * model.safetensors.index.json) in float32, bfloat16, float16 or float64. A missing, surplus (but for known buffers
 * such as rotary_emb.inv_freq, or a tied copy) or misshaped tensor is refused by name. Local. Fails: STM_ERR_INPUT. */
stm_status stm_model_open(const char *folder, const stm_backend *backend, stm_stream *stream, stm_model **out);

/* As open, in two halves: `describe` reads texts and configuration and lays the model out, without memory for weights
 * (stm_model_allocate takes it, model/layout.h); `load` fills what model->weights hold, and hash. */
stm_status stm_model_describe(const char *folder, stm_model **out);
stm_status stm_model_load(stm_model *model, const char *folder);

/* Normal weights of deviation initializer_range (output projections of a layer divided by sqrt(2 n_layers)), norms 1,
 * biases 0; from Philox, element by element: a stage gets the numbers that the whole model would have. Local. */
stm_status stm_model_randomize(stm_model *model, uint64_t seed);

/* Writes a Hugging Face folder (config.json, model.safetensors, the other texts that the model holds) that transformers
 * loads; tensors have the names of model->tensors, which are those of the start model's files. dtype "float32" or
 * "bfloat16" (rounded to nearest even); config.json's torch_dtype/dtype says so. A failure leaves no half-written
 * file. Local. Fails: STM_ERR_INPUT (another dtype, a model without config_json, one stage of a model), STM_ERR_IO,
 * STM_ERR_MEMORY. */
stm_status stm_model_export(const stm_model *model, const char *folder, const char *dtype);

/* FLOPs of the GEMMs of one row through layers and, apart, head (multiply and add are 2): F of DESIGN.md section 2. */
double stm_model_layer_flops(const stm_model_config *config);
double stm_model_head_flops(const stm_model_config *config);

#endif
