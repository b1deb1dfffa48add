#include "checkpoint/results.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "checkpoint/disk.h"
#include "checkpoint/skeleton.h"
#include "model/dtype.h"

/* A file in the making. */
typedef struct {
    const char *path;
    char *temporary;
    int descriptor;
    stm_skeleton *skeleton;
} result_file;

static stm_status begin(const char *path, uint64_t data_bytes, result_file *file)
{
    *file = (result_file){.path = path, .descriptor = -1};
    STM_TRY(stm_format(&file->temporary, "%s.part", path));
    STM_TRY(stm_disk_create(file->temporary, &file->descriptor));
    STM_TRY(stm_disk_reserve(file->descriptor, path, data_bytes));
    return stm_skeleton_create(path, 0, &file->skeleton);
}

static stm_status put_skeleton(result_file *file)
{
    uint64_t bytes;
    STM_TRY(stm_skeleton_finish(file->skeleton, &bytes));
    STM_TRY(stm_disk_reserve(file->descriptor, file->path, bytes));
    return stm_skeleton_copy(file->skeleton, file->descriptor);
}

static stm_status put(const result_file *file, uint64_t offset, const double *values, size_t n)
{
    return stm_disk_write(file->descriptor, file->path, offset, values, n * sizeof *values);
}

static stm_status commit(const result_file *file)
{
    STM_TRY(stm_disk_sync(file->descriptor, file->path));
    return stm_disk_rename(file->temporary, file->path);
}

/* Frees, and removes what was not committed. */
static void end(result_file *file, stm_status status)
{
    if (status != STM_OK && file->descriptor >= 0)
        unlink(file->temporary);
    stm_disk_close(file->descriptor);
    stm_skeleton_destroy(file->skeleton);
    free(file->temporary);
}

static size_t count_responses(const stm_batch *batch, size_t *n_tokens)
{
    size_t n = 0;
    *n_tokens = 0;
    for (size_t g = 0; g < batch->n_groups; g++) {
        n += batch->groups[g].n_responses;
        for (size_t i = 0; i < batch->groups[g].n_responses; i++)
            *n_tokens += batch->groups[g].responses[i].n;
    }
    return n;
}

/* offsets: [2 * number of responses], of the log-probs and the entropies of each. */
static stm_status lay_out_scores(stm_skeleton *skeleton, const stm_batch *batch, uint64_t *offsets)
{
    char name[96];
    STM_TRY(stm_skeleton_group(skeleton, "/groups"));
    for (size_t g = 0, k = 0; g < batch->n_groups; g++) {
        snprintf(name, sizeof name, "/groups/%zu", g);
        STM_TRY(stm_skeleton_group(skeleton, name));
        for (size_t i = 0; i < batch->groups[g].n_responses; i++) {
            const size_t n = batch->groups[g].responses[i].n;
            snprintf(name, sizeof name, "/groups/%zu/%zu/logprobs", g, i);
            STM_TRY(stm_skeleton_dataset(skeleton, name, H5T_IEEE_F64LE, 1, &n, &offsets[k++]));
            snprintf(name, sizeof name, "/groups/%zu/%zu/entropy", g, i);
            STM_TRY(stm_skeleton_dataset(skeleton, name, H5T_IEEE_F64LE, 1, &n, &offsets[k++]));
        }
    }
    return STM_OK;
}

static stm_status put_scores(const result_file *file, const stm_batch *batch, const uint64_t *offsets,
                             const double *logprobs, const double *entropy)
{
    for (size_t g = 0, token = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++) {
            const size_t n = batch->groups[g].responses[i].n;
            if (n) {
                STM_TRY(put(file, offsets[0], logprobs + token, n));
                STM_TRY(put(file, offsets[1], entropy + token, n));
            }
            offsets += 2;
            token += n;
        }
    return STM_OK;
}

stm_status stm_results_write_scores(const char *path, const stm_batch *batch, const double *logprobs,
                                    const double *entropy)
{
    stm_status status = STM_OK;
    result_file file = {.descriptor = -1};
    uint64_t *offsets = NULL;
    size_t n_tokens;
    const size_t n_responses = count_responses(batch, &n_tokens);
    STM_GOTO_OUT(stm_alloc(2 * n_responses + 1, sizeof *offsets, &offsets));
    STM_GOTO_OUT(begin(path, 2 * n_tokens * sizeof(double), &file));
    STM_GOTO_OUT(lay_out_scores(file.skeleton, batch, offsets));
    STM_GOTO_OUT(put_skeleton(&file));
    STM_GOTO_OUT(put_scores(&file, batch, offsets, logprobs, entropy));
    STM_GOTO_OUT(commit(&file));
out:
    end(&file, status);
    free(offsets);
    return status;
}

enum { PORTION = 1 << 18 }; /* elements that leave the device at once */

/* Where the numbers come from, and room for PORTION of them. */
typedef struct {
    stm_reals_read *read;
    void *context;
    size_t real_bytes;
    void *reals;
    double *doubles;
} gradient_source;

static stm_status put_gradient(const result_file *file, uint64_t offset, const stm_parameter *parameter,
                               const gradient_source *from)
{
    for (size_t first = 0; first < parameter->n; first += PORTION) {
        const size_t n = STM_MIN((size_t)PORTION, parameter->n - first);
        STM_TRY(from->read(from->context, parameter->offset + first, n, from->reals));
        stm_dtype_to_double(from->real_bytes == sizeof(double) ? STM_F64 : STM_F32, from->reals, n, from->doubles);
        STM_TRY(put(file, offset + first * sizeof *from->doubles, from->doubles, n));
    }
    return STM_OK;
}

stm_status stm_results_write_gradient(const char *path, const stm_model *model, double loss, stm_reals_read *read,
                                      void *context)
{
    stm_status status = STM_OK;
    result_file file = {.descriptor = -1};
    uint64_t *offsets = NULL, loss_offset;
    gradient_source from = {.read = read, .context = context, .real_bytes = model->backend->real_bytes};
    STM_GOTO_OUT(stm_alloc(model->n_tensors, sizeof *offsets, &offsets));
    STM_GOTO_OUT(stm_alloc(PORTION, sizeof *from.doubles, &from.doubles));
    STM_GOTO_OUT(stm_alloc(PORTION, from.real_bytes, &from.reals));
    STM_GOTO_OUT(begin(path, (model->n_parameters + 1) * sizeof(double), &file));
    STM_GOTO_OUT(stm_skeleton_dataset(file.skeleton, "/loss", H5T_IEEE_F64LE, 0, NULL, &loss_offset));
    for (size_t i = 0; i < model->n_tensors; i++) {
        const stm_parameter *parameter = &model->tensors[i];
        char name[128];
        snprintf(name, sizeof name, "/grad/%s", parameter->name);
        STM_GOTO_OUT(stm_skeleton_dataset(file.skeleton, name, H5T_IEEE_F64LE, parameter->n_dims, parameter->shape,
                                          &offsets[i]));
    }
    STM_GOTO_OUT(put_skeleton(&file));
    STM_GOTO_OUT(put(&file, loss_offset, &loss, 1));
    for (size_t i = 0; i < model->n_tensors; i++)
        STM_GOTO_OUT(put_gradient(&file, offsets[i], &model->tensors[i], &from));
    STM_GOTO_OUT(commit(&file));
out:
    end(&file, status);
    free(offsets);
    free(from.doubles);
    free(from.reals);
    return status;
}
