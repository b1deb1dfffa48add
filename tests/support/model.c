#include "support/model.h"

#include "base/random.h"

#include <jansson.h>

const stm_model_config stm_test_configs[STM_TEST_N_CONFIGS] = {
    [STM_TEST_LLAMA] = {.architecture = "llama",
                        .vocab_size = 53,
                        .hidden_size = 24,
                        .intermediate_size = 37,
                        .n_layers = 3,
                        .n_heads = 4,
                        .n_kv_heads = 2,
                        .head_dim = 6,
                        .max_positions = 512,
                        .rms_eps = 1e-5,
                        .rope_theta = 10000,
                        .initializer_range = 0.02,
                        .rope_factor = 1,
                        .rope_low_freq_factor = 1,
                        .rope_high_freq_factor = 1,
                        .rope_original_positions = 512,
                        .n_eos = 1,
                        .eos = {2},
                        .bos = 1},
    [STM_TEST_LLAMA_TIED] = {.architecture = "llama",
                             .vocab_size = 61,
                             .hidden_size = 20,
                             .intermediate_size = 28,
                             .n_layers = 2,
                             .n_heads = 5,
                             .n_kv_heads = 1,
                             .head_dim = 4,
                             .max_positions = 256,
                             .rms_eps = 1e-5,
                             .rope_theta = 500000,
                             .initializer_range = 0.02,
                             .rope = STM_ROPE_LLAMA3,
                             .rope_factor = 8,
                             .rope_low_freq_factor = 1,
                             .rope_high_freq_factor = 4,
                             .rope_original_positions = 64,
                             .tied = true,
                             .n_eos = 2,
                             .eos = {2, 7},
                             .bos = 1},
    [STM_TEST_MISTRAL] = {.architecture = "mistral",
                          .vocab_size = 47,
                          .hidden_size = 18,
                          .intermediate_size = 26,
                          .n_layers = 1,
                          .n_heads = 3,
                          .n_kv_heads = 3,
                          .head_dim = 10,
                          .max_positions = 256,
                          .rms_eps = 1e-6,
                          .rope_theta = 10000,
                          .initializer_range = 0.02,
                          .rope_factor = 1,
                          .rope_low_freq_factor = 1,
                          .rope_high_freq_factor = 1,
                          .rope_original_positions = 256,
                          .n_eos = 1,
                          .eos = {2},
                          .bos = 1},
    [STM_TEST_QWEN2] = {.architecture = "qwen2",
                        .vocab_size = 59,
                        .hidden_size = 32,
                        .intermediate_size = 41,
                        .n_layers = 2,
                        .n_heads = 4,
                        .n_kv_heads = 2,
                        .head_dim = 8,
                        .max_positions = 512,
                        .rms_eps = 1e-6,
                        .rope_theta = 1000000,
                        .initializer_range = 0.02,
                        .rope_factor = 1,
                        .rope_low_freq_factor = 1,
                        .rope_high_freq_factor = 1,
                        .rope_original_positions = 512,
                        .qkv_bias = true,
                        .n_eos = 1,
                        .eos = {3},
                        .bos = -1},
    [STM_TEST_QWEN3] = {.architecture = "qwen3",
                        .vocab_size = 67,
                        .hidden_size = 20,
                        .intermediate_size = 33,
                        .n_layers = 2,
                        .n_heads = 6,
                        .n_kv_heads = 3,
                        .head_dim = 8,
                        .max_positions = 512,
                        .rms_eps = 1e-6,
                        .rope_theta = 1000000,
                        .initializer_range = 0.02,
                        .rope_factor = 1,
                        .rope_low_freq_factor = 1,
                        .rope_high_freq_factor = 1,
                        .rope_original_positions = 512,
                        .tied = true,
                        .qk_norm = true,
                        .n_eos = 1,
                        .eos = {3},
                        .bos = -1},
};

static json_t *rope_json(const stm_model_config *c)
{
    switch (c->rope) {
    case STM_ROPE_LINEAR:
        return json_pack("{s:s, s:f, s:f}", "rope_type", "linear", "rope_theta", c->rope_theta, "factor",
                         c->rope_factor);
    case STM_ROPE_LLAMA3:
        return json_pack("{s:s, s:f, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "rope_theta", c->rope_theta, "factor",
                         c->rope_factor, "low_freq_factor", c->rope_low_freq_factor, "high_freq_factor",
                         c->rope_high_freq_factor, "original_max_position_embeddings",
                         (json_int_t)c->rope_original_positions);
    case STM_ROPE_DEFAULT:
        break;
    }
    return json_pack("{s:s, s:f}", "rope_type", "default", "rope_theta", c->rope_theta);
}

char *stm_test_config_text(const stm_model_config *c)
{
    const char *class_name = strcmp(c->architecture, "llama") == 0     ? "LlamaForCausalLM"
                             : strcmp(c->architecture, "mistral") == 0 ? "MistralForCausalLM"
                             : strcmp(c->architecture, "qwen2") == 0   ? "Qwen2ForCausalLM"
                                                                       : "Qwen3ForCausalLM";
    json_t *eos = json_array();
    for (size_t i = 0; i < c->n_eos; i++)
        json_array_append_new(eos, json_integer(c->eos[i]));
    json_t *config = json_pack(
        "{s:s, s:[s], s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:b, s:o, s:o, s:s, s:n}", "model_type",
        c->architecture, "architectures", class_name, "vocab_size", (json_int_t)c->vocab_size, "hidden_size",
        (json_int_t)c->hidden_size, "intermediate_size", (json_int_t)c->intermediate_size, "num_hidden_layers",
        (json_int_t)c->n_layers, "num_attention_heads", (json_int_t)c->n_heads, "num_key_value_heads",
        (json_int_t)c->n_kv_heads, "head_dim", (json_int_t)c->head_dim, "max_position_embeddings",
        (json_int_t)c->max_positions, "rms_norm_eps", c->rms_eps, "tie_word_embeddings", c->tied, "rope_parameters",
        rope_json(c), "eos_token_id", eos, "dtype", "float32", "sliding_window");
    assert_non_null(config);
    json_object_set_new(config, "bos_token_id", c->bos >= 0 ? json_integer(c->bos) : json_null());
    char *text = json_dumps(config, JSON_INDENT(2));
    json_decref(config);
    assert_non_null(text);
    return text;
}

static bool ends_with(const char *text, const char *ending)
{
    const size_t n = strlen(text), m = strlen(ending);
    return n >= m && strcmp(text + n - m, ending) == 0;
}

/* Mean and deviation of a tensor's elements. A row that was normed has elements of about 1, so a matrix of deviation
 * 1.4 / sqrt(columns) gives q and k of deviation 1.4. */
static void distribution(const stm_parameter *tensor, double *mean, double *deviation)
{
    const bool vector = tensor->n_dims == 1;
    *mean = vector && !ends_with(tensor->name, ".bias") ? 1 : 0;
    *deviation = vector ? 0.25 : 1.4 / sqrt((double)tensor->shape[1]);
}

stm_model *stm_test_model(const stm_backend *backend, stm_stream *stream, const stm_model_config *config, uint64_t seed)
{
    stm_model *model;
    assert_ok(stm_model_create(config, backend, stream, &model));
    model->config_json = stm_test_config_text(config);
    double *doubles = calloc(model->n_parameters, sizeof *doubles);
    float *floats = calloc(model->n_parameters, sizeof *floats);
    assert_true(doubles && floats);
    for (size_t t = 0; t < model->n_tensors; t++) {
        const stm_parameter *tensor = &model->tensors[t];
        double mean, deviation;
        distribution(tensor, &mean, &deviation);
        for (size_t i = 0; i < tensor->n; i++) {
            const stm_random_key key = {
                .seed = seed, .use = STM_RANDOM_INIT, .step = t, .slot = 1, .token = (uint32_t)i};
            floats[tensor->offset + i] = (float)(mean + deviation * stm_random_normal(&key));
            doubles[tensor->offset + i] = (double)floats[tensor->offset + i];
        }
    }
    const void *reals = backend->real_bytes == sizeof *doubles ? (const void *)doubles : floats;
    assert_ok(backend->write(stream, model->weights, reals, model->n_parameters * backend->real_bytes));
    assert_ok(backend->synchronize(stream));
    assert_ok(stm_model_weights_changed(model));
    free(doubles);
    free(floats);
    return model;
}

stm_model *stm_test_open(const stm_backend *backend, stm_stream *stream, const char *name)
{
    const char *folder = stm_fixture(name);
    stm_model *model;
    if (!folder)
        fail_msg("there is no fixture %s", name);
    assert_ok(stm_model_open(folder, backend, stream, &model));
    return model;
}

double *stm_test_weights(const stm_model *model)
{
    const size_t n = model->n_parameters;
    double *doubles = calloc(n, sizeof *doubles);
    assert_non_null(doubles);
    assert_ok(model->backend->read(model->stream, doubles, model->weights, n * model->backend->real_bytes));
    if (model->backend->real_bytes == sizeof(float)) {
        for (size_t i = n; i-- > 0;) {
            float narrow;
            memcpy(&narrow, (char *)doubles + i * sizeof narrow, sizeof narrow);
            doubles[i] = (double)narrow;
        }
    }
    return doubles;
}

const stm_parameter *stm_test_parameter(const stm_model *model, const char *name)
{
    for (size_t i = 0; i < model->n_tensors; i++) {
        if (strcmp(model->tensors[i].name, name) == 0)
            return &model->tensors[i];
    }
    fail_msg("the model has no parameter %s", name);
    return NULL;
}
