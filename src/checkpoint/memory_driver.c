#include "checkpoint/memory_driver.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if H5_VERSION_GE(1, 14, 0)
#include <H5FDdevelop.h>
#endif

/* What HDF5 holds of an open file; its own part comes first. */
typedef struct {
    H5FD_t hdf5;
    stm_memory_file *file;
} opened;

static H5FD_t *open_file(const char *name, unsigned flags, hid_t access, haddr_t max_address)
{
    (void)name, (void)flags, (void)max_address;
    stm_memory_file *const *file = H5Pget_driver_info(access);
    opened *o = calloc(1, sizeof *o);
    if (!o || !file) {
        free(o);
        return NULL;
    }
    o->file = *file;
    return &o->hdf5;
}

static herr_t close_file(H5FD_t *file)
{
    free(file);
    return 0;
}

/* As of HDF5's own drivers, so that small things share blocks and few writes. */
static herr_t query(const H5FD_t *file, unsigned long *flags)
{
    (void)file;
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
             H5FD_FEAT_AGGREGATE_SMALLDATA;
    return 0;
}

static haddr_t bytes_of(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return ((const opened *)file)->file->bytes;
}

static herr_t set_bytes(H5FD_t *file, H5FD_mem_t type, haddr_t bytes)
{
    (void)type;
    ((opened *)file)->file->bytes = bytes;
    return 0;
}

/* What was never written reads as zeros. */
static herr_t read_bytes(H5FD_t *file, H5FD_mem_t type, hid_t transfer, haddr_t address, size_t n, void *bytes)
{
    (void)type, (void)transfer;
    const stm_memory_file *f = ((const opened *)file)->file;
    for (size_t done = 0; done < n;) {
        const ssize_t got = pread(f->descriptor, (char *)bytes + done, n - done, (off_t)(address + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0) {
            memset((char *)bytes + done, 0, n - done);
            break;
        }
        done += (size_t)got;
    }
    return 0;
}

static herr_t write_bytes(H5FD_t *file, H5FD_mem_t type, hid_t transfer, haddr_t address, size_t n, const void *bytes)
{
    (void)type, (void)transfer;
    stm_memory_file *f = ((opened *)file)->file;
    for (size_t done = 0; done < n && f->failed == 0;) {
        const ssize_t written = pwrite(f->descriptor, (const char *)bytes + done, n - done, (off_t)(address + done));
        if (written >= 0)
            done += (size_t)written;
        else if (errno != EINTR)
            f->failed = errno;
    }
    return 0;
}

/* Metadata and data lie where they come, one after the other. */
static const H5FD_class_t DRIVER = {
#if H5_VERSION_GE(1, 14, 0)
    .version = H5FD_CLASS_VERSION,
    .value = 700, /* not of HDF5's own */
#endif
    .name = "stemma-memory",
    .maxaddr = (haddr_t)INT64_MAX,
    .fc_degree = H5F_CLOSE_WEAK,
    .fapl_size = sizeof(stm_memory_file *),
    .open = open_file,
    .close = close_file,
    .query = query,
    .get_eoa = bytes_of,
    .set_eoa = set_bytes,
    .get_eof = bytes_of,
    .read = read_bytes,
    .write = write_bytes,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

/* Registered once, and as long as the program runs: HDF5 still reads the driver that it lets go of with a file's end.
 */
static hid_t driver(void)
{
    static hid_t registered = H5I_INVALID_HID;
    if (registered < 0)
        registered = H5FDregister(&DRIVER);
    return registered;
}

hid_t stm_memory_driver_access(stm_memory_file *file)
{
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (access >= 0 && driver() >= 0 && H5Pset_driver(access, driver(), &file) >= 0)
        return access;
    if (access >= 0)
        H5Pclose(access);
    return H5I_INVALID_HID;
}
