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

static bool is_folder(const char *path)
{
    struct stat what;
    return stat(path, &what) == 0 && S_ISDIR(what.st_mode);
}

static stm_status check_path(const char *path)
{
    struct stat what;
    if (stat(path, &what) != 0)
        return stm_fail(STM_ERR_INPUT, "%s: cannot be read: %s; expected a Hugging Face folder or a checkpoint", path,
                        strerror(errno));
    if (!S_ISDIR(what.st_mode) && !stm_checkpoint_is(path))
        return stm_fail(STM_ERR_INPUT,
                        "%s: found a file that is no checkpoint, expected a Hugging Face folder or a "
                        "checkpoint (step-NNNNNNNN.h5)",
                        path);
    return STM_OK;
}

stm_status stm_model_open_any(const char *path, const stm_backend *backend, stm_stream *stream, stm_model **out)
{
    STM_TRY(check_path(path));
    return is_folder(path) ? stm_model_open(path, backend, stream, out)
                           : stm_checkpoint_model(path, backend, stream, out);
}

/* Describing */

/* Rank 0's part. */
static stm_status describe_first(const char *path, stm_model **out)
{
    STM_TRY(check_path(path));
    return is_folder(path) ? stm_model_describe(path, out) : stm_checkpoint_describe(path, out);
}

/* Not on rank 0: a model of rank 0's texts, which it takes. */
static stm_status receive_layout(char **texts, const char *path, stm_model **out)
{
    stm_model_config config;
    STM_TRY(stm_model_config_parse(path, texts[0], texts[3], &config));
    STM_TRY(stm_model_lay_out(&config, out));
    (*out)->config_json = texts[0];
    (*out)->tokenizer_json = texts[1];
    (*out)->tokenizer_config_json = texts[2];
    (*out)->generation_config_json = texts[3];
    return STM_OK;
}

stm_status stm_model_describe_on(MPI_Comm comm, const char *path, stm_model **out)
{
    int rank;
    stm_status status = STM_OK;
    stm_model *model = NULL;
    char *texts[4] = {0};
    STM_MPI(MPI_Comm_rank(comm, &rank));
    STM_GOTO_OUT(stm_agree_on(comm, rank == 0 ? describe_first(path, &model) : STM_OK));
    if (rank == 0) {
        char *const held[] = {model->config_json, model->tokenizer_json, model->tokenizer_config_json,
                              model->generation_config_json};
        memcpy(texts, held, sizeof texts);
    }
    for (size_t i = 0; i < 4; i++)
        STM_GOTO_OUT(stm_share_text(comm, &texts[i]));
    STM_GOTO_OUT(stm_agree_on(comm, rank == 0 ? STM_OK : receive_layout(texts, path, &model)));
    stm_broadcast(comm, 0, model->tensors[0].name, sizeof model->tensors[0].name); /* a tied one has its file's name */
    *out = model;
    return STM_OK;
out:
    for (size_t i = 0; i < 4 && !model; i++) /* else they are the model's */
        free(texts[i]);
    stm_model_destroy(model);
    return status;
}

/* Loading */

/* A folder's weights. Collective. */
static stm_status load_folder(MPI_Comm comm, const char *folder, stm_model *model)
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
    STM_GOTO_OUT(stm_agree_on(comm, stm_loading_run(loading, n_ranks > 1 ? &transport : NULL, rank == n_ranks - 1)));
    stm_broadcast(comm, n_ranks - 1, &model->hash, sizeof model->hash);
out:
    stm_byte_stream_destroy(stream);
    stm_loading_close(loading);
    free(dtypes);
    return status;
}

stm_status stm_model_load_on(MPI_Comm comm, const char *path, stm_model *model)
{
    int rank;
    STM_MPI(MPI_Comm_rank(comm, &rank));
    bool folder = rank == 0 && is_folder(path);
    stm_broadcast(comm, 0, &folder, sizeof folder);
    return folder ? load_folder(comm, path, model) : stm_checkpoint_load_parameters(comm, path, model);
}

stm_status stm_model_open_on(MPI_Comm comm, const char *path, const stm_backend *backend, stm_stream *stream,
                             stm_model **out)
{
    stm_status status;
    stm_model *model = NULL;
    STM_GOTO_OUT(stm_model_describe_on(comm, path, &model));
    STM_GOTO_OUT(stm_agree_on(comm, stm_model_allocate(model, backend, stream)));
    STM_GOTO_OUT(stm_model_load_on(comm, path, model));
    *out = model;
    return STM_OK;
out:
    stm_model_destroy(model);
    return status;
}
