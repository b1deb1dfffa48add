/* Model -> a Hugging Face folder. Every file is complete under a temporary name before any gets its own. */
#include "model/safetensors.h"
#include "model/stages.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Shortest form of the reals that still reads back as the same numbers: 1e-05 stays 1e-05. */
static char *dump_faithfully(const json_t *value)
{
    for (size_t digits = 6; digits <= 17; digits++) {
        char *text = json_dumps(value, JSON_INDENT(2) | JSON_REAL_PRECISION(digits));
        json_t *again = text ? json_loads(text, 0, NULL) : NULL;
        const bool same = again && json_equal(value, again);
        json_decref(again);
        if (same)
            return text;
        free(text);
    }
    return NULL;
}

/* config.json with its type of weights changed, under the key(s) it has; without one, under the key of its other
 * spellings. */
static stm_status config_text(const stm_model *model, const char *dtype, char **out)
{
    json_t *config = model->config_json ? json_loads(model->config_json, 0, NULL) : NULL;
    if (!json_is_object(config)) {
        json_decref(config);
        return stm_fail(STM_ERR_INPUT, "export: the model holds no config.json");
    }
    const bool old_key = json_object_get(config, "torch_dtype"), new_key = json_object_get(config, "dtype");
    const bool new_spelling = json_object_get(config, "rope_parameters");
    if (old_key || (!new_key && !new_spelling))
        json_object_set_new(config, "torch_dtype", json_string(dtype));
    if (new_key || (!old_key && new_spelling))
        json_object_set_new(config, "dtype", json_string(dtype));
    *out = dump_faithfully(config);
    json_decref(config);
    return *out ? STM_OK : stm_fail(STM_ERR_MEMORY, "out of memory");
}

/* A file of `folder` with a temporary name, fsynced. */
static stm_status write_part(const char *folder, const char *name, const char *text)
{
    char *path = NULL;
    STM_TRY(stm_format(&path, "%s/%s.part", folder, name));
    FILE *file = fopen(path, "wb");
    const bool written =
        file && fwrite(text, 1, strlen(text), file) == strlen(text) && fflush(file) == 0 && fsync(fileno(file)) == 0;
    const int why = errno;
    if (file)
        fclose(file); /* nothing is left that it could fail to write */
    const stm_status status = written ? STM_OK : stm_fail(STM_ERR_IO, "%s: cannot be written: %s", path, strerror(why));
    free(path);
    return status;
}

static void remove_part(const char *folder, const char *name)
{
    char *part = NULL;
    if (stm_format(&part, "%s/%s.part", folder, name) == STM_OK)
        unlink(part);
    free(part);
}

static stm_status rename_part(const char *folder, const char *name)
{
    char *part = NULL, *path = NULL;
    stm_status status = STM_OK;
    STM_GOTO_OUT(stm_format(&part, "%s/%s.part", folder, name));
    STM_GOTO_OUT(stm_format(&path, "%s/%s", folder, name));
    if (rename(part, path) != 0)
        status = stm_fail(STM_ERR_IO, "%s: cannot be renamed to %s: %s", part, path, strerror(errno));
out:
    free(part);
    free(path);
    return status;
}

enum { PORTION = 1 << 18 };

static stm_status write_weights(const stm_model *model, const char *folder, stm_dtype dtype)
{
    const stm_backend *backend = model->backend;
    stm_status status = STM_OK;
    char *path = NULL, *reals = NULL;
    stm_tensor *tensors = NULL;
    stm_safetensors_writer *writer = NULL;
    STM_GOTO_OUT(stm_format(&path, "%s/model.safetensors", folder));
    STM_GOTO_OUT(stm_alloc(PORTION, backend->real_bytes, &reals));
    STM_GOTO_OUT(stm_alloc(model->n_tensors, sizeof *tensors, &tensors));
    for (size_t i = 0; i < model->n_tensors; i++) {
        stm_parameter *from = &model->tensors[i];
        tensors[i] = (stm_tensor){
            .name = from->name, .n_dims = from->n_dims, .shape = {from->shape[0], from->shape[1]}, .n = from->n};
    }
    STM_GOTO_OUT(stm_safetensors_write_begin(path, tensors, model->n_tensors, dtype, &writer));
    for (size_t first = 0; first < model->n_parameters;
         first += PORTION) { /* tensors lie in the file as in the buffer */
        const size_t n = STM_MIN((size_t)PORTION, model->n_parameters - first);
        STM_GOTO_OUT(
            backend->read(model->stream, reals, stm_at(backend, model->weights, first), n * backend->real_bytes));
        STM_GOTO_OUT(stm_safetensors_write(writer, reals, backend->real_bytes, n));
    }
    status = stm_safetensors_write_finish(writer);
    writer = NULL;
out:
    stm_safetensors_write_abandon(writer);
    free(path);
    free(reals);
    free(tensors);
    return status;
}

static stm_status sync_folder(const char *folder)
{
    const int descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const bool synced = descriptor >= 0 && fsync(descriptor) == 0;
    const int why = errno;
    if (descriptor >= 0)
        close(descriptor);
    return synced ? STM_OK : stm_fail(STM_ERR_IO, "%s: cannot be synced: %s", folder, strerror(why));
}

stm_status stm_model_export(const stm_model *model, const char *folder, const char *dtype)
{
    const bool bfloat16 = strcmp(dtype, "bfloat16") == 0;
    if (!bfloat16 && strcmp(dtype, "float32") != 0)
        return stm_fail(STM_ERR_INPUT, "export: dtype: found %s, expected float32 or bfloat16", dtype);
    if (!stm_model_is_whole(model))
        return stm_fail(STM_ERR_INPUT, "export: found one stage of a model, expected all of its layers");
    char *config = NULL;
    STM_TRY(config_text(model, dtype, &config));
    const struct {
        const char *name, *text;
    } files[] = {{"config.json", config},
                 {"generation_config.json", model->generation_config_json},
                 {"tokenizer.json", model->tokenizer_json},
                 {"tokenizer_config.json", model->tokenizer_config_json}};
    enum { N_FILES = sizeof files / sizeof *files };
    stm_status status = STM_OK;
    STM_GOTO_OUT(stm_make_folders(folder));
    for (size_t i = 0; i < N_FILES; i++) {
        if (files[i].text)
            STM_GOTO_OUT(write_part(folder, files[i].name, files[i].text));
    }
    STM_GOTO_OUT(write_weights(model, folder, bfloat16 ? STM_BF16 : STM_F32));
    for (size_t i = 0; i < N_FILES; i++) {
        if (files[i].text)
            STM_GOTO_OUT(rename_part(folder, files[i].name));
    }
    STM_GOTO_OUT(sync_folder(folder));
out:
    for (size_t i = 0; i < N_FILES && status != STM_OK; i++)
        remove_part(folder, files[i].name);
    free(config);
    return status;
}
