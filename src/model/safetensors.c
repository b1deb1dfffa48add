#include "model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const size_t most_header_bytes = 100u << 20; /* the format's own limit */

const char *stm_shape_text(const size_t *shape, size_t n_dims, char *text, size_t text_bytes)
{
    size_t used = (size_t)snprintf(text, text_bytes, "[");
    for (size_t i = 0; i < n_dims && used < text_bytes; i++)
        used += (size_t)snprintf(text + used, text_bytes - used, i ? ", %zu" : "%zu", shape[i]);
    if (used < text_bytes)
        snprintf(text + used, text_bytes - used, "]");
    return text;
}

static stm_status read_shape(const char *path, const char *name, const json_t *shape, stm_tensor *tensor)
{
    if (!json_is_array(shape) || json_array_size(shape) > STM_TENSOR_DIMS)
        return stm_fail(STM_ERR_INPUT, "%s: %s: shape: expected an array of at most %d sizes", path, name,
                        STM_TENSOR_DIMS);
    tensor->n = 1;
    tensor->n_dims = json_array_size(shape);
    for (size_t i = 0; i < tensor->n_dims; i++) {
        const json_t *size = json_array_get(shape, i);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return stm_fail(STM_ERR_INPUT, "%s: %s: shape: expected sizes of 0 or more", path, name);
        tensor->shape[i] = (size_t)json_integer_value(size);
        if (__builtin_mul_overflow(tensor->n, tensor->shape[i], &tensor->n))
            return stm_fail(STM_ERR_INPUT, "%s: %s: shape: more elements than memory can hold", path, name);
    }
    return STM_OK;
}

/* data: [data_bytes], what follows the header. */
static stm_status read_entry(const char *path, const char *name, const json_t *entry, const char *data,
                             size_t data_bytes, stm_tensor *tensor)
{
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    size_t element_bytes, bytes;
    if (!dtype || !stm_dtype_find(dtype, &tensor->dtype, &element_bytes))
        return stm_fail(STM_ERR_INPUT, "%s: %s: dtype: found %.20s, expected a type such as F32 or BF16", path, name,
                        dtype ? dtype : "none");
    snprintf(tensor->dtype_name, sizeof tensor->dtype_name, "%s", dtype);
    STM_TRY(read_shape(path, name, json_object_get(entry, "shape"), tensor));
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last))
        return stm_fail(STM_ERR_INPUT, "%s: %s: data_offsets: expected two integers", path, name);
    const json_int_t begin = json_integer_value(first), end = json_integer_value(last);
    if (begin < 0 || end < begin || (uint64_t)end > data_bytes)
        return stm_fail(STM_ERR_INPUT, "%s: %s: data_offsets: found [%lld, %lld], but the file has %zu bytes of data",
                        path, name, (long long)begin, (long long)end, data_bytes);
    if (__builtin_mul_overflow(tensor->n, element_bytes, &bytes) || bytes != (size_t)(end - begin)) {
        char shape[200];
        return stm_fail(STM_ERR_INPUT, "%s: %s: data_offsets: found %lld bytes, expected those of shape %s in %s", path,
                        name, (long long)(end - begin),
                        stm_shape_text(tensor->shape, tensor->n_dims, shape, sizeof shape), dtype);
    }
    tensor->begin = (size_t)begin;
    tensor->bytes = bytes;
    tensor->data = data + begin;
    if (!(tensor->name = strdup(name)))
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    return STM_OK;
}

static int by_place(const void *a, const void *b)
{
    const stm_tensor *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* empty ones first */
}

/* Tensors that overlap, or bytes that belong to none, mean a damaged or half-copied file. */
static stm_status check_cover(const stm_safetensors *file, size_t data_bytes)
{
    size_t place = 0;
    for (size_t i = 0; i < file->n_tensors; i++) {
        const stm_tensor *tensor = &file->tensors[i];
        if (tensor->begin != place)
            return stm_fail(STM_ERR_INPUT, "%s: %s: data_offsets: found a start at byte %zu, expected %zu", file->path,
                            tensor->name, tensor->begin, place);
        place += tensor->bytes;
    }
    if (place != data_bytes)
        return stm_fail(STM_ERR_INPUT, "%s: found %zu bytes of data, expected %zu by its header", file->path,
                        data_bytes, place);
    return STM_OK;
}

static stm_status read_header(stm_safetensors *file)
{
    const char *bytes = file->mapping;
    uint64_t header_bytes = 0;
    if (file->mapping_bytes < sizeof header_bytes)
        return stm_fail(STM_ERR_INPUT, "%s: found %zu bytes, expected a safetensors file", file->path,
                        file->mapping_bytes);
    memcpy(&header_bytes, bytes, sizeof header_bytes);
    if (header_bytes > most_header_bytes || header_bytes > file->mapping_bytes - sizeof header_bytes)
        return stm_fail(STM_ERR_INPUT,
                        "%s: found a header of %llu bytes in a file of %zu: cut short, or not a safetensors file",
                        file->path, (unsigned long long)header_bytes, file->mapping_bytes);
    const char *data = bytes + sizeof header_bytes + header_bytes;
    const size_t data_bytes = file->mapping_bytes - sizeof header_bytes - header_bytes;

    json_error_t error;
    json_t *header = json_loadb(bytes + sizeof header_bytes, header_bytes, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(header)) {
        json_decref(header);
        return stm_fail(STM_ERR_INPUT, "%s: its header is not a JSON object: %s", file->path,
                        header ? "found another value" : error.text);
    }
    stm_status status = STM_OK;
    const char *name;
    json_t *entry;
    STM_GOTO_OUT(stm_alloc(json_object_size(header), sizeof *file->tensors, &file->tensors));
    json_object_foreach(header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        STM_GOTO_OUT(read_entry(file->path, name, entry, data, data_bytes, &file->tensors[file->n_tensors]));
        file->n_tensors++;
    }
    qsort(file->tensors, file->n_tensors, sizeof *file->tensors, by_place);
    STM_GOTO_OUT(check_cover(file, data_bytes));
out:
    json_decref(header);
    return status;
}

static stm_status map_file(stm_safetensors *file)
{
    const int descriptor = open(file->path, O_RDONLY | O_CLOEXEC);
    struct stat about;
    stm_status status = STM_OK;
    if (descriptor < 0 || fstat(descriptor, &about) != 0) {
        status = stm_fail(STM_ERR_INPUT, "%s: cannot be read: %s", file->path, strerror(errno));
    } else if (!S_ISREG(about.st_mode)) {
        status = stm_fail(STM_ERR_INPUT, "%s: found no regular file, expected a safetensors file", file->path);
    } else if (about.st_size > 0) { /* an empty mapping is an error; the header's check says what is wrong */
        void *mapping = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
        if (mapping == MAP_FAILED) {
            status = stm_fail(STM_ERR_INPUT, "%s: cannot be mapped: %s", file->path, strerror(errno));
        } else {
            file->mapping = mapping;
            file->mapping_bytes = (size_t)about.st_size;
        }
    }
    if (descriptor >= 0)
        close(descriptor);
    return status;
}

stm_status stm_safetensors_open(const char *path, stm_safetensors **out)
{
    stm_safetensors *file;
    STM_TRY(stm_alloc(1, sizeof *file, &file));
    stm_status status = STM_OK;
    STM_GOTO_OUT(stm_format(&file->path, "%s", path));
    STM_GOTO_OUT(map_file(file));
    STM_GOTO_OUT(read_header(file));
    *out = file;
    file = NULL;
out:
    stm_safetensors_close(file);
    return status;
}

void stm_safetensors_close(stm_safetensors *file)
{
    if (!file)
        return;
    for (size_t i = 0; i < file->n_tensors; i++)
        free(file->tensors[i].name);
    free(file->tensors);
    if (file->mapping)
        munmap(file->mapping, file->mapping_bytes);
    free(file->path);
    free(file);
}

const stm_tensor *stm_safetensors_find(const stm_safetensors *file, const char *name)
{
    for (size_t i = 0; i < file->n_tensors; i++) {
        if (strcmp(file->tensors[i].name, name) == 0)
            return &file->tensors[i];
    }
    return NULL;
}

stm_status stm_safetensors_read(const stm_safetensors *file, const stm_tensor *tensor, size_t first, size_t n,
                                size_t real_bytes, void *reals)
{
    if (tensor->dtype == STM_OTHER)
        return stm_fail(STM_ERR_INPUT, "%s: %s: dtype: found %s, expected F32, BF16, F16 or F64", file->path,
                        tensor->name, tensor->dtype_name);
    const char *from = (const char *)tensor->data + first * stm_dtype_bytes(tensor->dtype);
    if (real_bytes == sizeof(double))
        stm_dtype_to_double(tensor->dtype, from, n, reals);
    else
        stm_dtype_to_float(tensor->dtype, from, n, reals);
    const size_t bad = stm_first_not_finite(reals, real_bytes, n);
    if (bad < n)
        return stm_fail(STM_ERR_INPUT, "%s: %s: element %zu: found %g, expected a finite number", file->path,
                        tensor->name, first + bad,
                        real_bytes == 8 ? ((double *)reals)[bad] : (double)((float *)reals)[bad]);
    return STM_OK;
}

/* Whole pages around the elements. */
static char *pages_of(const stm_safetensors *file, const stm_tensor *tensor, size_t first, size_t n, size_t *bytes)
{
    const size_t element_bytes = tensor->dtype == STM_OTHER ? 0 : stm_dtype_bytes(tensor->dtype);
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t begin = (size_t)((const char *)tensor->data - (const char *)file->mapping) + first * element_bytes;
    const size_t start = begin / page * page;
    *bytes = begin + n * element_bytes - start;
    return (char *)file->mapping + start;
}

void stm_safetensors_fetch(const stm_safetensors *file, const stm_tensor *tensor, size_t first, size_t n)
{
    size_t bytes;
    char *pages = pages_of(file, tensor, first, n, &bytes);
#ifdef MADV_POPULATE_READ
    if (madvise(pages, bytes, MADV_POPULATE_READ) == 0)
        return;
#endif
    const size_t page = (size_t)sysconf(_SC_PAGESIZE); /* Linux before 5.14 */
    for (size_t at = 0; at < bytes; at += page)
        (void)*(volatile const char *)(pages + at);
}

void stm_safetensors_have_read(const stm_safetensors *file, const stm_tensor *tensor, size_t first, size_t n)
{
    size_t bytes;
    char *pages = pages_of(file, tensor, first, n, &bytes);
    (void)madvise(pages, bytes, MADV_DONTNEED);
}
