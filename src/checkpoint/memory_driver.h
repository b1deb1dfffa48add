/* src/checkpoint/memory_driver.h: HDF5's way to a file in memory (memfd) that may grow no further.
 *
 * HDF5 does not recover from a write that fails while it closes a file: it keeps the file, half freed, and crashes when
 * the program ends. This driver tells HDF5 that all is well, notes the failure, and leaves it to its caller. Local. */
#ifndef STM_CHECKPOINT_MEMORY_DRIVER_H
#define STM_CHECKPOINT_MEMORY_DRIVER_H

#include <hdf5.h>

#include "base/base.h"

typedef struct {
    int descriptor; /* the file */
    int failed;     /* errno of the first write that failed; 0: none */
    uint64_t bytes; /* the size that HDF5 has given the file; holes at the end are not in it yet */
} stm_memory_file;

/* A file access property list for H5Fcreate, whose name of the file is then only a name; < 0: HDF5 fails. The caller
 * closes it; *file must outlive what is opened with it. */
hid_t stm_memory_driver_access(stm_memory_file *file);

#endif
