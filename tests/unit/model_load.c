/* A model folder is opened, refused or written: number formats, shards, tied matrices, texts, messages. */
#include "model/layout.h"
#include "support/folder.h"
#include "support/model.h"

#include <jansson.h>
#include <omp.h>
#include <sys/stat.h>
#include <unistd.h>

/* A tensor as a file shall hold it. */
typedef struct {
    char name[96];
    const char *dtype;
    size_t n_dims, shape[2], n;
    double *values; /* [n], in the fixture's weights */
} item;

enum { MOST_ITEMS = 64 };

/* A folder, and a model whose weights are multiples of 1/32 below 8: these are exact in each format. */
typedef struct {
    char *folder;
    const stm_backend *backend;
    stm_stream *stream;
    stm_model *start;
    double *weights; /* [n_parameters] */
    item items[MOST_ITEMS];
    size_t n_items;
} fixture;

static void use_precision(fixture *f, size_t real_bytes)
{
    if (f->stream)
        f->backend->close(f->stream);
    assert_ok(stm_backend_find("cpu", real_bytes == 8 ? STM_FLOAT64 : STM_FLOAT32, &f->backend));
    assert_ok(f->backend->open(1, &f->stream));
}

static void forget_model(fixture *f)
{
    stm_model_destroy(f->start);
    free(f->weights);
    f->start = NULL;
    f->weights = NULL;
}

static void empty_folder(fixture *f)
{
    if (f->folder)
        stm_test_folder_remove(f->folder);
    f->folder = stm_test_folder_create();
}

/* config.json, and items for all tensors; no weights yet. */
static void prepare_config(fixture *f, const stm_model_config *config)
{
    empty_folder(f);
    forget_model(f);
    f->start = stm_test_model(f->backend, f->stream, config, 3);
    f->weights = stm_test_weights(f->start);
    for (size_t i = 0; i < f->start->n_parameters; i++) {
        f->weights[i] = round(f->weights[i] * 32) / 32;
        assert_true(fabs(f->weights[i]) < 8);
    }
    f->n_items = 0;
    for (size_t i = 0; i < f->start->n_tensors; i++) {
        const stm_parameter *t = &f->start->tensors[i];
        item *x = &f->items[f->n_items++];
        *x = (item){.dtype = "F32",
                    .n_dims = t->n_dims,
                    .shape = {t->shape[0], t->shape[1]},
                    .n = t->n,
                    .values = f->weights + t->offset};
        snprintf(x->name, sizeof x->name, "%s", t->name);
    }
    stm_test_write_text(stm_test_path(f->folder, "config.json"), f->start->config_json);
}

static void prepare(fixture *f, stm_test_config which)
{
    prepare_config(f, &stm_test_configs[which]);
}

static int create_fixture(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    *state = f;
    use_precision(f, 8);
    prepare(f, STM_TEST_LLAMA);
    return 0;
}

static int destroy_fixture(void **state)
{
    fixture *f = *state;
    forget_model(f);
    f->backend->close(f->stream);
    stm_test_folder_remove(f->folder);
    free(f);
    return 0;
}

static item *find(fixture *f, const char *name)
{
    size_t i = 0;
    while (i < f->n_items && strcmp(f->items[i].name, name) != 0)
        i++;
    assert_true(i < f->n_items);
    return &f->items[i];
}

static void drop(fixture *f, const char *name)
{
    item *x = find(f, name);
    memmove(x, x + 1, (size_t)(f->items + --f->n_items - x) * sizeof *x);
}

static item *add(fixture *f, const char *name, size_t n_rows, size_t n_columns, double *values)
{
    assert_true(f->n_items < MOST_ITEMS);
    item *x = &f->items[f->n_items++];
    *x = (item){.dtype = "F32",
                .n_dims = n_columns ? 2 : 1,
                .shape = {n_rows, n_columns},
                .n = n_rows * (n_columns ? n_columns : 1),
                .values = values};
    snprintf(x->name, sizeof x->name, "%s", name);
    return x;
}

static void use_dtype(fixture *f, const char *dtype)
{
    for (size_t i = 0; i < f->n_items; i++)
        f->items[i].dtype = dtype;
}

static uint16_t half_of(double x)
{
    int exponent;
    const double mantissa = frexp(fabs(x), &exponent); /* [0.5, 1) */
    const int sign = signbit(x) ? 0x8000 : 0;
    return x == 0 ? (uint16_t)sign : (uint16_t)(sign + (exponent + 13) * 1024 + (int)ldexp(mantissa, 11));
}

/* Returns the bytes written. */
static size_t put(const char *dtype, double x, unsigned char *to)
{
    const float narrow = (float)x;
    const uint16_t half = half_of(x);
    if (strcmp(dtype, "F32") == 0)
        return memcpy(to, &narrow, 4), 4;
    if (strcmp(dtype, "F64") == 0 || strcmp(dtype, "I64") == 0)
        return memcpy(to, &x, 8), 8;
    if (strcmp(dtype, "BF16") == 0)
        return memcpy(to, (const char *)&narrow + 2, 2), 2; /* the upper half; the lower is zero */
    return memcpy(to, &half, 2), 2;
}

/* Writes every `stride`-th item, from `first` on. */
static void write_shard(const fixture *f, const char *name, size_t first, size_t stride)
{
    unsigned char *data = calloc(f->start->n_parameters * 3 + 1, 8);
    json_t *header = json_object();
    size_t place = 0;
    assert_true(data && header);
    for (size_t i = first; i < f->n_items; i += stride) {
        const item *x = &f->items[i];
        const size_t begin = place;
        for (size_t k = 0; k < x->n; k++)
            place += put(x->dtype, x->values[k], data + place);
        json_t *shape = json_pack("[I]", (json_int_t)x->shape[0]);
        if (x->n_dims == 2)
            json_array_append_new(shape, json_integer((json_int_t)x->shape[1]));
        json_object_set_new(header, x->name,
                            json_pack("{s:s, s:o, s:[I, I]}", "dtype", x->dtype, "shape", shape, "data_offsets",
                                      (json_int_t)begin, (json_int_t)place));
    }
    char *text = json_dumps(header, 0);
    const uint64_t n = strlen(text);
    unsigned char *bytes = calloc(8 + n + place, 1);
    memcpy(bytes, &n, 8);
    memcpy(bytes + 8, text, n);
    memcpy(bytes + 8 + n, data, place);
    stm_test_write(stm_test_path(f->folder, name), bytes, 8 + n + place);
    json_decref(header);
    free(text);
    free(bytes);
    free(data);
}

static void write_one(const fixture *f)
{
    write_shard(f, "model.safetensors", 0, 1);
}

static stm_model *opened(fixture *f)
{
    stm_model *model;
    assert_ok(stm_model_open(f->folder, f->backend, f->stream, &model));
    return model;
}

static void assert_refused(fixture *f, const char *words)
{
    stm_model *model;
    assert_fails(stm_model_open(f->folder, f->backend, f->stream, &model), STM_ERR_INPUT, words);
    assert_non_null(strstr(stm_failure(), f->folder)); /* and the file */
}

static void assert_refused_with(fixture *f, const char *words)
{
    write_one(f);
    assert_refused(f, words);
}

static void assert_same_weights(const fixture *f, const stm_model *model)
{
    assert_int_equal(model->n_parameters, f->start->n_parameters);
    double *found = stm_test_weights(model);
    for (size_t i = 0; i < model->n_parameters; i++)
        assert_true(found[i] == f->weights[i]);
    free(found);
}

static uint64_t hash_of(fixture *f)
{
    stm_model *model = opened(f);
    const uint64_t hash = model->hash;
    stm_model_destroy(model);
    return hash;
}

static void every_format_and_precision_gives_the_same_model(void **state)
{
    fixture *f = *state;
    const char *dtypes[] = {"F32", "BF16", "F16", "F64"};
    for (size_t c = 0; c < STM_TEST_N_CONFIGS; c++) {
        uint64_t hash = 0;
        for (size_t real_bytes = 4; real_bytes <= 8; real_bytes += 4) {
            forget_model(f);
            use_precision(f, real_bytes);
            prepare(f, (stm_test_config)c);
            for (size_t d = 0; d < 4; d++) {
                use_dtype(f, dtypes[d]);
                write_one(f);
                stm_model *model = opened(f);
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
    fixture *f = *state;
    const stm_model_config config = large_config();
    prepare_config(f, &config);
    use_dtype(f, "F16");
    write_one(f);
    stm_model *model = opened(f), *again;
    assert_same_weights(f, model);
    char *to = strdup(stm_test_path(f->folder, "to"));
    assert_ok(stm_model_export(model, to, "bfloat16"));
    assert_ok(stm_model_open(to, f->backend, f->stream, &again));
    assert_same_weights(f, again);
    assert_true(again->hash == model->hash);
    find(f, "model.embed_tokens.weight")->values[400000] += 0.25;
    write_one(f);
    assert_true(hash_of(f) != model->hash);
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
static void write_shards(const fixture *f, size_t n)
{
    json_t *map = json_object();
    char name[64];
    for (size_t s = 0; s < n; s++) {
        snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", s + 1, n);
        write_shard(f, name, s, n);
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
    fixture *f = *state;
    write_one(f);
    const uint64_t hash = hash_of(f);
    const int n_threads = omp_get_max_threads();
    for (size_t n = 1; n <= 5; n++) {
        empty_folder(f);
        stm_test_write_text(stm_test_path(f->folder, "config.json"), f->start->config_json);
        write_shards(f, n);
        omp_set_num_threads((int)n);
        stm_model *model = opened(f);
        assert_same_weights(f, model);
        assert_true(model->hash == hash);
        stm_model_destroy(model);
    }
    omp_set_num_threads(n_threads);
    unlink(stm_test_path(f->folder, "model.safetensors.index.json")); /* then all *.safetensors are the model */
    assert_true(hash_of(f) == hash);

    find(f, "model.norm.weight")->values[3] += 1;
    write_one(f); /* goes before shards */
    assert_true(hash_of(f) != hash);
    stm_model *model = opened(f);
    assert_same_weights(f, model);
    stm_model_destroy(model);
}

static void a_tied_matrix_has_the_name_that_the_file_gives_it(void **state)
{
    fixture *f = *state;
    prepare(f, STM_TEST_LLAMA_TIED);
    write_one(f);
    const uint64_t hash = hash_of(f);

    item *embedding = find(f, "model.embed_tokens.weight");
    snprintf(embedding->name, sizeof embedding->name, "lm_head.weight");
    write_one(f);
    stm_model *model = opened(f);
    assert_string_equal(model->tensors[0].name, "lm_head.weight");
    assert_same_weights(f, model);
    assert_true(model->hash == hash);
    stm_model_destroy(model);

    const size_t n_rows = embedding->shape[0], n_columns = embedding->shape[1];
    item *copy = add(f, "model.embed_tokens.weight", n_rows, n_columns, embedding->values);
    write_one(f);
    model = opened(f);
    assert_string_equal(model->tensors[0].name, "model.embed_tokens.weight");
    assert_same_weights(f, model);
    stm_model_destroy(model);

    double *other = calloc(copy->n, sizeof *other);
    copy->values = other;
    assert_refused_with(f, "model.safetensors: lm_head.weight: differs from model.embed_tokens.weight, expected an "
                           "equal copy (config.json: tie_word_embeddings is true)");
    find(f, "lm_head.weight")->shape[0] = n_rows / 2 + 1;
    find(f, "lm_head.weight")->n = (n_rows / 2 + 1) * n_columns;
    copy->values = f->weights;
    assert_refused_with(f, "model.safetensors: lm_head.weight: found shape [31, 20], expected [61, 20]");
    free(other);
}

static void buffers_of_older_files_are_passed_over(void **state)
{
    fixture *f = *state;
    add(f, "model.layers.0.self_attn.rotary_emb.inv_freq", 3, 0, f->weights);
    add(f, "model.rotary_emb.inv_freq", 3, 0, f->weights);
    write_one(f);
    stm_model *model = opened(f);
    assert_same_weights(f, model);
    stm_model_destroy(model);
}

static void tensors_that_do_not_fit_are_refused_by_name(void **state)
{
    fixture *f = *state;
    drop(f, "model.layers.1.mlp.up_proj.weight");
    assert_refused_with(f, "model.safetensors: model.layers.1.mlp.up_proj.weight: missing");

    prepare(f, STM_TEST_LLAMA);
    drop(f, "lm_head.weight");
    assert_refused_with(f, "lm_head.weight: missing (config.json: tie_word_embeddings is false)");

    prepare(f, STM_TEST_LLAMA);
    item *x = find(f, "model.layers.2.self_attn.k_proj.weight");
    x->shape[0] = 24;
    x->shape[1] = 12;
    assert_refused_with(f, "model.layers.2.self_attn.k_proj.weight: found shape [24, 12], expected [12, 24]");

    prepare(f, STM_TEST_LLAMA);
    x = find(f, "model.norm.weight");
    x->n_dims = 2;
    x->shape[1] = 1;
    assert_refused_with(f, "model.norm.weight: found shape [24, 1], expected [24]");

    prepare(f, STM_TEST_LLAMA);
    add(f, "model.layers.0.self_attn.q_proj.bias", 24, 0, f->weights);
    assert_refused_with(f, "model.layers.0.self_attn.q_proj.bias: a llama model as config.json describes it has no "
                           "such tensor; nearest: model.layers.0.self_attn.q_proj.weight");

    prepare(f, STM_TEST_LLAMA);
    add(f, "model.layers.3.mlp.down_proj.weight", 24, 37, f->weights);
    assert_refused_with(f, "model.layers.3.mlp.down_proj.weight: a llama model as config.json describes it has no");

    prepare(f, STM_TEST_QWEN2);
    drop(f, "model.layers.1.self_attn.v_proj.bias");
    assert_refused_with(f, "model.layers.1.self_attn.v_proj.bias: missing");

    prepare(f, STM_TEST_QWEN3);
    drop(f, "model.layers.0.self_attn.k_norm.weight");
    assert_refused_with(f, "model.layers.0.self_attn.k_norm.weight: missing");

    prepare(f, STM_TEST_LLAMA);
    find(f, "model.norm.weight")->dtype = "I64";
    assert_refused_with(f, "model.norm.weight: dtype: found I64, expected F32, BF16, F16 or F64");

    prepare(f, STM_TEST_LLAMA);
    find(f, "model.layers.0.mlp.gate_proj.weight")->values[40] = NAN;
    assert_refused_with(f, "model.layers.0.mlp.gate_proj.weight: element 40: found nan, expected a finite number");
}

static void folders_that_are_no_models_are_refused(void **state)
{
    fixture *f = *state;
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
    write_shard(f, "x.safetensors", 0, 1);
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        stm_test_write_text(index, broken[i][0]);
        assert_refused(f, broken[i][1]);
    }
    unlink(index);
    free(index);
    write_shard(f, "y.safetensors", 0, 5);
    assert_refused(f, "/y.safetensors: model.embed_tokens.weight: is in");

    prepare(f, STM_TEST_LLAMA);
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
    fixture *f = *state;
    stm_model *model;
    assert_ok(stm_model_describe(f->folder, &model)); /* a folder without weights */
    assert_ok(stm_model_allocate(model, f->backend, f->stream));
    assert_int_equal(model->n_parameters, f->start->n_parameters);
    assert_true(model->hash == 0);
    assert_fails(stm_model_load(model, f->folder), STM_ERR_INPUT, "found no weights");
    write_one(f);
    assert_ok(stm_model_load(model, f->folder));
    assert_same_weights(f, model);
    assert_true(model->hash == hash_of(f));
    find(f, "model.norm.weight")->shape[0] = 23;
    find(f, "model.norm.weight")->n = 23;
    write_one(f); /* changed in between */
    assert_fails(stm_model_load(model, f->folder), STM_ERR_INPUT, "model.norm.weight: found shape [23], expected [24]");
    stm_model_destroy(model);
}

static void texts_of_the_folder_are_kept(void **state)
{
    fixture *f = *state;
    write_one(f);
    stm_model *model = opened(f);
    assert_string_equal(model->config_json, f->start->config_json);
    assert_null(model->tokenizer_json);
    assert_null(model->tokenizer_config_json);
    assert_null(model->generation_config_json);
    stm_model_destroy(model);

    stm_test_write_text(stm_test_path(f->folder, "tokenizer.json"), "{\"model\": 1}");
    stm_test_write_text(stm_test_path(f->folder, "generation_config.json"), "{\"eos_token_id\": [4, 5]}");
    const char *config = "{\"model_max_length\": 1000000000000000019884624838656, \"bos_token\": \"<s>\"}";
    stm_test_write_text(stm_test_path(f->folder, "tokenizer_config.json"), config);
    model = opened(f);
    assert_string_equal(model->tokenizer_json, "{\"model\": 1}");
    assert_string_equal(model->generation_config_json, "{\"eos_token_id\": [4, 5]}");
    assert_string_equal(model->tokenizer_config_json, config);
    assert_int_equal(model->config.n_eos, 2);
    assert_int_equal(model->config.eos[1], 5);
    stm_model_destroy(model);
}

/* The template that opening the folder finds. */
static void assert_template(fixture *f, const char *expected)
{
    stm_model *model = opened(f);
    json_t *config = json_loads(model->tokenizer_config_json, JSON_DECODE_INT_AS_REAL | JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(config);
    assert_string_equal(json_string_value(json_object_get(config, "chat_template")), expected);
    json_decref(config);
    stm_model_destroy(model);
}

static void a_template_file_becomes_a_member_of_tokenizer_config(void **state)
{
    fixture *f = *state;
    const char *template = "{% for m in messages %}\n\"{{ m['content'] }}\"\n{% endfor %}\n";
    write_one(f);
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

/* The member of config.json in `folder`, or "". */
static const char *exported_dtype(const char *folder, const char *key)
{
    static char found[32];
    json_t *config = json_load_file(stm_test_path(folder, "config.json"), 0, NULL);
    assert_non_null(config);
    const char *value = json_string_value(json_object_get(config, key));
    snprintf(found, sizeof found, "%s", value ? value : "");
    json_decref(config);
    return found;
}

static void an_exported_folder_opens_as_the_same_model(void **state)
{
    fixture *f = *state;
    for (size_t c = 0; c < STM_TEST_N_CONFIGS; c++) {
        prepare(f, (stm_test_config)c);
        const bool head_only = c == STM_TEST_LLAMA_TIED;
        if (head_only)
            snprintf(find(f, "model.embed_tokens.weight")->name, sizeof f->items->name, "lm_head.weight");
        write_one(f);
        stm_test_write_text(stm_test_path(f->folder, "tokenizer.json"), "{\"model\": 1}");
        stm_test_write_text(stm_test_path(f->folder, "generation_config.json"), "{\"eos_token_id\": 6}");
        stm_model *model = opened(f);
        for (size_t wide = 0; wide < 2; wide++) { /* the weights are exact in both formats */
            char *to = strdup(stm_test_path(f->folder, wide ? "to/float32" : "to/bfloat16"));
            assert_ok(stm_model_export(model, to, wide ? "float32" : "bfloat16"));
            assert_int_equal(stm_test_count_files(to), 4);
            assert_string_equal(exported_dtype(to, "dtype"), wide ? "float32" : "bfloat16");
            assert_string_equal(exported_dtype(to, "torch_dtype"), "");
            stm_model *again;
            assert_ok(stm_model_open(to, f->backend, f->stream, &again));
            assert_same_weights(f, again);
            assert_true(again->hash == model->hash);
            assert_memory_equal(&again->config, &model->config, sizeof model->config);
            assert_string_equal(again->tensors[0].name, model->tensors[0].name);
            assert_string_equal(again->tokenizer_json, model->tokenizer_json);
            assert_string_equal(again->generation_config_json, model->generation_config_json);
            stm_model_destroy(again);
            free(to);
        }
        assert_ok(stm_model_export(model, f->folder, "float32")); /* over the folder that it came from */
        assert_true(hash_of(f) == model->hash);
        stm_model_destroy(model);
    }
}

static void the_exported_type_stands_under_the_key_of_the_spelling(void **state)
{
    fixture *f = *state;
    char *to = strdup(stm_test_path(f->folder, "to"));
    const struct {
        const char *members, *dtype, *torch_dtype;
    } cases[] = {{"\"rope_theta\": 1e4", "", "bfloat16"},
                 {"\"rope_theta\": 1e4, \"torch_dtype\": \"float32\"", "", "bfloat16"},
                 {"\"rope_theta\": 1e4, \"dtype\": \"float32\"", "bfloat16", ""},
                 {"\"rope_parameters\": {\"rope_theta\": 1e4}", "bfloat16", ""},
                 {"\"dtype\": \"float32\", \"torch_dtype\": \"float32\"", "bfloat16", "bfloat16"}};
    write_one(f);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[512];
        snprintf(text, sizeof text,
                 "{\"model_type\": \"llama\", \"vocab_size\": 53, \"hidden_size\": 24, \"intermediate_size\": 37, "
                 "\"num_hidden_layers\": 3, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
                 "\"rms_norm_eps\": 1e-05, \"max_position_embeddings\": 64, %s}",
                 cases[i].members);
        stm_test_write_text(stm_test_path(f->folder, "config.json"), text);
        stm_model *model = opened(f), *again;
        assert_ok(stm_model_export(model, to, "bfloat16"));
        assert_string_equal(exported_dtype(to, "dtype"), cases[i].dtype);
        assert_string_equal(exported_dtype(to, "torch_dtype"), cases[i].torch_dtype);
        assert_ok(stm_model_open(to, f->backend, f->stream, &again));
        assert_memory_equal(&again->config, &model->config, sizeof model->config);
        stm_model_destroy(again);
        stm_model_destroy(model);
    }
    free(to);
}

static void a_failed_export_names_the_file_and_leaves_none_half_written(void **state)
{
    fixture *f = *state;
    write_one(f);
    stm_model *model = opened(f);
    assert_fails(stm_model_export(model, f->folder, "int8"), STM_ERR_INPUT,
                 "dtype: found int8, expected float32 or bfloat16");

    const char *file = stm_test_path(f->folder, "file");
    stm_test_write_text(file, "");
    assert_fails(stm_model_export(model, file, "float32"), STM_ERR_IO, file);

    char *to = strdup(stm_test_path(f->folder, "to"));
    assert_ok(stm_make_folders(stm_test_path(to, "model.safetensors"))); /* in the way */
    assert_fails(stm_model_export(model, to, "float32"), STM_ERR_IO, "to/model.safetensors: Is a directory");
    assert_int_equal(stm_test_count_files(to), 1);
    assert_int_equal(rmdir(stm_test_path(to, "model.safetensors")), 0);

    /* What happens where the disk is full: /dev/full takes nothing. */
    assert_int_equal(symlink("/dev/full", stm_test_path(to, "model.safetensors.part")), 0);
    assert_fails(stm_model_export(model, to, "float32"), STM_ERR_IO,
                 "to/model.safetensors.part: cannot be written: No space left on device");
    assert_int_equal(stm_test_count_files(to), 0);
    assert_int_equal(symlink("/dev/full", stm_test_path(to, "config.json.part")), 0);
    assert_fails(stm_model_export(model, to, "float32"), STM_ERR_IO,
                 "to/config.json.part: cannot be written: No space left on device");
    assert_int_equal(stm_test_count_files(to), 0);
    assert_ok(stm_model_export(model, to, "float32"));
    assert_int_equal(stm_test_count_files(to), 2);
    free(to);
    stm_model_destroy(model);
}

static void random_weights_depend_on_the_seed_alone(void **state)
{
    fixture *f = *state;
    const int n_threads = omp_get_max_threads();
    stm_model *model;
    assert_ok(stm_model_create(&stm_test_configs[STM_TEST_QWEN2], f->backend, f->stream, &model));
    omp_set_num_threads(1);
    assert_ok(stm_model_randomize(model, 5));
    double *a = stm_test_weights(model);
    omp_set_num_threads(3);
    assert_ok(stm_model_randomize(model, 5));
    double *b = stm_test_weights(model);
    assert_memory_equal(a, b, model->n_parameters * sizeof *a);
    assert_ok(stm_model_randomize(model, 6));
    double *c = stm_test_weights(model);
    assert_true(memcmp(a, c, model->n_parameters * sizeof *a) != 0);
    omp_set_num_threads(n_threads);

    for (size_t t = 0; t < model->n_tensors; t++) {
        const stm_parameter *tensor = &model->tensors[t];
        const bool output = strstr(tensor->name, "o_proj") || strstr(tensor->name, "down_proj");
        double sum = 0, squares = 0;
        for (size_t i = 0; i < tensor->n; i++) {
            sum += a[tensor->offset + i];
            squares += a[tensor->offset + i] * a[tensor->offset + i];
        }
        if (tensor->n_dims == 1) {
            assert_near(sum, strstr(tensor->name, ".bias") ? 0.0 : (double)tensor->n, 0);
        } else { /* the deviation of n draws is known to sqrt(1 / 2n), here 3 %: five of these */
            assert_near(sqrt(squares / (double)tensor->n) / 0.02, output ? 0.5 : 1.0,
                        0.16); /* 1 / sqrt(2 * 2 layers) */
        }
    }
    const size_t n = stm_test_parameter(model, "model.layers.0.mlp.gate_proj.weight")->n;
    const double *gate = a + model->layers[0].gate_up;
    assert_true(memcmp(gate, gate + n, n * sizeof *gate) != 0);                     /* another tensor */
    assert_true(memcmp(gate, a + model->layers[1].gate_up, n * sizeof *gate) != 0); /* another layer */
    free(a);
    free(b);
    free(c);
    stm_model_destroy(model);

    const stm_model_config wide = {"llama", 200, 64, 64, 1, 4, 4, 16, 32, .initializer_range = 0.08, .rope_theta = 1e4};
    assert_ok(stm_model_create(&wide, f->backend, f->stream, &model));
    assert_ok(stm_model_randomize(model, 5));
    a = stm_test_weights(model);
    double squares = 0;
    for (size_t i = 0; i < 200 * 64; i++)
        squares += a[model->embedding + i] * a[model->embedding + i];
    assert_near(sqrt(squares / (200 * 64)) / 0.08, 1.0, 0.04); /* known to 0.6 % */
    free(a);
    stm_model_destroy(model);

    const stm_model_config large = large_config();
    assert_ok(stm_model_create(&large, f->backend, f->stream, &model));
    assert_ok(stm_model_randomize(model, 5));
    a = stm_test_weights(model);
    for (size_t first = 1024; first <= 1 << 18; first *= 2)
        assert_true(memcmp(a, a + first, 1024 * sizeof *a) != 0); /* nothing comes again */
    free(a);
    stm_model_destroy(model);
}

static void recorded_models_open(void **state)
{
    fixture *f = *state;
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

#define TEST(name) cmocka_unit_test_setup_teardown(name, create_fixture, destroy_fixture)

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
        TEST(an_exported_folder_opens_as_the_same_model),
        TEST(the_exported_type_stands_under_the_key_of_the_spelling),
        TEST(a_failed_export_names_the_file_and_leaves_none_half_written),
        TEST(random_weights_depend_on_the_seed_alone),
        TEST(recorded_models_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
