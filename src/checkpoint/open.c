#include "checkpoint/open.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/load.h"
#include "model/layout.h"
#include "model/loading.h"
#include "mpi/byte_stream.h"

stm_status stm_model_open_any(const char *path, const stm_backend *backend, stm_stream *stream, stm_model **out)
{
    struct stat what;
    if (stat(path, &what) != 0)
        return stm_fail(STM_ERR_INPUT, "%s: cannot be read: %s; expected a Hugging Face folder or a checkpoint", path,
                        strerror(errno));
    if (S_ISDIR(what.st_mode))
        return stm_model_open(path, backend, stream, out);
    if (!stm_checkpoint_is(path))
        return stm_fail(STM_ERR_INPUT,
                        "%s: found a file that is no checkpoint, expected a Hugging Face folder or a "
                        "checkpoint (step-NNNNNNNN.h5)",
                        path);
    return stm_checkpoint_model(path, backend, stream, out);
}

/* Not on rank 0: a model of rank 0's texts, without its weights. */
static stm_status receive_layout(char **texts, const char *path, const stm_backend *backend, stm_stream *stream,
                                 stm_model **out)
{
    stm_model_config config;
    stm_model *model;
    STM_TRY(stm_model_config_parse(path, texts[0], texts[3], &config));
    STM_TRY(stm_model_lay_out(&config, &model));
    const stm_status status = stm_model_allocate(model, backend, stream);
    if (status != STM_OK) {
        stm_model_destroy(model);
        return status;
    }
    *out = model;
    return STM_OK;
}

/* A folder's configuration and texts, with random weights. */
static stm_status open_random(const char *folder, uint64_t seed, const stm_backend *backend, stm_stream *stream,
                              stm_model **out)
{
    stm_model *model;
    STM_TRY(stm_model_describe(folder, backend, stream, &model));
    const stm_status status = stm_model_randomize(model, seed);
    if (status != STM_OK) {
        stm_model_destroy(model);
        return status;
    }
    *out = model;
    return STM_OK;
}

static bool is_folder(const char *path)
{
    struct stat what;
    return stat(path, &what) == 0 && S_ISDIR(what.st_mode);
}

/* Weights that rank 0 has not read yet. Collective. */
static stm_status load_on(MPI_Comm comm, const char *folder, stm_model *model)
{
    stm_status status = STM_OK;
    stm_loading *loading = NULL;
    stm_dtype *dtypes = NULL;
    stm_byte_stream *stream = NULL;
    int rank, n_ranks;
    STM_MPI(MPI_Comm_rank(comm, &rank));
    STM_MPI(MPI_Comm_size(comm, &n_ranks));
    STM_GOTO_OUT(stm_agree_on(comm, stm_alloc(model->n_tensors, sizeof *dtypes, &dtypes)));
    STM_GOTO_OUT(stm_agree_on(comm, rank == 0 ? stm_loading_open(model, folder, &loading) : STM_OK));
    if (rank == 0)
        memcpy(dtypes, stm_loading_dtypes(loading), model->n_tensors * sizeof *dtypes);
    stm_broadcast(comm, 0, dtypes, model->n_tensors * sizeof *dtypes);
    STM_GOTO_OUT(stm_agree_on(comm, rank == 0 ? STM_OK : stm_loading_receive(model, dtypes, &loading)));
    stream = stm_byte_stream_create(comm, 0);
    const stm_transport transport = {stream, stm_byte_stream_begin, stm_byte_stream_finish};
    STM_GOTO_OUT(
        stm_agree_on(comm, stm_loading_run(loading, n_ranks > 1 ? &transport : NULL, rank == n_ranks - 1)));
    stm_broadcast(comm, n_ranks - 1, &model->hash, sizeof model->hash);
out:
    stm_byte_stream_destroy(stream);
    stm_loading_close(loading);
    free(dtypes);
    return status;
}

/* Rank 0's part before the others know the layout. A folder's weights come later. */
static stm_status open_first(const char *path, const uint64_t *seed, const stm_backend *backend, stm_stream *stream,
                             stm_model **out)
{
    if (seed)
        return open_random(path, *seed, backend, stream, out);
    if (is_folder(path))
        return stm_model_describe(path, backend, stream, out);
    return stm_model_open_any(path, backend, stream, out);
}

/* seed: NULL for the weights of the path. */
static stm_status open_on(MPI_Comm comm, const char *path, const uint64_t *seed, const stm_backend *backend,
                          stm_stream *stream, stm_model **out)
{
    int rank;
    stm_status status = STM_OK;
    stm_model *model = NULL;
    char *texts[4] = {0};
    STM_MPI(MPI_Comm_rank(comm, &rank));
    STM_GOTO_OUT(stm_agree_on(comm, rank == 0 ? open_first(path, seed, backend, stream, &model) : STM_OK));
    bool to_load = rank == 0 && !seed && is_folder(path);
    stm_broadcast(comm, 0, &to_load, sizeof to_load);
    if (rank == 0) {
        char *const held[] = {model->config_json, model->tokenizer_json, model->tokenizer_config_json,
                              model->generation_config_json};
        memcpy(texts, held, sizeof texts);
    }
    for (size_t i = 0; i < 4; i++)
        STM_GOTO_OUT(stm_share_text(comm, &texts[i]));
    STM_GOTO_OUT(stm_agree_on(comm, rank == 0 ? STM_OK : receive_layout(texts, path, backend, stream, &model)));
    if (rank != 0) {
        model->config_json = texts[0];
        model->tokenizer_json = texts[1];
        model->tokenizer_config_json = texts[2];
        model->generation_config_json = texts[3];
    }
    memset(texts, 0, sizeof texts);                                                /* each model has its own */
    stm_broadcast(comm, 0, model->tensors[0].name, sizeof model->tensors[0].name); /* a tied one has its file's name */
    STM_GOTO_OUT(to_load ? load_on(comm, path, model) : stm_share_weights(comm, model));
    *out = model;
    model = NULL;
out:
    for (size_t i = 0; i < 4 && rank != 0; i++)
        free(texts[i]);
    stm_model_destroy(model);
    return status;
}

stm_status stm_model_open_on(MPI_Comm comm, const char *path, const stm_backend *backend, stm_stream *stream,
                             stm_model **out)
{
    return open_on(comm, path, NULL, backend, stream, out);
}

stm_status stm_model_open_random_on(MPI_Comm comm, const char *folder, uint64_t seed, const stm_backend *backend,
                                    stm_stream *stream, stm_model **out)
{
    return open_on(comm, folder, &seed, backend, stream, out);
}
