/* A Hugging Face folder -> model. */
#include "model/layout.h"
#include "model/weights.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A text of the folder; *text stays NULL where an optional one is not there. */
static stm_status read_text(const char *folder, const char *name, bool optional, char **text)
{
    char *path = NULL;
    size_t n;
    stm_status status = STM_OK;
    STM_TRY(stm_format(&path, "%s/%s", folder, name));
    if (!optional || access(path, F_OK) == 0)
        status = stm_read_file(path, text, &n);
    free(path);
    return status;
}

/* Takes a member out of a JSON object's text. */
static stm_status remove_member(json_t *object, const char *key, char **text)
{
    json_object_del(object, key);
    char *rest = json_dumps(object, JSON_INDENT(2));
    if (!rest)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    free(*text);
    *text = rest;
    return STM_OK;
}

/* Newer folders hold the chat template in a file of its own, which stands for the member "chat_template" of
 * tokenizer_config.json, even where there is one (as transformers has it): it is put there. The rest of that text stays
 * as it is where it can, for numbers in it need not fit C's. */
static stm_status add_chat_template(const char *folder, char **config)
{
    stm_status status = STM_OK;
    char *template = NULL, *quoted = NULL, *joined = NULL;
    json_t *object = NULL, *string = NULL;
    STM_GOTO_OUT(read_text(folder, "chat_template.jinja", true, &template));
    if (!template)
        goto out;
    if (!(object = json_loads(*config ? *config : "{}", 0, NULL)))
        object = json_loads(*config, JSON_DECODE_INT_AS_REAL, NULL);
    if (!json_is_object(object))
        goto out; /* not JSON: whoever reads it says so */
    if (json_object_get(object, "chat_template"))
        STM_GOTO_OUT(remove_member(object, "chat_template", config));
    if (!(string = json_string(template))) {
        status = stm_fail(STM_ERR_INPUT, "%s/chat_template.jinja: not UTF-8", folder);
        goto out;
    }
    if (!(quoted = json_dumps(string, JSON_ENCODE_ANY))) {
        status = stm_fail(STM_ERR_MEMORY, "out of memory");
        goto out;
    }
    const char *members = *config ? strchr(*config, '{') + 1 : "}";
    STM_GOTO_OUT(
        stm_format(&joined, "{\n  \"chat_template\": %s%s%s", quoted, json_object_size(object) ? "," : "\n", members));
    free(*config);
    *config = joined;
out:
    free(template);
    free(quoted);
    json_decref(object);
    json_decref(string);
    return status;
}

/* A tied matrix has the name under which the files hold it. */
static void name_embedding(stm_model *model, const stm_weights *weights)
{
    const stm_safetensors *file;
    const stm_tensor *tensor;
    stm_parameter *embedding = &model->tensors[0];
    if (model->config.tied && !stm_weights_find(weights, embedding->name, &file, &tensor) &&
        stm_weights_find(weights, "lm_head.weight", &file, &tensor))
        snprintf(embedding->name, sizeof embedding->name, "lm_head.weight");
}

stm_status stm_model_describe(const char *folder, stm_model **out)
{
    stm_status status = STM_OK;
    char *path = NULL, *texts[4] = {0};
    stm_model_config config;
    stm_weights *weights = NULL;
    stm_model *model = NULL;
    STM_GOTO_OUT(stm_format(&path, "%s/config.json", folder));
    STM_GOTO_OUT(read_text(folder, "config.json", false, &texts[0]));
    STM_GOTO_OUT(read_text(folder, "tokenizer.json", true, &texts[1]));
    STM_GOTO_OUT(read_text(folder, "tokenizer_config.json", true, &texts[2]));
    STM_GOTO_OUT(read_text(folder, "generation_config.json", true, &texts[3]));
    STM_GOTO_OUT(add_chat_template(folder, &texts[2]));
    STM_GOTO_OUT(stm_model_config_parse(path, texts[0], texts[3], &config));
    STM_GOTO_OUT(stm_model_lay_out(&config, &model));
    STM_GOTO_OUT(stm_weights_open(folder, &weights));
    name_embedding(model, weights);
    if (weights->n_files) /* before memory is taken: a wrong config.json may ask for a lot */
        STM_GOTO_OUT(stm_weights_check(weights, model));
    model->config_json = texts[0];
    model->tokenizer_json = texts[1];
    model->tokenizer_config_json = texts[2];
    model->generation_config_json = texts[3];
    memset(texts, 0, sizeof texts);
    *out = model;
    model = NULL;
out:
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        free(texts[i]);
    free(path);
    stm_weights_close(weights);
    stm_model_destroy(model);
    return status;
}

stm_status stm_model_open(const char *folder, const stm_backend *backend, stm_stream *stream, stm_model **out)
{
    stm_model *model;
    STM_TRY(stm_model_describe(folder, &model));
    stm_status status = stm_model_allocate(model, backend, stream);
    if (status == STM_OK)
        status = stm_model_load(model, folder);
    if (status != STM_OK) {
        stm_model_destroy(model);
        return status;
    }
    *out = model;
    return STM_OK;
}
