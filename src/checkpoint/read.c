#include "checkpoint/read.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/disk.h"
#include "checkpoint/skeleton.h"
#include "model/safetensors.h"

stm_status stm_hdf5_open(const char *path, hid_t *file)
{
    stm_hdf5_quiet();
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_file_locking(access, false, true); /* some parallel file systems have no locks */
    *file = H5Fopen(path, H5F_ACC_RDONLY, access);
    if (*file < 0)
        stm_hdf5_fail(path, "cannot be read as HDF5"); /* before the next call forgets why */
    H5Pclose(access);
    return *file < 0 ? STM_ERR_INPUT : STM_OK;
}

bool stm_hdf5_has(hid_t file, const char *name)
{
    return H5Lexists(file, name, H5P_DEFAULT) > 0;
}

stm_status stm_hdf5_attribute(hid_t file, const char *path, const char *object, const char *name, hid_t type,
                              void *value)
{
    const hid_t attribute = H5Aopen_by_name(file, object, name, H5P_DEFAULT, H5P_DEFAULT);
    const bool read = attribute >= 0 && H5Aread(attribute, type, value) >= 0;
    if (attribute >= 0)
        H5Aclose(attribute);
    return read ? STM_OK
                : stm_fail(STM_ERR_INPUT, "%s: %s: the attribute %s is missing or of another type", path, object, name);
}

static hid_t text_type(void)
{
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

/* A text of HDF5's memory into our own. */
static stm_status take(char *from, char **text)
{
    const stm_status status = stm_format(text, "%s", from ? from : "");
    H5free_memory(from);
    return status;
}

stm_status stm_hdf5_attribute_text(hid_t file, const char *path, const char *object, const char *name, char **text)
{
    char *found = NULL;
    const hid_t type = text_type();
    const stm_status status = stm_hdf5_attribute(file, path, object, name, type, &found);
    H5Tclose(type);
    STM_TRY(status);
    return take(found, text);
}

stm_status stm_hdf5_text(hid_t file, const char *path, const char *name, char **text)
{
    char *found = NULL;
    const hid_t type = text_type(), dataset = H5Dopen2(file, name, H5P_DEFAULT);
    const bool read = dataset >= 0 && H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, &found) >= 0;
    if (dataset >= 0)
        H5Dclose(dataset);
    H5Tclose(type);
    if (!read)
        return stm_fail(STM_ERR_INPUT, "%s: %s: the text is missing", path, name);
    return take(found, text);
}

/* Their number; 0 where the dataset is none of ours. */
static size_t count_bytes(hid_t dataset)
{
    const hid_t space = H5Dget_space(dataset), type = H5Dget_type(dataset);
    const hssize_t n = H5Tequal(type, H5T_STD_U8LE) > 0 ? H5Sget_simple_extent_npoints(space) : 0;
    H5Tclose(type);
    H5Sclose(space);
    return n > 0 ? (size_t)n : 0;
}

stm_status stm_hdf5_bytes(hid_t file, const char *path, const char *name, stm_kept *out)
{
    const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
    stm_status status = STM_OK;
    *out = (stm_kept){.n = dataset >= 0 ? count_bytes(dataset) : 0};
    if (out->n > 0)
        status = stm_alloc(out->n, 1, &out->bytes);
    const bool read = out->n > 0 && status == STM_OK &&
                      H5Dread(dataset, H5T_STD_U8LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, out->bytes) >= 0;
    if (status == STM_OK && !read)
        status = stm_fail(STM_ERR_INPUT, "%s: %s: the bytes are missing", path, name);
    if (dataset >= 0)
        H5Dclose(dataset);
    return status;
}

stm_status stm_places_create(size_t n_tensors, stm_places *places)
{
    *places = (stm_places){0};
    STM_TRY(stm_alloc(STM_CHECKPOINT_N_KINDS * n_tensors, sizeof *places->all, &places->all));
    for (size_t kind = 0; kind < STM_CHECKPOINT_N_KINDS; kind++)
        places->offsets[kind] = places->all + kind * n_tensors;
    return STM_OK;
}

static const char *const kind_folders[STM_CHECKPOINT_N_KINDS] = {"",
                                                                 "/parameters",
                                                                 "/optimizer/exp_avg",
                                                                 "/optimizer/exp_avg_sq",
                                                                 "/copies/target",
                                                                 "/copies/twin",
                                                                 "/copies/twin_exp_avg",
                                                                 "/copies/twin_exp_avg_sq"};

const char *stm_tensor_path(stm_checkpoint_kind kind, const char *name, char text[STM_TENSOR_PATH])
{
    snprintf(text, STM_TENSOR_PATH, "%s/%s", kind_folders[kind], name);
    return text;
}

/* 4 or 8 for the two types that we write, else 0. */
static size_t real_bytes_of(hid_t dataset)
{
    const hid_t type = H5Dget_type(dataset);
    const size_t bytes = H5Tequal(type, H5T_IEEE_F32LE) > 0 ? 4 : H5Tequal(type, H5T_IEEE_F64LE) > 0 ? 8 : 0;
    H5Tclose(type);
    return bytes;
}

static bool has_shape(hid_t dataset, const stm_parameter *parameter, char *found, size_t found_bytes)
{
    hsize_t dims[H5S_MAX_RANK];
    size_t shape[H5S_MAX_RANK];
    const hid_t space = H5Dget_space(dataset);
    const int n_dims = H5Sget_simple_extent_dims(space, dims, NULL);
    H5Sclose(space);
    bool same = n_dims == (int)parameter->n_dims;
    for (int d = 0; d < n_dims; d++) {
        shape[d] = dims[d];
        same = same && dims[d] == parameter->shape[d];
    }
    stm_shape_text(shape, n_dims > 0 ? (size_t)n_dims : 0, found, found_bytes);
    return same;
}

static stm_status read_place(hid_t file, const char *path, const char *name, const stm_parameter *parameter,
                             stm_places *places, uint64_t *offset)
{
    char found[64], expected[64];
    const hid_t dataset = stm_hdf5_has(file, name) ? H5Dopen2(file, name, H5P_DEFAULT) : -1;
    if (dataset < 0)
        return stm_fail(STM_ERR_INPUT, "%s: %s: missing", path, name);
    stm_status status = STM_OK;
    const size_t real_bytes = real_bytes_of(dataset);
    const haddr_t place = H5Dget_offset(dataset);
    if (!has_shape(dataset, parameter, found, sizeof found))
        status = stm_fail(STM_ERR_INPUT, "%s: %s: found shape %s, expected %s", path, name, found,
                          stm_shape_text(parameter->shape, parameter->n_dims, expected, sizeof expected));
    else if (real_bytes == 0 || place == HADDR_UNDEF || (places->real_bytes && places->real_bytes != real_bytes))
        status = stm_fail(STM_ERR_INPUT, "%s: %s: expected one block of float32 or float64, as the other tensors", path,
                          name);
    places->real_bytes = real_bytes;
    *offset = place;
    H5Dclose(dataset);
    return status;
}

stm_status stm_places_read(hid_t file, const char *path, const stm_model *model, stm_places *places)
{
    char name[STM_TENSOR_PATH];
    static const char *const other_names[] = {"model.embed_tokens.weight", "lm_head.weight"};
    for (stm_checkpoint_kind kind = STM_CHECKPOINT_PARAMETERS; kind < STM_CHECKPOINT_N_KINDS; kind++) {
        if (kind >= STM_CHECKPOINT_COPIES && !stm_hdf5_has(file, kind_folders[kind]))
            continue;
        for (size_t i = 0; i < model->n_tensors; i++) {
            stm_tensor_path(kind, model->tensors[i].name, name);
            /* A tied matrix has the name that it had in the start model's file. */
            for (size_t k = 0; k < 2 && i == 0 && model->config.tied && !stm_hdf5_has(file, name); k++)
                stm_tensor_path(kind, other_names[k], name);
            STM_TRY(read_place(file, path, name, &model->tensors[i], places, &places->offsets[kind][i]));
        }
        H5G_info_t group;
        if (H5Gget_info_by_name(file, kind_folders[kind], &group, H5P_DEFAULT) < 0 || group.nlinks != model->n_tensors)
            return stm_fail(STM_ERR_INPUT, "%s: %s: holds %llu tensors, expected %zu", path, kind_folders[kind],
                            (unsigned long long)group.nlinks, model->n_tensors);
    }
    return STM_OK;
}

stm_status stm_read_reals(int descriptor, const char *path, uint64_t offset, size_t file_real_bytes, size_t n,
                          void *raw, size_t real_bytes, void *reals)
{
    STM_TRY(stm_disk_read(descriptor, path, offset, raw, n * file_real_bytes));
    const stm_dtype dtype = file_real_bytes == 8 ? STM_F64 : STM_F32;
    if (real_bytes == 8)
        stm_dtype_to_double(dtype, raw, n, reals);
    else
        stm_dtype_to_float(dtype, raw, n, reals);
    return STM_OK;
}
