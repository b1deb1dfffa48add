/* tests/support/model_folder.h: a Hugging Face folder with a tiny model, written tensor by tensor. */
#ifndef STM_TESTS_MODEL_FOLDER_H
#define STM_TESTS_MODEL_FOLDER_H

#include "support/model.h"

/* A tensor as a file shall hold it. */
typedef struct {
    char name[96];
    const char *dtype;
    size_t n_dims, shape[2], n;
    double *values; /* [n], in the folder's weights */
} model_folder_item;

enum { MOST_ITEMS = 64 };

/* A folder, and a model whose weights are multiples of 1/32 below 8: these are exact in each format. */
typedef struct {
    char *folder;
    const stm_backend *backend;
    stm_stream *stream;
    stm_model *start;
    double *weights; /* [n_parameters] */
    model_folder_item items[MOST_ITEMS];
    size_t n_items;
} model_folder;

/* For cmocka: *state is a model_folder in float64 with the tiny llama, not yet written. */
int model_folder_create(void **state);
int model_folder_destroy(void **state);
/* Destroys the model that the items are of. */
void model_folder_forget(model_folder *f);

/* What it is opened in from now on. */
void model_folder_use_precision(model_folder *f, size_t real_bytes);
/* A new, empty folder. */
void model_folder_empty(model_folder *f);

/* An empty folder with the config.json, and items for all tensors of a random model; no weights yet. */
void model_folder_prepare_config(model_folder *f, const stm_model_config *config);
void model_folder_prepare(model_folder *f, stm_test_config which);

/* Items: by name; dropped; added, values being the caller's (n_columns 0: a vector); all of one type. */
model_folder_item *model_folder_find(model_folder *f, const char *name);
void model_folder_drop(model_folder *f, const char *name);
model_folder_item *model_folder_add(model_folder *f, const char *name, size_t n_rows, size_t n_columns, double *values);
void model_folder_use_dtype(model_folder *f, const char *dtype);

/* Every `stride`-th item, from `first` on, to a file; all of them to model.safetensors. */
void model_folder_write_shard(const model_folder *f, const char *name, size_t first, size_t stride);
void model_folder_write(const model_folder *f);

/* What the program reads from it. The caller destroys the model. */
stm_model *model_folder_open(model_folder *f);
uint64_t model_folder_hash(model_folder *f);
void assert_same_weights(const model_folder *f, const stm_model *model);

#endif
