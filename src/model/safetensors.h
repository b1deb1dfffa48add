/* src/model/safetensors.h: reads and writes safetensors files.
 *
 * A file is: 8 bytes with the header's length N, little-endian; N bytes of JSON {"name": {"dtype", "shape",
 * "data_offsets": [begin, end]}, ...}, perhaps padded with spaces; the data, which the tensors fill in some order
 * without holes. Format: the README of https://github.com/huggingface/safetensors. Nothing in the header is trusted.
 * The file is mapped, so data is read from the disk when it is used. Local, all of it. */
#ifndef STM_MODEL_SAFETENSORS_H
#define STM_MODEL_SAFETENSORS_H

#include "base/base.h"
#include "model/dtype.h"

enum { STM_TENSOR_DIMS = 8 };

typedef struct {
    char *name;
    char dtype_name[12];
    stm_dtype dtype;
    size_t n_dims, shape[STM_TENSOR_DIMS];
    size_t n;         /* elements */
    size_t begin;     /* bytes from the start of the data */
    const void *data; /* in the mapping, not aligned */
    size_t bytes;
} stm_tensor;

typedef struct {
    char *path;
    size_t n_tensors;
    stm_tensor *tensors; /* [n_tensors], in order of place in the file */
    void *mapping;
    size_t mapping_bytes;
} stm_safetensors;

/* Maps a file and checks its header. The caller closes *out. Fails: STM_ERR_INPUT, STM_ERR_MEMORY. */
stm_status stm_safetensors_open(const char *path, stm_safetensors **out);
void stm_safetensors_close(stm_safetensors *file); /* NULL is fine */

/* The tensor of that name, or NULL. */
const stm_tensor *stm_safetensors_find(const stm_safetensors *file, const char *name);

/* "[131, 48]" in the caller's text. */
const char *stm_shape_text(const size_t *shape, size_t n_dims, char *text, size_t text_bytes);

/* Elements [first, first + n) -> reals (real_bytes 4 or 8); a number that is not finite is refused by name and place.
 * Only for weight types. Fails: STM_ERR_INPUT. */
stm_status stm_safetensors_read(const stm_safetensors *file, const stm_tensor *tensor, size_t first, size_t n,
                                size_t real_bytes, void *reals);

/* Reads these elements from the disk and maps them, so that their use waits for neither. */
void stm_safetensors_fetch(const stm_safetensors *file, const stm_tensor *tensor, size_t first, size_t n);

/* A hint, whose failure changes nothing: these elements have been read, so this process need not hold their pages. */
void stm_safetensors_have_read(const stm_safetensors *file, const stm_tensor *tensor, size_t first, size_t n);

/* Writes a file part by part: begin takes name, n_dims, shape and n of each tensor (all of `dtype`, STM_F32 or
 * STM_BF16), then their data follows in this order in any portions. The file has a temporary name until finish has
 * fsynced it and renamed it to `path`; finish fails unless every element came. Either finish or abandon frees the
 * writer. Fails: STM_ERR_IO, STM_ERR_MEMORY. */
typedef struct stm_safetensors_writer stm_safetensors_writer;
stm_status stm_safetensors_write_begin(const char *path, const stm_tensor *tensors, size_t n_tensors, stm_dtype dtype,
                                       stm_safetensors_writer **out);
stm_status stm_safetensors_write(stm_safetensors_writer *writer, const void *reals, size_t real_bytes, size_t n);
stm_status stm_safetensors_write_finish(stm_safetensors_writer *writer);
void stm_safetensors_write_abandon(stm_safetensors_writer *writer); /* removes the temporary file; NULL is fine */

#endif
