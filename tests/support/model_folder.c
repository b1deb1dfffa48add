#include "support/model_folder.h"

#include <jansson.h>

#include "support/folder.h"

void model_folder_use_precision(model_folder *f, size_t real_bytes)
{
    if (f->stream)
        f->backend->close(f->stream);
    assert_ok(stm_backend_find("cpu", real_bytes == 8 ? STM_FLOAT64 : STM_FLOAT32, &f->backend));
    assert_ok(f->backend->open(1, &f->stream));
}

void model_folder_forget(model_folder *f)
{
    stm_model_destroy(f->start);
    free(f->weights);
    f->start = NULL;
    f->weights = NULL;
}

void model_folder_empty(model_folder *f)
{
    if (f->folder)
        stm_test_folder_remove(f->folder);
    f->folder = stm_test_folder_create();
}

/* config.json, and items for all tensors; no weights yet. */
void model_folder_prepare_config(model_folder *f, const stm_model_config *config)
{
    model_folder_empty(f);
    model_folder_forget(f);
    f->start = stm_test_model(f->backend, f->stream, config, 3);
    f->weights = stm_test_weights(f->start);
    for (size_t i = 0; i < f->start->n_parameters; i++) {
        f->weights[i] = round(f->weights[i] * 32) / 32;
        assert_true(fabs(f->weights[i]) < 8);
    }
    f->n_items = 0;
    for (size_t i = 0; i < f->start->n_tensors; i++) {
        const stm_parameter *t = &f->start->tensors[i];
        model_folder_item *x = &f->items[f->n_items++];
        *x = (model_folder_item){.dtype = "F32",
                                 .n_dims = t->n_dims,
                                 .shape = {t->shape[0], t->shape[1]},
                                 .n = t->n,
                                 .values = f->weights + t->offset};
        snprintf(x->name, sizeof x->name, "%s", t->name);
    }
    stm_test_write_text(stm_test_path(f->folder, "config.json"), f->start->config_json);
}

void model_folder_prepare(model_folder *f, stm_test_config which)
{
    model_folder_prepare_config(f, &stm_test_configs[which]);
}

int model_folder_create(void **state)
{
    model_folder *f = calloc(1, sizeof *f);
    assert_non_null(f);
    *state = f;
    model_folder_use_precision(f, 8);
    model_folder_prepare(f, STM_TEST_LLAMA);
    return 0;
}

int model_folder_destroy(void **state)
{
    model_folder *f = *state;
    model_folder_forget(f);
    f->backend->close(f->stream);
    stm_test_folder_remove(f->folder);
    free(f);
    return 0;
}

model_folder_item *model_folder_find(model_folder *f, const char *name)
{
    size_t i = 0;
    while (i < f->n_items && strcmp(f->items[i].name, name) != 0)
        i++;
    assert_true(i < f->n_items);
    return &f->items[i];
}

void model_folder_drop(model_folder *f, const char *name)
{
    model_folder_item *x = model_folder_find(f, name);
    memmove(x, x + 1, (size_t)(f->items + --f->n_items - x) * sizeof *x);
}

model_folder_item *model_folder_add(model_folder *f, const char *name, size_t n_rows, size_t n_columns, double *values)
{
    assert_true(f->n_items < MOST_ITEMS);
    model_folder_item *x = &f->items[f->n_items++];
    *x = (model_folder_item){.dtype = "F32",
                             .n_dims = n_columns ? 2 : 1,
                             .shape = {n_rows, n_columns},
                             .n = n_rows * (n_columns ? n_columns : 1),
                             .values = values};
    snprintf(x->name, sizeof x->name, "%s", name);
    return x;
}

void model_folder_use_dtype(model_folder *f, const char *dtype)
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
void model_folder_write_shard(const model_folder *f, const char *name, size_t first, size_t stride)
{
    unsigned char *data = calloc(f->start->n_parameters * 3 + 1, 8);
    json_t *header = json_object();
    size_t place = 0;
    assert_true(data && header);
    for (size_t i = first; i < f->n_items; i += stride) {
        const model_folder_item *x = &f->items[i];
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

void model_folder_write(const model_folder *f)
{
    model_folder_write_shard(f, "model.safetensors", 0, 1);
}

stm_model *model_folder_open(model_folder *f)
{
    stm_model *model;
    assert_ok(stm_model_open(f->folder, f->backend, f->stream, &model));
    return model;
}

void assert_same_weights(const model_folder *f, const stm_model *model)
{
    assert_int_equal(model->n_parameters, f->start->n_parameters);
    double *found = stm_test_weights(model);
    for (size_t i = 0; i < model->n_parameters; i++)
        assert_true(found[i] == f->weights[i]);
    free(found);
}

uint64_t model_folder_hash(model_folder *f)
{
    stm_model *model = model_folder_open(f);
    const uint64_t hash = model->hash;
    stm_model_destroy(model);
    return hash;
}
