/* A model folder is opened or refused: number formats, shards, tied matrices, texts, messages. */
#include "model/layout.h"
#include "support/folder.h"
#include "support/model_folder.h"

#include <jansson.h>
#include <omp.h>
#include <sys/stat.h>
#include <unistd.h>

static void assert_refused(model_folder *f, const char *words)
{
    stm_model *model;
    assert_fails(stm_model_open(f->folder, f->backend, f->stream, &model), STM_ERR_INPUT, words);
    assert_non_null(strstr(stm_failure(), f->folder)); /* and the file */
}

static void assert_refused_with(model_folder *f, const char *words)
{
    model_folder_write(f);
    assert_refused(f, words);
}

static void every_format_and_precision_gives_the_same_model(void **state)
{
    model_folder *f = *state;
    const char *dtypes[] = {"F32", "BF16", "F16", "F64"};
    for (size_t c = 0; c < STM_TEST_N_CONFIGS; c++) {
        uint64_t hash = 0;
        for (size_t real_bytes = 4; real_bytes <= 8; real_bytes += 4) {
            model_folder_forget(f);
            model_folder_use_precision(f, real_bytes);
            model_folder_prepare(f, (stm_test_config)c);
            for (size_t d = 0; d < 4; d++) {
                model_folder_use_dtype(f, dtypes[d]);
                model_folder_write(f);
                stm_model *model = model_folder_open(f);
                assert_same_weights(f, model);
                assert_memory_equal(&model->config, &stm_test_configs[c], sizeof model->config);
                assert_true(model->hash != 0 && (hash == 0 || model->hash == hash));
                hash = model->hash;
                stm_model_destroy(model);
            }
        }
    }
}

/* Of more elements than are read, hashed or written at once. */
static stm_model_config large_config(void)
{
    stm_model_config config = stm_test_configs[STM_TEST_MISTRAL];
    config.vocab_size = 30011;
    return config;
}

static void large_tensors_are_read_and_written_in_portions(void **state)
{
    model_folder *f = *state;
    const stm_model_config config = large_config();
    model_folder_prepare_config(f, &config);
    model_folder_use_dtype(f, "F16");
    model_folder_write(f);
    stm_model *model = model_folder_open(f), *again;
    assert_same_weights(f, model);
    char *to = strdup(stm_test_path(f->folder, "to"));
    assert_ok(stm_model_export(model, to, "bfloat16"));
    assert_ok(stm_model_open(to, f->backend, f->stream, &again));
    assert_same_weights(f, again);
    assert_true(again->hash == model->hash);
    model_folder_find(f, "model.embed_tokens.weight")->values[400000] += 0.25;
    model_folder_write(f);
    assert_true(model_folder_hash(f) != model->hash);
    stm_model_destroy(again);
    stm_model_destroy(model);
    free(to);
}

/* Names, shapes and offsets are what the layers read; the file of each family has these tensors and no others. */
static void the_buffer_holds_what_gemms_read_side_by_side(void **state)
{
    (void)state;
    for (size_t c = 0; c < STM_TEST_N_CONFIGS; c++) {
        const stm_model_config *config = &stm_test_configs[c];
        stm_model *model;
        assert_ok(stm_model_lay_out(config, &model));
        size_t end = 0, in_layers = 0;
        for (size_t i = 0; i < model->n_tensors; i++) {
            const stm_parameter *t = &model->tensors[i];
            assert_int_equal(t->offset, end);
            end += t->n;
            if (t->n_dims == 2 && strstr(t->name, ".layers."))
                in_layers += t->n;
        }
        assert_int_equal(end, model->n_parameters);
        assert_int_equal(model->n_tensors,
                         2 + !config->tied + config->n_layers * (9u + 3u * config->qkv_bias + 2u * config->qk_norm));
        assert_near(stm_model_layer_flops(config), 2.0 * (double)in_layers, 0);
        assert_near(stm_model_head_flops(config), 2.0 * (double)(config->vocab_size * config->hidden_size), 0);
        assert_int_equal(model->head == model->embedding, config->tied);
        const size_t q = stm_test_parameter(model, "model.layers.0.self_attn.q_proj.weight")->offset;
        assert_int_equal(model->layers[0].qkv, q);
        assert_int_equal(stm_test_parameter(model, "model.layers.0.self_attn.v_proj.weight")->offset,
                         q + (config->n_heads + config->n_kv_heads) * config->head_dim * config->hidden_size);
        assert_int_equal(stm_test_parameter(model, "model.layers.0.mlp.up_proj.weight")->offset,
                         model->layers[0].gate_up + config->intermediate_size * config->hidden_size);
        stm_model_destroy(model);
    }
}

/* weight_map of shards 0 .. n-1, item i in shard i % n. */
static void write_shards(const model_folder *f, size_t n)
{
    json_t *map = json_object();
    char name[64];
    for (size_t s = 0; s < n; s++) {
        snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", s + 1, n);
        model_folder_write_shard(f, name, s, n);
        for (size_t i = s; i < f->n_items; i += n)
            json_object_set_new(map, f->items[i].name, json_string(name));
    }
    json_t *index = json_pack("{s:{s:i}, s:o}", "metadata", "total_size", 1, "weight_map", map);
    char *text = json_dumps(index, 0);
    stm_test_write_text(stm_test_path(f->folder, "model.safetensors.index.json"), text);
    free(text);
    json_decref(index);
}

static void shards_threads_and_order_do_not_change_the_model(void **state)
{
    model_folder *f = *state;
    model_folder_write(f);
    const uint64_t hash = model_folder_hash(f);
    const int n_threads = omp_get_max_threads();
    for (size_t n = 1; n <= 5; n++) {
        model_folder_empty(f);
        stm_test_write_text(stm_test_path(f->folder, "config.json"), f->start->config_json);
        write_shards(f, n);
        omp_set_num_threads((int)n);
        stm_model *model = model_folder_open(f);
        assert_same_weights(f, model);
        assert_true(model->hash == hash);
        stm_model_destroy(model);
    }
    omp_set_num_threads(n_threads);
    unlink(stm_test_path(f->folder, "model.safetensors.index.json")); /* then all *.safetensors are the model */
    assert_true(model_folder_hash(f) == hash);

    model_folder_find(f, "model.norm.weight")->values[3] += 1;
    model_folder_write(f); /* goes before shards */
    assert_true(model_folder_hash(f) != hash);
    stm_model *model = model_folder_open(f);
    assert_same_weights(f, model);
    stm_model_destroy(model);
}

static void a_tied_matrix_has_the_name_that_the_file_gives_it(void **state)
{
    model_folder *f = *state;
    model_folder_prepare(f, STM_TEST_LLAMA_TIED);
    model_folder_write(f);
    const uint64_t hash = model_folder_hash(f);

    model_folder_item *embedding = model_folder_find(f, "model.embed_tokens.weight");
    snprintf(embedding->name, sizeof embedding->name, "lm_head.weight");
    model_folder_write(f);
    stm_model *model = model_folder_open(f);
    assert_string_equal(model->tensors[0].name, "lm_head.weight");
    assert_same_weights(f, model);
    assert_true(model->hash == hash);
    stm_model_destroy(model);

    const size_t n_rows = embedding->shape[0], n_columns = embedding->shape[1];
    model_folder_item *copy = model_folder_add(f, "model.embed_tokens.weight", n_rows, n_columns, embedding->values);
    model_folder_write(f);
    model = model_folder_open(f);
    assert_string_equal(model->tensors[0].name, "model.embed_tokens.weight");
    assert_same_weights(f, model);
    stm_model_destroy(model);

    double *other = calloc(copy->n, sizeof *other);
    copy->values = other;
    assert_refused_with(f, "model.safetensors: lm_head.weight: differs from model.embed_tokens.weight, expected an "
                           "equal copy (config.json: tie_word_embeddings is true)");
    model_folder_find(f, "lm_head.weight")->shape[0] = n_rows / 2 + 1;
    model_folder_find(f, "lm_head.weight")->n = (n_rows / 2 + 1) * n_columns;
    copy->values = f->weights;
    assert_refused_with(f, "model.safetensors: lm_head.weight: found shape [31, 20], expected [61, 20]");
    free(other);
}

static void buffers_of_older_files_are_passed_over(void **state)
{
    model_folder *f = *state;
    model_folder_add(f, "model.layers.0.self_attn.rotary_emb.inv_freq", 3, 0, f->weights);
    model_folder_add(f, "model.rotary_emb.inv_freq", 3, 0, f->weights);
    model_folder_write(f);
    stm_model *model = model_folder_open(f);
    assert_same_weights(f, model);
    stm_model_destroy(model);
}

static void tensors_that_do_not_fit_are_refused_by_name(void **state)
{
    model_folder *f = *state;
    model_folder_drop(f, "model.layers.1.mlp.up_proj.weight");
    assert_refused_with(f, "model.safetensors: model.layers.1.mlp.up_proj.weight: missing");

    model_folder_prepare(f, STM_TEST_LLAMA);
    model_folder_drop(f, "lm_head.weight");
    assert_refused_with(f, "lm_head.weight: missing (config.json: tie_word_embeddings is false)");

    model_folder_prepare(f, STM_TEST_LLAMA);
    model_folder_item *x = model_folder_find(f, "model.layers.2.self_attn.k_proj.weight");
    x->shape[0] = 24;
    x->shape[1] = 12;
    assert_refused_with(f, "model.layers.2.self_attn.k_proj.weight: found shape [24, 12], expected [12, 24]");

    model_folder_prepare(f, STM_TEST_LLAMA);
    x = model_folder_find(f, "model.norm.weight");
    x->n_dims = 2;
    x->shape[1] = 1;
    assert_refused_with(f, "model.norm.weight: found shape [24, 1], expected [24]");

    model_folder_prepare(f, STM_TEST_LLAMA);
    model_folder_add(f, "model.layers.0.self_attn.q_proj.bias", 24, 0, f->weights);
    assert_refused_with(f, "model.layers.0.self_attn.q_proj.bias: a llama model as config.json describes it has no "
                           "such tensor; nearest: model.layers.0.self_attn.q_proj.weight");

    model_folder_prepare(f, STM_TEST_LLAMA);
    model_folder_add(f, "model.layers.3.mlp.down_proj.weight", 24, 37, f->weights);
    assert_refused_with(f, "model.layers.3.mlp.down_proj.weight: a llama model as config.json describes it has no");

    model_folder_prepare(f, STM_TEST_QWEN2);
    model_folder_drop(f, "model.layers.1.self_attn.v_proj.bias");
    assert_refused_with(f, "model.layers.1.self_attn.v_proj.bias: missing");

    model_folder_prepare(f, STM_TEST_QWEN3);
    model_folder_drop(f, "model.layers.0.self_attn.k_norm.weight");
    assert_refused_with(f, "model.layers.0.self_attn.k_norm.weight: missing");

    model_folder_prepare(f, STM_TEST_LLAMA);
    model_folder_find(f, "model.norm.weight")->dtype = "I64";
    assert_refused_with(f, "model.norm.weight: dtype: found I64, expected F32, BF16, F16 or F64");

    model_folder_prepare(f, STM_TEST_LLAMA);
    model_folder_find(f, "model.layers.0.mlp.gate_proj.weight")->values[40] = NAN;
    assert_refused_with(f, "model.layers.0.mlp.gate_proj.weight: element 40: found nan, expected a finite number");
}

static void folders_that_are_no_models_are_refused(void **state)
{
    model_folder *f = *state;
    stm_model *model;
    assert_refused(f, ": found no weights, expected model.safetensors, or model.safetensors.index.json");

    char *index = strdup(stm_test_path(f->folder, "model.safetensors.index.json"));
    const char *broken[][2] = {
        {"{", "model.safetensors.index.json: line 1: not JSON"},
        {"{}", "index.json: weight_map: expected an object {tensor: file}"},
        {"{\"weight_map\": {\"a\": 1}}", "weight_map: a: expected the name of a file in the same folder"},
        {"{\"weight_map\": {\"a\": \"../b\"}}", "weight_map: a: expected the name of a file in the same folder"},
        {"{\"weight_map\": {\"a\": \"absent.safetensors\"}}", "/absent.safetensors: cannot be read: No such file"},
        {"{\"weight_map\": {\"a\": \"x.safetensors\"}}", "weight_map: a: found no such tensor in x.safetensors"},
    };
    model_folder_write_shard(f, "x.safetensors", 0, 1);
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        stm_test_write_text(index, broken[i][0]);
        assert_refused(f, broken[i][1]);
    }
    unlink(index);
    free(index);
    model_folder_write_shard(f, "y.safetensors", 0, 5);
    assert_refused(f, "/y.safetensors: model.embed_tokens.weight: is in");

    model_folder_prepare(f, STM_TEST_LLAMA);
    write_shards(f, 3);
    const char *shard = stm_test_path(f->folder, "model-00002-of-00003.safetensors");
    struct stat about;
    assert_true(stat(shard, &about) == 0 && truncate(shard, about.st_size - 1) == 0);
    assert_refused(f, "model-00002-of-00003.safetensors: ");
    assert_non_null(strstr(stm_failure(), "bytes of data"));

    stm_test_write_text(stm_test_path(f->folder, "config.json"), "{\"model_type\": \"gpt2\"}");
    assert_refused(f, "config.json: model_type: found \"gpt2\", expected llama, mistral, qwen2 or qwen3");
    unlink(stm_test_path(f->folder, "config.json"));
    assert_refused(f, "config.json: ");
    assert_fails(stm_model_open("/no/such/folder", f->backend, f->stream, &model), STM_ERR_INPUT,
                 "/no/such/folder/config.json: ");
}

static void describe_and_load_are_the_halves_of_open(void **state)
{
    model_folder *f = *state;
    stm_model *model;
    assert_ok(stm_model_describe(f->folder, &model)); /* a folder without weights */
    assert_ok(stm_model_allocate(model, f->backend, f->stream));
    assert_int_equal(model->n_parameters, f->start->n_parameters);
    assert_true(model->hash == 0);
    assert_fails(stm_model_load(model, f->folder), STM_ERR_INPUT, "found no weights");
    model_folder_write(f);
    assert_ok(stm_model_load(model, f->folder));
    assert_same_weights(f, model);
    assert_true(model->hash == model_folder_hash(f));
    model_folder_find(f, "model.norm.weight")->shape[0] = 23;
    model_folder_find(f, "model.norm.weight")->n = 23;
    model_folder_write(f); /* changed in between */
    assert_fails(stm_model_load(model, f->folder), STM_ERR_INPUT, "model.norm.weight: found shape [23], expected [24]");
    stm_model_destroy(model);
}

static void texts_of_the_folder_are_kept(void **state)
{
    model_folder *f = *state;
    model_folder_write(f);
    stm_model *model = model_folder_open(f);
    assert_string_equal(model->config_json, f->start->config_json);
    assert_null(model->tokenizer_json);
    assert_null(model->tokenizer_config_json);
    assert_null(model->generation_config_json);
    stm_model_destroy(model);

    stm_test_write_text(stm_test_path(f->folder, "tokenizer.json"), "{\"model\": 1}");
    stm_test_write_text(stm_test_path(f->folder, "generation_config.json"), "{\"eos_token_id\": [4, 5]}");
    const char *config = "{\"model_max_length\": 1000000000000000019884624838656, \"bos_token\": \"<s>\"}";
    stm_test_write_text(stm_test_path(f->folder, "tokenizer_config.json"), config);
    model = model_folder_open(f);
    assert_string_equal(model->tokenizer_json, "{\"model\": 1}");
    assert_string_equal(model->generation_config_json, "{\"eos_token_id\": [4, 5]}");
    assert_string_equal(model->tokenizer_config_json, config);
    assert_int_equal(model->config.n_eos, 2);
    assert_int_equal(model->config.eos[1], 5);
    stm_model_destroy(model);
}

/* The template that opening the folder finds. */
static void assert_template(model_folder *f, const char *expected)
{
    stm_model *model = model_folder_open(f);
    json_t *config = json_loads(model->tokenizer_config_json, JSON_DECODE_INT_AS_REAL | JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(config);
    assert_string_equal(json_string_value(json_object_get(config, "chat_template")), expected);
    json_decref(config);
    stm_model_destroy(model);
}

static void a_template_file_becomes_a_member_of_tokenizer_config(void **state)
{
    model_folder *f = *state;
    const char *template = "{% for m in messages %}\n\"{{ m['content'] }}\"\n{% endfor %}\n";
    model_folder_write(f);
    stm_test_write_text(stm_test_path(f->folder, "chat_template.jinja"), template);
    assert_template(f, template);
    char *config = strdup(stm_test_path(f->folder, "tokenizer_config.json"));
    stm_test_write_text(config, "{}");
    assert_template(f, template);
    stm_test_write_text(config, "{\"model_max_length\": 1000000000000000019884624838656}\n");
    assert_template(f, template);
    stm_test_write_text(config, "{\"chat_template\": \"older\"}");
    assert_template(f, template);
    stm_test_write_text(config,
                        "{\"model_max_length\": 1000000000000000019884624838656, \"chat_template\": \"older\"}");
    assert_template(f, template);
    free(config);
}

static void recorded_models_open(void **state)
{
    model_folder *f = *state;
    const struct {
        const char *name;
        size_t n_tensors;
        const char *first;
    } models[] = {
        {"parity/llama", 30, "model.embed_tokens.weight"},
        {"parity/llama3_rope", 29, "model.embed_tokens.weight"},
        {"parity/mistral", 30, "model.embed_tokens.weight"},
        {"parity/qwen2", 38, "model.embed_tokens.weight"},
        {"parity/qwen3", 36, "model.embed_tokens.weight"},
        {"parity/edge_cases", 30, "model.embed_tokens.weight"},
        {"parity/across_groups", 36, "model.embed_tokens.weight"},
        {"models/tiny-random/tiny_llama3", 21, "model.embed_tokens.weight"},
        {"models/TinyStories-656K", 20, "lm_head.weight"}, /* the last two are tested where they are */
        {"models/verl-digit-completion", 39, "model.embed_tokens.weight"},
    };
    enum { N = sizeof models / sizeof *models, N_SHIPPED = N - 2 };
    for (size_t i = 0; i < N; i++) {
        if (i >= N_SHIPPED && !stm_fixture(models[i].name))
            continue;
        stm_model *model = stm_test_open(f->backend, f->stream, models[i].name);
        assert_int_equal(model->n_tensors, models[i].n_tensors);
        assert_string_equal(model->tensors[0].name, models[i].first);
        stm_model_destroy(model);
    }
    stm_model *model;
    assert_fails(stm_model_open(stm_fixture("models/tiny-random/tiny_mistral"), f->backend, f->stream, &model),
                 STM_ERR_INPUT,
                 "tiny_mistral/config.json: sliding_window: found 8, expected null, or at least "
                 "max_position_embeddings, 512: stemma has no sliding window");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, model_folder_create, model_folder_destroy)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_format_and_precision_gives_the_same_model),
        TEST(large_tensors_are_read_and_written_in_portions),
        cmocka_unit_test(the_buffer_holds_what_gemms_read_side_by_side),
        TEST(shards_threads_and_order_do_not_change_the_model),
        TEST(a_tied_matrix_has_the_name_that_the_file_gives_it),
        TEST(buffers_of_older_files_are_passed_over),
        TEST(tensors_that_do_not_fit_are_refused_by_name),
        TEST(folders_that_are_no_models_are_refused),
        TEST(describe_and_load_are_the_halves_of_open),
        TEST(texts_of_the_folder_are_kept),
        TEST(a_template_file_becomes_a_member_of_tokenizer_config),
        TEST(recorded_models_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
