/* A model is written as a Hugging Face folder. */
#include <jansson.h>
#include <unistd.h>

#include "support/folder.h"
#include "support/model_folder.h"

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
    model_folder *f = *state;
    for (size_t c = 0; c < STM_TEST_N_CONFIGS; c++) {
        model_folder_prepare(f, (stm_test_config)c);
        const bool head_only = c == STM_TEST_LLAMA_TIED;
        if (head_only)
            snprintf(model_folder_find(f, "model.embed_tokens.weight")->name, sizeof f->items->name, "lm_head.weight");
        model_folder_write(f);
        stm_test_write_text(stm_test_path(f->folder, "tokenizer.json"), "{\"model\": 1}");
        stm_test_write_text(stm_test_path(f->folder, "generation_config.json"), "{\"eos_token_id\": 6}");
        stm_model *model = model_folder_open(f);
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
        assert_true(model_folder_hash(f) == model->hash);
        stm_model_destroy(model);
    }
}

static void the_exported_type_stands_under_the_key_of_the_spelling(void **state)
{
    model_folder *f = *state;
    char *to = strdup(stm_test_path(f->folder, "to"));
    const struct {
        const char *members, *dtype, *torch_dtype;
    } cases[] = {{"\"rope_theta\": 1e4", "", "bfloat16"},
                 {"\"rope_theta\": 1e4, \"torch_dtype\": \"float32\"", "", "bfloat16"},
                 {"\"rope_theta\": 1e4, \"dtype\": \"float32\"", "bfloat16", ""},
                 {"\"rope_parameters\": {\"rope_theta\": 1e4}", "bfloat16", ""},
                 {"\"dtype\": \"float32\", \"torch_dtype\": \"float32\"", "bfloat16", "bfloat16"}};
    model_folder_write(f);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[512];
        snprintf(text, sizeof text,
                 "{\"model_type\": \"llama\", \"vocab_size\": 53, \"hidden_size\": 24, \"intermediate_size\": 37, "
                 "\"num_hidden_layers\": 3, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
                 "\"rms_norm_eps\": 1e-05, \"max_position_embeddings\": 64, %s}",
                 cases[i].members);
        stm_test_write_text(stm_test_path(f->folder, "config.json"), text);
        stm_model *model = model_folder_open(f), *again;
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
    model_folder *f = *state;
    model_folder_write(f);
    stm_model *model = model_folder_open(f);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_exported_folder_opens_as_the_same_model, model_folder_create,
                                        model_folder_destroy),
        cmocka_unit_test_setup_teardown(the_exported_type_stands_under_the_key_of_the_spelling, model_folder_create,
                                        model_folder_destroy),
        cmocka_unit_test_setup_teardown(a_failed_export_names_the_file_and_leaves_none_half_written,
                                        model_folder_create, model_folder_destroy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
