/* A Hugging Face folder -> model. */
#include "model/layout.h"
#include "model/weights.h"

#include <jansson.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

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

stm_status stm_model_describe(const char *folder, const stm_backend *backend, stm_stream *stream, stm_model **out)
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
    STM_GOTO_OUT(stm_model_allocate(model, backend, stream));
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

/* A tied file may hold the matrix twice; two that differ are no tied model. */
static stm_status check_tied_copy(const stm_weights *weights, const stm_model *model)
{
    const stm_safetensors *file, *copy_file;
    const stm_tensor *tensor, *copy;
    if (!model->config.tied || strcmp(model->tensors[0].name, "lm_head.weight") == 0 ||
        !stm_weights_find(weights, "lm_head.weight", &copy_file, &copy) ||
        !stm_weights_find(weights, model->tensors[0].name, &file, &tensor))
        return STM_OK;
    if (copy->dtype != tensor->dtype || memcmp(copy->data, tensor->data, tensor->bytes) != 0)
        return stm_fail(
            STM_ERR_INPUT,
            "%s: lm_head.weight: differs from %s, expected an equal copy (config.json: tie_word_embeddings is true)",
            copy_file->path, tensor->name);
    return STM_OK;
}

/* Loading goes portion by portion, in the order of the parameter buffer. The threads convert one wave of portions from
 * the mapped files while the calling thread, which alone talks to the device, hashes and writes the wave before it and
 * then helps; the disk works on the waves to come. */

enum { PORTION = 1 << 18, MOST_IN_WAVE = 32 }; /* elements; portions */
enum { AHEAD_BYTES = 64 << 20 };               /* that the disk is asked for in advance */

typedef struct {
    const stm_safetensors *file;
    const stm_tensor *tensor;
    size_t first, n; /* elements of the tensor */
    size_t offset;   /* in the parameter buffer */
} portion;

typedef struct {
    const stm_model *model;
    portion *portions;
    size_t n, capacity;
    size_t wave;   /* portions in a wave */
    size_t ahead;  /* portions that the disk is ahead */
    char *reals;   /* [2, wave, PORTION] of the backend's reals: odd and even waves */
    float *floats; /* [PORTION]: the hash is of these, so that it is the same in each precision */
    size_t failed; /* the first portion that holds what is not finite; n: none */
    XXH3_state_t *hash;
} loading;

static stm_status list_portions(loading *l, const stm_weights *weights)
{
    for (size_t i = 0; i < l->model->n_tensors; i++) {
        const stm_parameter *parameter = &l->model->tensors[i];
        portion p;
        if (!stm_weights_find(weights, parameter->name, &p.file, &p.tensor))
            return stm_fail(STM_ERR_INPUT, "%s: %s: missing", weights->folder, parameter->name);
        for (p.first = 0; p.first < parameter->n; p.first += PORTION) {
            p.n = STM_MIN((size_t)PORTION, parameter->n - p.first);
            p.offset = parameter->offset + p.first;
            STM_TRY(stm_reserve(&l->portions, &l->capacity, l->n + 1, sizeof *l->portions));
            l->portions[l->n++] = p;
        }
    }
    l->failed = l->n;
    return STM_OK;
}

static char *reals_of(const loading *l, size_t i)
{
    return l->reals + i % (2 * l->wave) * PORTION * l->model->backend->real_bytes;
}

/* By any thread. */
static stm_status convert_portion(const loading *l, size_t i)
{
    const portion *p = &l->portions[i];
    if (i + l->ahead < l->n) {
        const portion *q = &l->portions[i + l->ahead];
        stm_safetensors_will_read(q->file, q->tensor, q->first, q->n);
    }
    const stm_status status =
        stm_safetensors_read(p->file, p->tensor, p->first, p->n, l->model->backend->real_bytes, reals_of(l, i));
    stm_safetensors_have_read(p->file, p->tensor, p->first, p->n);
    return status;
}

/* By the calling thread. */
static stm_status write_portion(const loading *l, size_t i)
{
    const stm_backend *backend = l->model->backend;
    const portion *p = &l->portions[i];
    const void *hashed = reals_of(l, i);
    if (backend->real_bytes == sizeof(double)) {
        stm_dtype_to_float(STM_F64, hashed, p->n, l->floats);
        hashed = l->floats;
    }
    XXH3_64bits_update(l->hash, hashed, p->n * sizeof(float));
    return backend->write(l->model->stream, stm_at(backend, l->model->weights, p->offset), reals_of(l, i),
                          p->n * backend->real_bytes);
}

static stm_status write_wave(const loading *l, size_t first)
{
    const size_t end = STM_MIN(first + l->wave, l->n);
    for (size_t i = first; i < end; i++)
        STM_TRY(write_portion(l, i));
    return l->model->backend->synchronize(l->model->stream); /* the staging memory is written again */
}

/* Converts the wave that begins at `first` and writes the one before it. */
static stm_status load_wave(loading *l, size_t first)
{
    stm_status status = STM_OK;
    const size_t end = STM_MIN(first + l->wave, l->n);
    size_t failed = l->failed;
#pragma omp parallel reduction(min : failed)
    {
#pragma omp master
        if (first > 0)
            status = write_wave(l, first - l->wave);
#pragma omp for schedule(dynamic, 1)
        for (size_t i = first; i < end; i++)
            if (convert_portion(l, i) != STM_OK && i < failed)
                failed = i;
    }
    l->failed = failed;
    return status;
}

static stm_status load_portions(loading *l)
{
    for (size_t i = 0; i < STM_MIN(l->ahead, l->n); i++)
        stm_safetensors_will_read(l->portions[i].file, l->portions[i].tensor, l->portions[i].first, l->portions[i].n);
    for (size_t first = 0; first < l->n; first += l->wave) {
        STM_TRY(load_wave(l, first));
        if (l->failed < l->n)
            return convert_portion(l, l->failed); /* once more: a message belongs to the thread that failed */
    }
    return l->n ? write_wave(l, (l->n - 1) / l->wave * l->wave) : STM_OK;
}

stm_status stm_model_load(stm_model *model, const char *folder)
{
    stm_status status = STM_OK;
    stm_weights *weights = NULL;
    loading l = {.model = model};
    STM_GOTO_OUT(stm_weights_open(folder, &weights));
    if (weights->n_files == 0) {
        status = stm_fail(
            STM_ERR_INPUT,
            "%s: found no weights, expected model.safetensors, or model.safetensors.index.json with its files", folder);
        goto out;
    }
    STM_GOTO_OUT(stm_weights_check(weights, model)); /* the files may have changed since `describe` */
    STM_GOTO_OUT(check_tied_copy(weights, model));
    STM_GOTO_OUT(list_portions(&l, weights));
    l.wave = STM_MIN(2 * (size_t)omp_get_max_threads(), (size_t)MOST_IN_WAVE);
    l.ahead = AHEAD_BYTES / (PORTION * sizeof(float));
    STM_GOTO_OUT(stm_alloc(2 * l.wave * PORTION, model->backend->real_bytes, &l.reals));
    STM_GOTO_OUT(stm_alloc(PORTION, sizeof *l.floats, &l.floats));
    if (!(l.hash = XXH3_createState())) {
        status = stm_fail(STM_ERR_MEMORY, "out of memory");
        goto out;
    }
    XXH3_64bits_reset(l.hash);
    STM_GOTO_OUT(load_portions(&l));
    model->hash = XXH3_64bits_digest(l.hash);
    STM_GOTO_OUT(stm_model_weights_changed(model));
out:
    XXH3_freeState(l.hash);
    free(l.portions);
    free(l.reals);
    free(l.floats);
    stm_weights_close(weights);
    return status;
}

stm_status stm_model_open(const char *folder, const stm_backend *backend, stm_stream *stream, stm_model **out)
{
    stm_model *model;
    STM_TRY(stm_model_describe(folder, backend, stream, &model));
    const stm_status status = stm_model_load(model, folder);
    if (status != STM_OK) {
        stm_model_destroy(model);
        return status;
    }
    *out = model;
    return STM_OK;
}
