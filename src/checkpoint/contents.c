#include "checkpoint/contents.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/disk.h"
#include "checkpoint/read.h"

typedef struct {
    const char *path;
    int descriptor;
    stm_content *items;
    size_t n, capacity;
    double *doubles; /* [PORTION] */
    void *raw;       /* [PORTION] of at most 8 bytes */
    stm_status status;
} listing;
enum { PORTION = 1 << 16 };

static void name_type(hid_t type, char text[16])
{
    const int bits = (int)(8 * H5Tget_size(type));
    switch (H5Tget_class(type)) {
    case H5T_FLOAT:
        snprintf(text, 16, "float%d", bits);
        break;
    case H5T_INTEGER:
        snprintf(text, 16, "%sint%d", H5Tget_sign(type) == H5T_SGN_NONE ? "u" : "", bits);
        break;
    case H5T_STRING:
        snprintf(text, 16, "text");
        break;
    default:
        snprintf(text, 16, "other");
    }
}

static void read_shape(hid_t dataset, stm_content *content)
{
    hsize_t dims[H5S_MAX_RANK];
    const hid_t space = H5Dget_space(dataset);
    const int n_dims = H5Sget_simple_extent_dims(space, dims, NULL);
    const hssize_t n = H5Sget_simple_extent_npoints(space);
    H5Sclose(space);
    content->n_dims = (size_t)STM_MIN(STM_MAX(n_dims, 0), (int)STM_CONTENT_DIMS);
    for (size_t d = 0; d < content->n_dims; d++)
        content->shape[d] = dims[d];
    content->n = n > 0 ? (uint64_t)n : 0;
}

static stm_status take_statistics(listing *l, uint64_t offset, size_t real_bytes, stm_content *content)
{
    double squares = 0;
    content->min = INFINITY;
    content->max = -INFINITY;
    for (uint64_t first = 0; first < content->n; first += PORTION) {
        const size_t n = (size_t)STM_MIN(content->n - first, (uint64_t)PORTION);
        STM_TRY(stm_read_reals(l->descriptor, l->path, offset + first * real_bytes, real_bytes, n, l->raw,
                               sizeof(double), l->doubles));
        for (size_t i = 0; i < n; i++) {
            if (!isfinite(l->doubles[i])) {
                content->n_not_finite++;
                continue;
            }
            squares += l->doubles[i] * l->doubles[i];
            content->min = fmin(content->min, l->doubles[i]);
            content->max = fmax(content->max, l->doubles[i]);
        }
    }
    content->norm = sqrt(squares);
    content->has_statistics = content->n > content->n_not_finite;
    return STM_OK;
}

static stm_status add(listing *l, hid_t dataset, const char *name)
{
    STM_TRY(stm_reserve(&l->items, &l->capacity, l->n + 1, sizeof *l->items));
    stm_content *content = &l->items[l->n];
    *content = (stm_content){0};
    STM_TRY(stm_format(&content->name, "%s", name));
    l->n++;
    const hid_t type = H5Dget_type(dataset);
    name_type(type, content->type);
    const size_t real_bytes = H5Tequal(type, H5T_IEEE_F32LE) > 0 ? 4 : H5Tequal(type, H5T_IEEE_F64LE) > 0 ? 8 : 0;
    H5Tclose(type);
    read_shape(dataset, content);
    const haddr_t place = H5Dget_offset(dataset);
    if (real_bytes == 0 || content->n == 0 || place == HADDR_UNDEF)
        return STM_OK;
    return take_statistics(l, place, real_bytes, content);
}

static herr_t visit(hid_t file, const char *name, const H5O_info_t *info, void *context)
{
    listing *l = context;
    if (info->type != H5O_TYPE_DATASET)
        return 0;
    const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
    if (dataset < 0) {
        l->status = stm_fail(STM_ERR_INPUT, "%s: %s: cannot be read as HDF5", l->path, name);
        return -1;
    }
    l->status = add(l, dataset, name);
    H5Dclose(dataset);
    return l->status == STM_OK ? 0 : -1;
}

static int by_name(const void *a, const void *b)
{
    const stm_content *x = a, *y = b;
    return strverscmp(x->name, y->name);
}

stm_status stm_contents_read(const char *path, stm_content **contents, size_t *n)
{
    listing l = {.path = path, .descriptor = -1};
    hid_t file = -1;
    stm_status status = STM_OK;
    STM_GOTO_OUT(stm_alloc(PORTION, sizeof *l.doubles, &l.doubles));
    STM_GOTO_OUT(stm_alloc(PORTION, sizeof(double), &l.raw));
    STM_GOTO_OUT(stm_disk_open(path, false, &l.descriptor));
    STM_GOTO_OUT(stm_hdf5_open(path, &file));
    if (H5Ovisit2(file, H5_INDEX_NAME, H5_ITER_NATIVE, visit, &l, H5O_INFO_BASIC) < 0) {
        status = l.status != STM_OK ? l.status : stm_fail(STM_ERR_INPUT, "%s: cannot be read as HDF5", path);
        goto out;
    }
    if (l.n)
        qsort(l.items, l.n, sizeof *l.items, by_name);
    *contents = l.items;
    *n = l.n;
    l.items = NULL;
    l.n = 0;
out:
    if (file >= 0)
        H5Fclose(file);
    stm_disk_close(l.descriptor);
    stm_contents_free(l.items, l.n);
    free(l.doubles);
    free(l.raw);
    return status;
}

void stm_contents_free(stm_content *contents, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(contents[i].name);
    free(contents);
}
