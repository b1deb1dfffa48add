/* The writing half of model/safetensors.h. */
#include "model/safetensors.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PORTION = 16384 };

struct stm_safetensors_writer {
    char *path, *temporary;
    FILE *file;
    stm_dtype dtype;
    size_t n_left; /* elements still to come */
};

static stm_status io_failure(const stm_safetensors_writer *writer)
{
    return stm_fail(STM_ERR_IO, "%s: cannot be written: %s", writer->temporary, strerror(errno));
}

/* The header's text, padded so that the data starts at a multiple of 8. */
static stm_status header_text(const stm_tensor *tensors, size_t n_tensors, stm_dtype dtype, char **out, size_t *n)
{
    stm_status status = STM_OK;
    char *text = NULL;
    size_t place = 0;
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt"); /* transformers asks for this entry */
    for (size_t i = 0; header && i < n_tensors; i++) {
        const stm_tensor *tensor = &tensors[i];
        const size_t end = place + tensor->n * stm_dtype_bytes(dtype);
        json_t *shape = json_array();
        for (size_t d = 0; d < tensor->n_dims; d++)
            json_array_append_new(shape, json_integer((json_int_t)tensor->shape[d]));
        json_object_set_new(header, tensor->name,
                            json_pack("{s:s, s:o, s:[I,I]}", "dtype", stm_dtype_name(dtype), "shape", shape,
                                      "data_offsets", (json_int_t)place, (json_int_t)end));
        place = end;
    }
    if (!header || !(text = json_dumps(header, JSON_COMPACT))) {
        status = stm_fail(STM_ERR_MEMORY, "out of memory");
        goto out;
    }
    *n = (strlen(text) + 7) / 8 * 8;
    STM_GOTO_OUT(stm_format(out, "%-*s", (int)*n, text));
out:
    free(text);
    json_decref(header);
    return status;
}

stm_status stm_safetensors_write_begin(const char *path, const stm_tensor *tensors, size_t n_tensors, stm_dtype dtype,
                                       stm_safetensors_writer **out)
{
    stm_safetensors_writer *writer;
    char *text = NULL;
    size_t text_bytes = 0;
    stm_status status = STM_OK;
    STM_TRY(stm_alloc(1, sizeof *writer, &writer));
    writer->dtype = dtype;
    for (size_t i = 0; i < n_tensors; i++)
        writer->n_left += tensors[i].n;
    STM_GOTO_OUT(stm_format(&writer->path, "%s", path));
    STM_GOTO_OUT(stm_format(&writer->temporary, "%s.part", path));
    STM_GOTO_OUT(header_text(tensors, n_tensors, dtype, &text, &text_bytes));
    const uint64_t header_bytes = text_bytes;
    if (!(writer->file = fopen(writer->temporary, "wb")) ||
        fwrite(&header_bytes, sizeof header_bytes, 1, writer->file) != 1 ||
        fwrite(text, 1, text_bytes, writer->file) != text_bytes) {
        status = io_failure(writer);
        goto out;
    }
    *out = writer;
    writer = NULL;
out:
    free(text);
    stm_safetensors_write_abandon(writer);
    return status;
}

stm_status stm_safetensors_write(stm_safetensors_writer *writer, const void *reals, size_t real_bytes, size_t n)
{
    char portion[PORTION * sizeof(float)];
    const size_t bytes = stm_dtype_bytes(writer->dtype);
    if (n > writer->n_left)
        return stm_fail(STM_ERR_IO, "%s: more elements than its header announces", writer->path);
    for (size_t i = 0; i < n; i += PORTION) {
        const size_t m = STM_MIN((size_t)PORTION, n - i);
        stm_dtype_from_real(writer->dtype, (const char *)reals + i * real_bytes, real_bytes, m, portion);
        if (fwrite(portion, bytes, m, writer->file) != m)
            return io_failure(writer);
    }
    writer->n_left -= n;
    return STM_OK;
}

stm_status stm_safetensors_write_finish(stm_safetensors_writer *writer)
{
    stm_status status = STM_OK;
    if (writer->n_left)
        status = stm_fail(STM_ERR_IO, "%s: %zu elements fewer than its header announces", writer->path, writer->n_left);
    else if (fflush(writer->file) != 0 || fsync(fileno(writer->file)) != 0)
        status = io_failure(writer);
    else if (rename(writer->temporary, writer->path) != 0)
        status =
            stm_fail(STM_ERR_IO, "%s: cannot be renamed to %s: %s", writer->temporary, writer->path, strerror(errno));
    stm_safetensors_write_abandon(writer); /* after the rename nothing has the temporary name */
    return status;
}

void stm_safetensors_write_abandon(stm_safetensors_writer *writer)
{
    if (!writer)
        return;
    if (writer->file) {
        fclose(writer->file);
        unlink(writer->temporary);
    }
    free(writer->path);
    free(writer->temporary);
    free(writer);
}
