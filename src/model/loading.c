#include "model/loading.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/pulse.h"
#include "model/prefetch.h"
#include "model/stages.h"
#include "model/weights.h"

enum { PORTION = 1 << 16, MOST_IN_WAVE = 128 }; /* elements; portions */
enum { AHEAD = 1 << 24, PIECE = 1 << 20 };      /* elements: fetched in advance; of one request to the system */

typedef struct {
    const stm_safetensors *file; /* of the reader */
    const stm_tensor *tensor;    /* of the reader */
    bool copied;                 /* the reader's file holds it twice */
    stm_dtype dtype;
    size_t first, n; /* elements of the tensor */
    size_t offset;   /* in the parameter buffer */
} portion;

struct stm_loading {
    stm_model *model;
    stm_weights *weights; /* NULL: bytes are received */
    stm_dtype *dtypes;    /* [n_tensors] */
    const stm_safetensors *copy_file;
    const stm_tensor *copy; /* of a tied matrix, which a file may hold twice; NULL: none */
    portion *portions;
    size_t n, capacity;
    size_t wave;        /* portions in a wave */
    char *bytes;        /* [2, wave, PORTION] of any weight type, received: odd and even waves */
    char *reals;        /* [2, wave, PORTION] of the backend's reals */
    float *floats;      /* [PORTION]: the hash is of these, so that it is the same in each precision */
    size_t failed;      /* the first portion that holds what is not finite; n: none */
    XXH3_state_t *hash; /* NULL: not wanted */
};

/* Before it runs */

static stm_status refuse_copy(const stm_loading *l)
{
    return stm_fail(
        STM_ERR_INPUT,
        "%s: lm_head.weight: differs from %s, expected an equal copy (config.json: tie_word_embeddings is true)",
        l->copy_file->path, l->model->tensors[0].name);
}

/* A tied file may hold the matrix twice; two that differ are no tied model. Their numbers are compared on the way. */
static stm_status find_tied_copy(stm_loading *l)
{
    const stm_parameter *embedding = &l->model->tensors[0];
    const bool found = l->model->config.tied && strcmp(embedding->name, "lm_head.weight") != 0 &&
                       stm_weights_find(l->weights, "lm_head.weight", &l->copy_file, &l->copy);
    if (!found)
        l->copy = NULL;
    return found && l->copy->dtype != l->dtypes[0] ? refuse_copy(l) : STM_OK;
}

static stm_status open_weights(stm_loading *l, const char *folder)
{
    const stm_safetensors *file = NULL;
    const stm_tensor *tensor = NULL;
    STM_TRY(stm_weights_open(folder, &l->weights));
    if (l->weights->n_files == 0)
        return stm_fail(
            STM_ERR_INPUT,
            "%s: found no weights, expected model.safetensors, or model.safetensors.index.json with its files", folder);
    STM_TRY(stm_weights_check(l->weights, l->model)); /* the files may have changed since `describe` */
    for (size_t i = 0; i < l->model->n_tensors; i++) {
        stm_weights_find(l->weights, l->model->tensors[i].name, &file, &tensor); /* the check has found it */
        if (tensor->dtype == STM_OTHER)
            return stm_fail(STM_ERR_INPUT, "%s: %s: dtype: found %s, expected F32, BF16, F16 or F64", file->path,
                            tensor->name, tensor->dtype_name);
        l->dtypes[i] = tensor->dtype;
    }
    return find_tied_copy(l);
}

static stm_status list_portions(stm_loading *l)
{
    for (size_t i = 0; i < l->model->n_tensors; i++) {
        const stm_parameter *parameter = &l->model->tensors[i];
        portion p = {.dtype = l->dtypes[i], .copied = i == 0 && l->copy};
        if (l->weights)
            stm_weights_find(l->weights, parameter->name, &p.file, &p.tensor);
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

/* folder NULL: to receive. */
static stm_status create(stm_model *model, const char *folder, const stm_dtype *dtypes, stm_loading **out)
{
    stm_status status = STM_OK;
    stm_loading *l;
    STM_TRY(stm_alloc(1, sizeof *l, &l));
    l->model = model;
    l->wave = STM_MIN(4 * (size_t)omp_get_max_threads(), (size_t)MOST_IN_WAVE);
    STM_GOTO_OUT(stm_alloc(model->n_tensors, sizeof *l->dtypes, &l->dtypes));
    if (folder)
        STM_GOTO_OUT(open_weights(l, folder));
    else
        memcpy(l->dtypes, dtypes, model->n_tensors * sizeof *dtypes);
    STM_GOTO_OUT(list_portions(l));
    if (!folder)
        STM_GOTO_OUT(stm_alloc(2 * l->wave * PORTION, sizeof(double), &l->bytes));
    STM_GOTO_OUT(stm_alloc(2 * l->wave * PORTION, model->backend->real_bytes, &l->reals));
    STM_GOTO_OUT(stm_alloc(PORTION, sizeof *l->floats, &l->floats));
    if (!(l->hash = XXH3_createState()))
        status = stm_fail(STM_ERR_MEMORY, "out of memory");
out:
    if (status != STM_OK) {
        stm_loading_close(l);
        return status;
    }
    *out = l;
    return STM_OK;
}

stm_status stm_loading_open(stm_model *model, const char *folder, stm_loading **out)
{
    return create(model, folder, NULL, out);
}

stm_status stm_loading_receive(stm_model *model, const stm_dtype *dtypes, stm_loading **out)
{
    return create(model, NULL, dtypes, out);
}

void stm_loading_close(stm_loading *l)
{
    if (!l)
        return;
    XXH3_freeState(l->hash);
    stm_weights_close(l->weights);
    free(l->dtypes);
    free(l->portions);
    free(l->bytes);
    free(l->reals);
    free(l->floats);
    free(l);
}

const stm_dtype *stm_loading_dtypes(const stm_loading *l)
{
    return l->dtypes;
}

/* Portions and waves */

static char *reals_of(const stm_loading *l, size_t i)
{
    return l->reals + i % (2 * l->wave) * PORTION * l->model->backend->real_bytes;
}

static size_t bytes_of(const portion *p)
{
    return p->n * stm_dtype_bytes(p->dtype);
}

/* Where the portion's bytes are: in the mapped file, or where they were received. */
static void *source_of(const stm_loading *l, size_t i)
{
    const portion *p = &l->portions[i];
    return l->weights ? (char *)p->tensor->data + p->first * stm_dtype_bytes(p->dtype)
                      : l->bytes + i % (2 * l->wave) * PORTION * sizeof(double);
}

static size_t end_of_wave(const stm_loading *l, size_t first)
{
    return STM_MIN(first + l->wave, l->n);
}

static bool equals_copy(const stm_loading *l, size_t i)
{
    const portion *p = &l->portions[i];
    const char *copy = (const char *)l->copy->data + p->first * stm_dtype_bytes(p->dtype);
    return memcmp(source_of(l, i), copy, bytes_of(p)) == 0;
}

/* By any thread. What is received, the reader has looked at. */
static stm_status convert_portion(const stm_loading *l, size_t i)
{
    const portion *p = &l->portions[i];
    const size_t real_bytes = l->model->backend->real_bytes;
    if (p->copied && !equals_copy(l, i))
        return refuse_copy(l);
    if (l->weights)
        return stm_safetensors_read(p->file, p->tensor, p->first, p->n, real_bytes, reals_of(l, i));
    if (real_bytes == sizeof(double))
        stm_dtype_to_double(p->dtype, source_of(l, i), p->n, (double *)reals_of(l, i));
    else
        stm_dtype_to_float(p->dtype, source_of(l, i), p->n, (float *)reals_of(l, i));
    return STM_OK;
}

/* Requests to the system are about PIECE elements of a tensor at a time, for each has its price. */
static void ask(const stm_loading *l, size_t i,
                void (*request)(const stm_safetensors *, const stm_tensor *, size_t, size_t))
{
    const portion *p = &l->portions[i];
    const size_t first = p->first / PIECE * PIECE, n = STM_MIN((size_t)PIECE, p->tensor->n - first);
    request(p->file, p->tensor, first, n);
    if (p->copied)
        request(l->copy_file, l->copy, first, n);
}

/* By a thread of its own: waiting for the disk, and mapping pages, costs the others nothing. */
static void fetch(const void *loading, size_t i)
{
    const stm_loading *l = loading;
    if (l->portions[i].first % PIECE == 0)
        ask(l, i, stm_safetensors_fetch);
}

/* All portions up to this one are done with. */
static void leave(const stm_loading *l, size_t i)
{
    const size_t end = l->portions[i].first + l->portions[i].n;
    if (end % PIECE == 0 || end == l->portions[i].tensor->n)
        ask(l, i, stm_safetensors_have_read);
}

/* By one thread at a time, in order. */
static void hash_wave(const stm_loading *l, size_t first)
{
    for (size_t i = first; i < end_of_wave(l, first); i++) {
        const size_t n = l->portions[i].n;
        const void *hashed = reals_of(l, i);
        if (l->model->backend->real_bytes == sizeof(double)) {
            stm_dtype_to_float(STM_F64, hashed, n, l->floats);
            hashed = l->floats;
        }
        XXH3_64bits_update(l->hash, hashed, n * sizeof(float));
    }
}

/* What the model holds of it. By the calling thread, which alone talks to the device. */
static stm_status write_wave(const stm_loading *l, size_t first)
{
    const stm_backend *backend = l->model->backend;
    for (size_t i = first; i < end_of_wave(l, first); i++)
        for (size_t k = 0; k < 2; k++) {
            const portion *p = &l->portions[i];
            const stm_range held = stm_model_held_of(l->model, k, p->offset, p->n);
            STM_TRY(backend->write(l->model->stream, stm_at(backend, l->model->weights, held.first),
                                   stm_at(backend, reals_of(l, i), held.first - p->offset),
                                   held.n * backend->real_bytes));
        }
    return backend->synchronize(l->model->stream); /* the staging memory is written again */
}

/* By the calling thread, as what follows. */
static void begin_wave(const stm_loading *l, const stm_transport *transport, size_t first)
{
    for (size_t i = first; i < end_of_wave(l, first); i++)
        transport->begin(transport->context, source_of(l, i), bytes_of(&l->portions[i]));
}

/* Sends a wave; the one before it has left. */
static void pass_on(const stm_loading *l, const stm_transport *transport, size_t first)
{
    if (transport) {
        begin_wave(l, transport, first);
        transport->finish(transport->context, end_of_wave(l, first) - first);
    }
    for (size_t i = first > 0 ? first - l->wave : 0; i < first; i++)
        leave(l, i);
}

/* The wave that begins at `first` has arrived; the next one is under way. */
static void receive(const stm_loading *l, const stm_transport *transport, size_t first)
{
    const size_t next = first + l->wave;
    if (first == 0)
        begin_wave(l, transport, first);
    if (next < l->n)
        begin_wave(l, transport, next);
    transport->finish(transport->context, next < l->n ? end_of_wave(l, next) - next : 0);
}

/* Converts the wave that begins at `first`, while the one before it goes on its way. */
static stm_status load_wave(stm_loading *l, const stm_transport *transport, bool hash, size_t first)
{
    stm_status status = STM_OK;
    const size_t end = end_of_wave(l, first);
    size_t failed = l->failed;
#pragma omp parallel reduction(min : failed)
    {
#pragma omp master
        if (first > 0) {
            if (l->weights)
                pass_on(l, transport, first - l->wave);
            status = write_wave(l, first - l->wave);
        }
#pragma omp single nowait /* the first who has nothing else to do */
        if (first > 0 && hash)
            hash_wave(l, first - l->wave);
#pragma omp for schedule(dynamic, 1)
        for (size_t i = first; i < end; i++) {
            if (convert_portion(l, i) != STM_OK && i < failed)
                failed = i;
        }
    }
    l->failed = failed;
    return status;
}

static stm_status last_wave(const stm_loading *l, const stm_transport *transport, bool hash)
{
    const size_t first = (l->n - 1) / l->wave * l->wave;
    if (l->weights)
        pass_on(l, transport, first);
    if (hash)
        hash_wave(l, first);
    const stm_status status = write_wave(l, first);
    if (transport)
        transport->finish(transport->context, 0);
    return status;
}

/* What is left of the messages once it is known that the weights will not be used. */
static void only_pass_on(const stm_loading *l, const stm_transport *transport, size_t first)
{
    for (; transport && first < l->n; first += l->wave) {
        if (l->weights)
            pass_on(l, transport, first);
        else
            receive(l, transport, first);
    }
    if (transport)
        transport->finish(transport->context, 0);
}

static stm_status load_waves(stm_loading *l, const stm_transport *transport, bool hash, stm_prefetch *prefetch)
{
    for (size_t first = 0; first < l->n; first += l->wave) {
        stm_pulse_progress();
        stm_prefetch_reached(prefetch, first);
        if (!l->weights)
            receive(l, transport, first);
        stm_status status = load_wave(l, transport, hash, first);
        if (status == STM_OK && l->failed < l->n)
            status = convert_portion(l, l->failed); /* once more: a message belongs to the thread that failed */
        if (status != STM_OK) {
            only_pass_on(l, transport, l->weights ? first : first + l->wave);
            return status;
        }
    }
    return l->n ? last_wave(l, transport, hash) : STM_OK;
}

stm_status stm_loading_run(stm_loading *l, const stm_transport *transport, bool hash)
{
    XXH3_64bits_reset(l->hash);
    stm_prefetch *prefetch = l->weights ? stm_prefetch_start(l->n, AHEAD / PORTION, fetch, l) : NULL;
    const stm_status status = load_waves(l, transport, hash, prefetch);
    stm_prefetch_stop(prefetch);
    STM_TRY(status);
    if (hash)
        l->model->hash = XXH3_64bits_digest(l->hash);
    return stm_model_weights_changed(l->model);
}

stm_status stm_model_load(stm_model *model, const char *folder)
{
    stm_loading *loading;
    STM_TRY(stm_loading_open(model, folder, &loading));
    const stm_status status = stm_loading_run(loading, NULL, true);
    stm_loading_close(loading);
    return status;
}
