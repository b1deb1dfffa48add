/* config.json -> stm_model_config. Where a key is missing its value is that of the transformers class for the same
 * model_type. */
#include "model/model.h"

#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a model_type means, and what its configuration class assumes of keys that are missing (transformers 5). 0: see
 * its use; -1: no id. */
typedef struct {
    const char *name, *class_name;
    bool qkv_bias, qk_norm;
    size_t vocab_size, hidden_size, intermediate_size, n_layers, n_heads, n_kv_heads, head_dim, max_positions;
    int32_t bos, eos;
} family;

static const family families[] = {
    {"llama", "LlamaForCausalLM", false, false, 32000, 4096, 11008, 32, 32, 0, 0, 2048, 1, 2},
    {"mistral", "MistralForCausalLM", false, false, 32000, 4096, 14336, 32, 32, 8, 0, 131072, 1, 2},
    {"qwen2", "Qwen2ForCausalLM", true, false, 151936, 4096, 22016, 32, 32, 32, 0, 32768, -1, -1},
    {"qwen3", "Qwen3ForCausalLM", false, true, 151936, 4096, 22016, 32, 32, 32, 128, 32768, -1, -1},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

/* Limits that no model in sight meets and whose products, in bytes, still fit 63 bits. */
static const size_t most_vocab = 1u << 24, most_width = 1u << 20, most_layers = 1u << 12, most_heads = 1u << 12,
                    most_head_dim = 1u << 12, most_positions = 1u << 24;

/* One object of the file; `prefix` names it in messages ("rope_scaling." or ""). */
typedef struct {
    const char *path, *prefix;
    const json_t *object;
} section;

/* The member, or NULL where it is missing or null: transformers treats both as "not given" but for the few keys that
 * say otherwise. */
static const json_t *get(const section *s, const char *key)
{
    const json_t *value = json_object_get(s->object, key);
    return json_is_null(value) ? NULL : value;
}

/* path: key: found X, expected Y. */
__attribute__((format(printf, 3, 4))) static stm_status refuse(const section *s, const char *key, const char *expected,
                                                               ...)
{
    char words[300];
    va_list list;
    va_start(list, expected);
    vsnprintf(words, sizeof words, expected, list);
    va_end(list);
    const json_t *value = json_object_get(s->object, key);
    char *found = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;
    const stm_status status = stm_fail(STM_ERR_INPUT, "%s: %s%s: found %.120s, expected %s", s->path, s->prefix, key,
                                       found ? found : "nothing", words);
    free(found);
    return status;
}

static stm_status get_size(const section *s, const char *key, size_t fallback, size_t most, size_t *out)
{
    const json_t *value = get(s, key);
    if (value &&
        (!json_is_integer(value) || json_integer_value(value) < 1 || (uint64_t)json_integer_value(value) > most))
        return refuse(s, key, "an integer from 1 to %zu", most);
    *out = value ? (size_t)json_integer_value(value) : fallback;
    return STM_OK;
}

/* A positive number; fallback 0: required. */
static stm_status get_positive(const section *s, const char *key, double fallback, double *out)
{
    const json_t *value = get(s, key);
    *out = value ? json_number_value(value) : fallback;
    return *out > 0 && isfinite(*out) ? STM_OK : refuse(s, key, "a positive number");
}

static stm_status get_bool(const section *s, const char *key, bool fallback, bool *out)
{
    const json_t *value = get(s, key);
    if (value && !json_is_boolean(value))
        return refuse(s, key, "true or false");
    *out = value ? json_is_true(value) : fallback;
    return STM_OK;
}

/* A switch for something that we do not compute. */
static stm_status expect_off(const section *s, const char *key)
{
    bool on = false;
    STM_TRY(get_bool(s, key, false, &on));
    return on ? refuse(s, key, "false: stemma does not compute it") : STM_OK;
}

static stm_status read_family(const section *s, const family **out)
{
    const char *model_type = json_string_value(get(s, "model_type"));
    const family *found = NULL;
    for (size_t i = 0; model_type && i < N_FAMILIES; i++) {
        if (strcmp(model_type, families[i].name) == 0)
            found = &families[i];
    }
    if (!found)
        return refuse(s, "model_type", "llama, mistral, qwen2 or qwen3");
    const json_t *classes = get(s, "architectures"), *class_name;
    bool listed = json_array_size(classes) == 0;
    size_t i;
    json_array_foreach(classes, i, class_name) listed |=
        json_is_string(class_name) && strcmp(json_string_value(class_name), found->class_name) == 0;
    if (!listed || (classes && !json_is_array(classes)))
        return refuse(s, "architectures", "[\"%s\"] for model_type %s", found->class_name, found->name);
    *out = found;
    return STM_OK;
}

static stm_status read_sizes(const section *s, const family *f, stm_model_config *out)
{
    STM_TRY(get_size(s, "vocab_size", f->vocab_size, most_vocab, &out->vocab_size));
    STM_TRY(get_size(s, "hidden_size", f->hidden_size, most_width, &out->hidden_size));
    STM_TRY(get_size(s, "intermediate_size", f->intermediate_size, most_width, &out->intermediate_size));
    STM_TRY(get_size(s, "num_hidden_layers", f->n_layers, most_layers, &out->n_layers));
    STM_TRY(get_size(s, "num_attention_heads", f->n_heads, most_heads, &out->n_heads));
    STM_TRY(get_size(s, "max_position_embeddings", f->max_positions, most_positions, &out->max_positions));

    /* Missing: what the class assumes; null: as many as query heads. */
    const bool kv_missing = !json_object_get(s->object, "num_key_value_heads");
    STM_TRY(get_size(s, "num_key_value_heads", kv_missing && f->n_kv_heads ? f->n_kv_heads : out->n_heads, most_heads,
                     &out->n_kv_heads));
    if (out->n_heads % out->n_kv_heads != 0)
        return refuse(s, "num_key_value_heads", "a divisor of num_attention_heads, %zu%s", out->n_heads,
                      kv_missing ? " (a missing key means 32 in qwen models, 8 in mistral)" : "");

    const bool dim_missing = !json_object_get(s->object, "head_dim");
    const size_t quotient = out->hidden_size / out->n_heads;
    STM_TRY(
        get_size(s, "head_dim", dim_missing && f->head_dim ? f->head_dim : quotient, most_head_dim, &out->head_dim));
    if (!get(s, "head_dim") && out->head_dim == quotient && quotient * out->n_heads != out->hidden_size)
        return refuse(s, "num_attention_heads", "a divisor of hidden_size, %zu, where head_dim is not given",
                      out->hidden_size);
    if (out->head_dim % 2 != 0 || out->head_dim > most_head_dim)
        return refuse(s, "head_dim", "an even number up to %zu (hidden_size / num_attention_heads is %zu)",
                      most_head_dim, quotient);
    return STM_OK;
}

static stm_status read_rope(const section *s, stm_model_config *out)
{
    /* transformers 4 wrote rope_theta and rope_scaling, 5 writes rope_parameters; where both stand, rope_scaling wins,
     * as it does there. */
    section rope = {s->path, "rope_scaling.", get(s, "rope_scaling")};
    const char *key = "rope_scaling";
    if (!rope.object || (json_is_object(rope.object) && json_object_size(rope.object) == 0)) {
        key = "rope_parameters";
        rope = (section){s->path, "rope_parameters.", get(s, key)};
    }
    if (rope.object && !json_is_object(rope.object))
        return refuse(s, key, "an object or null");
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)rope.object, name, value)
    {
        if (json_is_object(value))
            return refuse(&rope, name, "one set of parameters for all layers");
    }

    const section *theta_in = get(&rope, "rope_theta") ? &rope : s;
    STM_TRY(get_positive(theta_in, "rope_theta", 10000.0, &out->rope_theta));
    const section *partial_in = get(&rope, "partial_rotary_factor") ? &rope : s;
    double partial;
    STM_TRY(get_positive(partial_in, "partial_rotary_factor", 1.0, &partial));
    if (partial != 1.0)
        return refuse(partial_in, "partial_rotary_factor", "1: stemma rotates whole heads");

    const char *kind_key = get(&rope, "rope_type") ? "rope_type" : "type";
    const json_t *kind_value = get(&rope, kind_key);
    const char *kind = kind_value ? json_string_value(kind_value) : "default";
    out->rope_factor = out->rope_low_freq_factor = out->rope_high_freq_factor = 1.0;
    out->rope_original_positions = out->max_positions;
    if (kind && strcmp(kind, "default") == 0) {
        out->rope = STM_ROPE_DEFAULT;
    } else if (kind && strcmp(kind, "linear") == 0) {
        out->rope = STM_ROPE_LINEAR;
        STM_TRY(get_positive(&rope, "factor", 0, &out->rope_factor));
    } else if (kind && strcmp(kind, "llama3") == 0) {
        out->rope = STM_ROPE_LLAMA3;
        STM_TRY(get_positive(&rope, "factor", 0, &out->rope_factor));
        STM_TRY(get_positive(&rope, "low_freq_factor", 0, &out->rope_low_freq_factor));
        STM_TRY(get_positive(&rope, "high_freq_factor", 0, &out->rope_high_freq_factor));
        if (out->rope_high_freq_factor <= out->rope_low_freq_factor)
            return refuse(&rope, "high_freq_factor", "more than low_freq_factor, %g", out->rope_low_freq_factor);
        const section *original_in = get(s, "original_max_position_embeddings") ? s : &rope;
        STM_TRY(get_size(original_in, "original_max_position_embeddings", out->max_positions, most_positions,
                         &out->rope_original_positions));
    } else {
        return refuse(&rope, kind_key, "default, linear or llama3");
    }
    return STM_OK;
}

/* A window that no position can leave changes nothing: position p sees p - window + 1 .. p. */
static stm_status check_sliding_window(const section *s, const family *f, const stm_model_config *config)
{
    const bool qwen = strncmp(f->name, "qwen", 4) == 0;
    if (!qwen && strcmp(f->name, "mistral") != 0)
        return STM_OK;
    size_t window = 4096;
    if (json_is_null(json_object_get(s->object, "sliding_window")))
        return STM_OK;
    STM_TRY(get_size(s, "sliding_window", window, INT32_MAX, &window));
    bool used = true;
    if (qwen) {
        STM_TRY(get_bool(s, "use_sliding_window", false, &used));
        const json_t *types = get(s, "layer_types"), *type;
        size_t i, n_sliding = 0, full_layers = 28;
        json_array_foreach(types, i, type)
        {
            const char *name = json_is_string(type) ? json_string_value(type) : "";
            n_sliding += strcmp(name, "sliding_attention") == 0;
            if (strcmp(name, "sliding_attention") != 0 && strcmp(name, "full_attention") != 0)
                return refuse(s, "layer_types", "full_attention in all layers");
        }
        const json_t *full = get(s, "max_window_layers");
        if (full && (!json_is_integer(full) || json_integer_value(full) < 0))
            return refuse(s, "max_window_layers", "an integer of 0 or more");
        if (full)
            full_layers = (size_t)json_integer_value(full);
        used = used && (types ? n_sliding > 0 : full_layers < config->n_layers);
    }
    if (used && window < config->max_positions)
        return refuse(s, "sliding_window",
                      "null, or at least max_position_embeddings, %zu: stemma has no sliding window",
                      config->max_positions);
    return STM_OK;
}

/* An id that no token has, such as -1, stands for none. */
static stm_status add_eos(const section *s, const json_t *value, stm_model_config *out)
{
    if (!json_is_integer(value))
        return refuse(s, "eos_token_id", "an id, a list of ids, or null");
    const json_int_t id = json_integer_value(value);
    for (size_t i = 0; i < out->n_eos; i++) {
        if (out->eos[i] == id)
            return STM_OK;
    }
    if (id < 0 || (uint64_t)id >= out->vocab_size)
        return STM_OK;
    if (out->n_eos == sizeof out->eos / sizeof *out->eos)
        return refuse(s, "eos_token_id", "at most %zu ids", sizeof out->eos / sizeof *out->eos);
    out->eos[out->n_eos++] = (int32_t)id;
    return STM_OK;
}

static stm_status read_eos(const section *s, stm_model_config *out)
{
    const json_t *value = get(s, "eos_token_id"), *id;
    if (!json_is_array(value))
        return value ? add_eos(s, value, out) : STM_OK;
    size_t i;
    json_array_foreach(value, i, id) STM_TRY(add_eos(s, id, out));
    return STM_OK;
}

/* generation: its object is NULL where there is no such file. */
static stm_status read_special_ids(const section *s, const section *generation, const family *f, stm_model_config *out)
{
    const json_t *bos = json_object_get(s->object, "bos_token_id");
    if (bos && !json_is_integer(bos) && !json_is_null(bos))
        return refuse(s, "bos_token_id", "an id or null");
    const json_int_t id = bos ? (json_is_null(bos) ? -1 : json_integer_value(bos)) : f->bos;
    out->bos = id >= 0 && (uint64_t)id < out->vocab_size ? (int32_t)id : -1;

    STM_TRY(read_eos(generation, out));
    if (out->n_eos == 0)
        STM_TRY(read_eos(s, out));
    if (out->n_eos == 0 && !json_object_get(s->object, "eos_token_id") && f->eos >= 0 &&
        (size_t)f->eos < out->vocab_size)
        out->eos[out->n_eos++] = f->eos;
    return STM_OK;
}

static stm_status read_config(const section *s, const section *generation, stm_model_config *out)
{
    const family *f = NULL;
    STM_TRY(read_family(s, &f));
    snprintf(out->architecture, sizeof out->architecture, "%s", f->name);
    out->qkv_bias = f->qkv_bias;
    out->qk_norm = f->qk_norm;
    STM_TRY(read_sizes(s, f, out));
    STM_TRY(get_positive(s, "rms_norm_eps", 1e-6, &out->rms_eps));
    STM_TRY(get_positive(s, "initializer_range", 0.02, &out->initializer_range));
    STM_TRY(get_bool(s, "tie_word_embeddings", false, &out->tied));
    STM_TRY(read_rope(s, out));
    STM_TRY(check_sliding_window(s, f, out));

    const json_t *act = get(s, "hidden_act");
    if (act && (!json_is_string(act) ||
                (strcmp(json_string_value(act), "silu") != 0 && strcmp(json_string_value(act), "swish") != 0)))
        return refuse(s, "hidden_act", "silu");
    if (strcmp(f->name, "llama") == 0 || f->qk_norm) /* the other two classes know no such key */
        STM_TRY(expect_off(s, "attention_bias"));
    if (strcmp(f->name, "llama") == 0)
        STM_TRY(expect_off(s, "mlp_bias"));
    if (get(s, "quantization_config"))
        return refuse(s, "quantization_config", "nothing: stemma reads float32, bfloat16, float16 and float64 weights");
    return read_special_ids(s, generation, f, out);
}

static stm_status load_object(const char *path, const char *text, json_t **out)
{
    json_error_t error;
    *out = json_loads(text, 0, &error);
    if (!*out)
        return stm_fail(STM_ERR_INPUT, "%s: line %d: not JSON: %s", path, error.line, error.text);
    if (!json_is_object(*out))
        return stm_fail(STM_ERR_INPUT, "%s: found a JSON value of another kind, expected an object", path);
    return STM_OK;
}

/* The name that messages use: beside a config.json its neighbour, else (a checkpoint) an entry of the same file. */
static stm_status generation_path(const char *path, char **out)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    if (strcmp(base, "config.json") == 0)
        return stm_format(out, "%.*sgeneration_config.json", (int)(base - path), path);
    return stm_format(out, "%s: generation_config.json", path);
}

stm_status stm_model_config_parse(const char *path, const char *config_json, const char *generation_json,
                                  stm_model_config *out)
{
    stm_status status = STM_OK;
    json_t *config = NULL, *generation = NULL;
    char *beside = NULL;
    stm_model_config parsed = {0};
    STM_GOTO_OUT(generation_path(path, &beside));
    STM_GOTO_OUT(load_object(path, config_json, &config));
    if (generation_json)
        STM_GOTO_OUT(load_object(beside, generation_json, &generation));
    STM_GOTO_OUT(read_config(&(section){path, "", config}, &(section){beside, "", generation}, &parsed));
    *out = parsed;
out:
    json_decref(config);
    json_decref(generation);
    free(beside);
    return status;
}
