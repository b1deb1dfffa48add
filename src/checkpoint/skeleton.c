#include "checkpoint/skeleton.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "checkpoint/disk.h"
#include "checkpoint/memory_driver.h"

struct stm_skeleton {
    char *path; /* of the file it is for */
    stm_memory_file memory;
    hid_t file, dataset_options, link_options; /* -1 when not open */
};

void stm_hdf5_quiet(void)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

/* The innermost record says most. */
static herr_t keep_last(unsigned n, const H5E_error2_t *error, void *reason)
{
    (void)n;
    snprintf(reason, 512, "%s", error->desc ? error->desc : "");
    return 0;
}

stm_status stm_hdf5_fail(const char *path, const char *what)
{
    char reason[512] = "";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, keep_last, reason);
    return stm_fail(STM_ERR_IO, "%s: %s: %s", path, what, *reason ? reason : "HDF5 gives no reason");
}

stm_status stm_skeleton_create(const char *path, size_t user_block, stm_skeleton **out)
{
    stm_skeleton *skeleton;
    stm_status status = STM_OK;
    hid_t file_options = -1, access = -1;
    stm_hdf5_quiet();
    STM_TRY(stm_alloc(1, sizeof *skeleton, &skeleton));
    skeleton->memory.descriptor = -1;
    skeleton->file = skeleton->dataset_options = skeleton->link_options = -1;
    STM_GOTO_OUT(stm_format(&skeleton->path, "%s", path));
    if ((skeleton->memory.descriptor = memfd_create("stemma-skeleton", MFD_CLOEXEC)) < 0) {
        status = stm_fail(STM_ERR_MEMORY, "%s: no memory to lay it out: %s", path, strerror(errno));
        goto out;
    }
    file_options = H5Pcreate(H5P_FILE_CREATE);
    access = stm_memory_driver_access(&skeleton->memory);
    skeleton->dataset_options = H5Pcreate(H5P_DATASET_CREATE);
    skeleton->link_options = H5Pcreate(H5P_LINK_CREATE);
    if (H5Pset_userblock(file_options, user_block) < 0 || access < 0 ||
        H5Pset_alloc_time(skeleton->dataset_options, H5D_ALLOC_TIME_EARLY) < 0 ||
        H5Pset_fill_time(skeleton->dataset_options, H5D_FILL_TIME_NEVER) < 0 ||
        H5Pset_obj_track_times(skeleton->dataset_options, false) < 0 || /* equal states, equal files */
        H5Pset_create_intermediate_group(skeleton->link_options, 1) < 0 ||
        (skeleton->file = H5Fcreate(path, H5F_ACC_TRUNC, file_options, access)) < 0) {
        status = stm_hdf5_fail(path, "cannot be laid out");
        goto out;
    }
    *out = skeleton;
    skeleton = NULL;
out:
    if (file_options >= 0)
        H5Pclose(file_options);
    if (access >= 0)
        H5Pclose(access);
    stm_skeleton_destroy(skeleton);
    return status;
}

void stm_skeleton_destroy(stm_skeleton *skeleton)
{
    if (!skeleton)
        return;
    if (skeleton->file >= 0)
        H5Fclose(skeleton->file);
    if (skeleton->dataset_options >= 0)
        H5Pclose(skeleton->dataset_options);
    if (skeleton->link_options >= 0)
        H5Pclose(skeleton->link_options);
    stm_disk_close(skeleton->memory.descriptor);
    free(skeleton->path);
    free(skeleton);
}

stm_status stm_skeleton_group(stm_skeleton *skeleton, const char *name)
{
    const hid_t group = H5Gcreate2(skeleton->file, name, skeleton->link_options, H5P_DEFAULT, H5P_DEFAULT);
    if (group < 0)
        return stm_hdf5_fail(skeleton->path, name);
    H5Gclose(group);
    return STM_OK;
}

stm_status stm_skeleton_dataset(stm_skeleton *skeleton, const char *name, hid_t type, size_t n_dims,
                                const size_t *shape, uint64_t *offset)
{
    hsize_t dims[H5S_MAX_RANK];
    size_t n = 1;
    for (size_t d = 0; d < n_dims; d++) {
        dims[d] = shape[d];
        n *= shape[d];
    }
    const hid_t space = n_dims ? H5Screate_simple((int)n_dims, dims, NULL) : H5Screate(H5S_SCALAR);
    const hid_t dataset =
        H5Dcreate2(skeleton->file, name, type, space, skeleton->link_options, skeleton->dataset_options, H5P_DEFAULT);
    const haddr_t place = dataset >= 0 && n ? H5Dget_offset(dataset) : 0;
    const stm_status status = dataset < 0 || place == HADDR_UNDEF ? stm_hdf5_fail(skeleton->path, name) : STM_OK;
    if (dataset >= 0)
        H5Dclose(dataset);
    if (space >= 0)
        H5Sclose(space);
    *offset = place;
    return status;
}

/* UTF-8 of any length; it lies in the file's heap, so that attributes have no limit either. */
static hid_t text_type(void)
{
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

stm_status stm_skeleton_text(stm_skeleton *skeleton, const char *name, const char *text)
{
    const hid_t type = text_type(), space = H5Screate(H5S_SCALAR), options = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(options, false);
    const hid_t dataset = H5Dcreate2(skeleton->file, name, type, space, skeleton->link_options, options, H5P_DEFAULT);
    const bool written = dataset >= 0 && H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, &text) >= 0;
    const stm_status status = written ? STM_OK : stm_hdf5_fail(skeleton->path, name);
    if (dataset >= 0)
        H5Dclose(dataset);
    H5Pclose(options);
    H5Sclose(space);
    H5Tclose(type);
    return status;
}

stm_status stm_skeleton_bytes(stm_skeleton *skeleton, const char *name, const void *bytes, size_t n)
{
    uint64_t offset;
    STM_TRY(stm_skeleton_dataset(skeleton, name, H5T_STD_U8LE, 1, &n, &offset));
    const hid_t dataset = H5Dopen2(skeleton->file, name, H5P_DEFAULT);
    const bool written = dataset >= 0 && H5Dwrite(dataset, H5T_STD_U8LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes) >= 0;
    const stm_status status = written ? STM_OK : stm_hdf5_fail(skeleton->path, name);
    if (dataset >= 0)
        H5Dclose(dataset);
    return status;
}

stm_status stm_skeleton_attribute(stm_skeleton *skeleton, const char *object, const char *name, hid_t type,
                                  const void *value)
{
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t attribute =
        H5Acreate_by_name(skeleton->file, object, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    const bool written = attribute >= 0 && H5Awrite(attribute, type, value) >= 0;
    const stm_status status = written ? STM_OK : stm_hdf5_fail(skeleton->path, name);
    if (attribute >= 0)
        H5Aclose(attribute);
    H5Sclose(space);
    return status;
}

stm_status stm_skeleton_attribute_text(stm_skeleton *skeleton, const char *object, const char *name, const char *text)
{
    const hid_t type = text_type();
    const stm_status status = stm_skeleton_attribute(skeleton, object, name, type, &text);
    H5Tclose(type);
    return status;
}

stm_status stm_skeleton_finish(stm_skeleton *skeleton, uint64_t *bytes)
{
    stm_memory_file *memory = &skeleton->memory;
    const herr_t closed = H5Fclose(skeleton->file);
    skeleton->file = -1;
    if (closed < 0)
        return stm_hdf5_fail(skeleton->path, "cannot be laid out");
    if (memory->failed == 0 && ftruncate(memory->descriptor, (off_t)memory->bytes) != 0)
        memory->failed = errno;
    if (memory->failed != 0)
        return stm_disk_no_room(memory->descriptor, skeleton->path, memory->bytes, memory->failed);
    *bytes = memory->bytes;
    return STM_OK;
}

int stm_skeleton_descriptor(const stm_skeleton *skeleton)
{
    return skeleton->memory.descriptor;
}

enum { PORTION = 1 << 20 };

stm_status stm_skeleton_copy(const stm_skeleton *skeleton, int descriptor)
{
    stm_status status = STM_OK;
    char *portion = NULL;
    STM_TRY(stm_alloc(PORTION, 1, &portion));
    for (off_t start = 0, end; (uint64_t)start < skeleton->memory.bytes; start = end) {
        if ((start = lseek(skeleton->memory.descriptor, start, SEEK_DATA)) < 0)
            break; /* only a hole is left */
        end = lseek(skeleton->memory.descriptor, start, SEEK_HOLE);
        for (off_t at = start; at < end; at += PORTION) {
            const size_t n = (size_t)STM_MIN(end - at, (off_t)PORTION);
            STM_GOTO_OUT(stm_disk_read(skeleton->memory.descriptor, skeleton->path, (uint64_t)at, portion, n));
            STM_GOTO_OUT(stm_disk_write(descriptor, skeleton->path, (uint64_t)at, portion, n));
        }
    }
out:
    free(portion);
    return status;
}
