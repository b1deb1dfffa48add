#include "model/weights.h"

#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static stm_status add_file(stm_weights *weights, size_t *capacity, const char *name)
{
    char *path = NULL;
    stm_status status = STM_OK;
    for (size_t i = 0; i < weights->n_files; i++) {
        const char *known = weights->files[i]->path + strlen(weights->folder) + 1;
        if (strcmp(known, name) == 0)
            return STM_OK;
    }
    STM_TRY(stm_reserve(&weights->files, capacity, weights->n_files + 1, sizeof *weights->files));
    STM_GOTO_OUT(stm_format(&path, "%s/%s", weights->folder, name));
    STM_GOTO_OUT(stm_safetensors_open(path, &weights->files[weights->n_files]));
    weights->n_files++;
out:
    free(path);
    return status;
}

static bool has_file(const char *folder, const char *name)
{
    char *path = NULL;
    const bool found = stm_format(&path, "%s/%s", folder, name) == STM_OK && access(path, F_OK) == 0;
    free(path);
    return found;
}

/* The entry of an index: which file holds which tensor. */
static stm_status check_entry(const stm_weights *weights, const char *path, const char *name, const char *file_name)
{
    const stm_safetensors *file;
    const stm_tensor *tensor;
    if (!stm_weights_find(weights, name, &file, &tensor) ||
        strcmp(file->path + strlen(weights->folder) + 1, file_name) != 0)
        return stm_fail(STM_ERR_INPUT, "%s: weight_map: %s: found no such tensor in %s", path, name, file_name);
    return STM_OK;
}

static stm_status open_index(stm_weights *weights, size_t *capacity)
{
    stm_status status = STM_OK;
    char *path = NULL, *text = NULL;
    size_t n;
    json_t *index = NULL, *value;
    json_error_t error;
    const char *name;
    STM_GOTO_OUT(stm_format(&path, "%s/model.safetensors.index.json", weights->folder));
    STM_GOTO_OUT(stm_read_file(path, &text, &n));
    if (!(index = json_loadb(text, n, 0, &error))) {
        status = stm_fail(STM_ERR_INPUT, "%s: line %d: not JSON: %s", path, error.line, error.text);
        goto out;
    }
    json_t *map = json_object_get(index, "weight_map");
    if (json_object_size(map) == 0) {
        status = stm_fail(STM_ERR_INPUT, "%s: weight_map: expected an object {tensor: file}", path);
        goto out;
    }
    json_object_foreach(map, name, value)
    {
        const char *file_name = json_string_value(value);
        if (!file_name || !*file_name || strchr(file_name, '/')) {
            status = stm_fail(STM_ERR_INPUT, "%s: weight_map: %s: expected the name of a file in the same folder", path,
                              name);
            goto out;
        }
        STM_GOTO_OUT(add_file(weights, capacity, file_name));
    }
    json_object_foreach(map, name, value) STM_GOTO_OUT(check_entry(weights, path, name, json_string_value(value)));
out:
    free(path);
    free(text);
    json_decref(index);
    return status;
}

static int is_safetensors(const struct dirent *entry)
{
    const size_t n = strlen(entry->d_name), n_ending = strlen(".safetensors");
    return n > n_ending && strcmp(entry->d_name + n - n_ending, ".safetensors") == 0;
}

static stm_status open_all(stm_weights *weights, size_t *capacity)
{
    struct dirent **entries = NULL;
    const int n = scandir(weights->folder, &entries, is_safetensors, alphasort);
    stm_status status = STM_OK;
    for (int i = 0; i < n; i++) {
        if (status == STM_OK)
            status = add_file(weights, capacity, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    return status;
}

static stm_status check_unique(const stm_weights *weights)
{
    for (size_t i = 1; i < weights->n_files; i++) {
        for (size_t t = 0; t < weights->files[i]->n_tensors; t++) {
            const char *name = weights->files[i]->tensors[t].name;
            for (size_t j = 0; j < i; j++) {
                if (stm_safetensors_find(weights->files[j], name))
                    return stm_fail(STM_ERR_INPUT, "%s: %s: is in %s, too", weights->files[i]->path, name,
                                    weights->files[j]->path);
            }
        }
    }
    return STM_OK;
}

stm_status stm_weights_open(const char *folder, stm_weights **out)
{
    stm_weights *weights;
    size_t capacity = 0;
    stm_status status = STM_OK;
    STM_TRY(stm_alloc(1, sizeof *weights, &weights));
    STM_GOTO_OUT(stm_format(&weights->folder, "%s", folder));
    if (has_file(folder, "model.safetensors"))
        STM_GOTO_OUT(add_file(weights, &capacity, "model.safetensors"));
    else if (has_file(folder, "model.safetensors.index.json"))
        STM_GOTO_OUT(open_index(weights, &capacity));
    else
        STM_GOTO_OUT(open_all(weights, &capacity));
    STM_GOTO_OUT(check_unique(weights));
    *out = weights;
    weights = NULL;
out:
    stm_weights_close(weights);
    return status;
}

void stm_weights_close(stm_weights *weights)
{
    if (!weights)
        return;
    for (size_t i = 0; i < weights->n_files; i++)
        stm_safetensors_close(weights->files[i]);
    free(weights->files);
    free(weights->folder);
    free(weights);
}

bool stm_weights_find(const stm_weights *weights, const char *name, const stm_safetensors **file,
                      const stm_tensor **tensor)
{
    for (size_t i = 0; i < weights->n_files; i++) {
        if ((*tensor = stm_safetensors_find(weights->files[i], name))) {
            *file = weights->files[i];
            return true;
        }
    }
    return false;
}

static stm_status check_tensor(const stm_safetensors *file, const stm_tensor *tensor, const stm_parameter *parameter)
{
    char found[200], expected[64];
    if (tensor->n_dims == parameter->n_dims &&
        memcmp(tensor->shape, parameter->shape, tensor->n_dims * sizeof *tensor->shape) == 0)
        return STM_OK;
    return stm_fail(STM_ERR_INPUT, "%s: %s: found shape %s, expected %s", file->path, tensor->name,
                    stm_shape_text(tensor->shape, tensor->n_dims, found, sizeof found),
                    stm_shape_text(parameter->shape, parameter->n_dims, expected, sizeof expected));
}

static bool ends_with(const char *text, const char *ending)
{
    const size_t n = strlen(text), m = strlen(ending);
    return n >= m && strcmp(text + n - m, ending) == 0;
}

/* What the model does not have: a buffer that older files carry, the copy of a tied head, or a model that is not what
 * config.json says. */
static stm_status check_surplus(const stm_safetensors *file, const stm_tensor *tensor, const stm_model *model)
{
    if (ends_with(tensor->name, "rotary_emb.inv_freq"))
        return STM_OK;
    if (model->config.tied && strcmp(tensor->name, "lm_head.weight") == 0)
        return check_tensor(file, tensor, &model->tensors[0]);
    const char **names;
    STM_TRY(stm_alloc(model->n_tensors, sizeof *names, &names));
    for (size_t i = 0; i < model->n_tensors; i++)
        names[i] = model->tensors[i].name;
    const char *nearest = stm_nearest_name(tensor->name, names, model->n_tensors);
    const stm_status status =
        stm_fail(STM_ERR_INPUT, "%s: %s: a %s model as config.json describes it has no such tensor%s%s", file->path,
                 tensor->name, model->config.architecture, nearest ? "; nearest: " : "", nearest ? nearest : "");
    free(names);
    return status;
}

stm_status stm_weights_check(const stm_weights *weights, const stm_model *model)
{
    const stm_safetensors *file = NULL;
    const stm_tensor *tensor = NULL;
    for (size_t i = 0; i < model->n_tensors; i++) {
        const char *name = model->tensors[i].name;
        if (!stm_weights_find(weights, name, &file, &tensor)) {
            const char *where = weights->n_files == 1 ? weights->files[0]->path : weights->folder;
            return stm_fail(STM_ERR_INPUT, "%s: %s: missing%s", where, name,
                            strcmp(name, "lm_head.weight") == 0 ? " (config.json: tie_word_embeddings is false)" : "");
        }
        STM_TRY(check_tensor(file, tensor, &model->tensors[i]));
    }
    for (size_t f = 0; f < weights->n_files; f++) {
        for (size_t t = 0; t < weights->files[f]->n_tensors; t++) {
            tensor = &weights->files[f]->tensors[t];
            bool known = false;
            for (size_t i = 0; i < model->n_tensors && !known; i++)
                known = strcmp(model->tensors[i].name, tensor->name) == 0;
            if (!known)
                STM_TRY(check_surplus(weights->files[f], tensor, model));
        }
    }
    return STM_OK;
}
