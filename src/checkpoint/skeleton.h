/* src/checkpoint/skeleton.h: an HDF5 file without its data: HDF5 lays it out in memory, and everything that reaches the
 * disk is a plain write.
 *
 * The skeleton lives in an anonymous sparse file (memfd), where HDF5 gives each dataset its contiguous place and writes
 * only descriptions and texts. Copied into the file on disk, it leaves holes that anyone may fill with pwrite at the
 * offsets that `dataset` returned. So a full disk is met by a call that says so and never inside HDF5, which does not
 * recover from it. Local, all of it; failures are STM_ERR_IO and name the path of the file it is for. */
#ifndef STM_CHECKPOINT_SKELETON_H
#define STM_CHECKPOINT_SKELETON_H

#include <hdf5.h>

#include "base/base.h"

typedef struct stm_skeleton stm_skeleton;

/* user_block: bytes before the HDF5 part, 0 or a power of two from 512. path: for messages. destroy frees *out. */
stm_status stm_skeleton_create(const char *path, size_t user_block, stm_skeleton **out);
void stm_skeleton_destroy(stm_skeleton *skeleton); /* NULL is fine */

/* Every function makes the groups on the way to `name` ("/groups/0/1/logprobs"). type: H5T_IEEE_F64LE, ..; *offset:
 * from the start of the file, 0 where there are no elements. */
stm_status stm_skeleton_group(stm_skeleton *skeleton, const char *name);
stm_status stm_skeleton_dataset(stm_skeleton *skeleton, const char *name, hid_t type, size_t n_dims,
                                const size_t *shape, uint64_t *offset);
stm_status stm_skeleton_text(stm_skeleton *skeleton, const char *name, const char *text); /* a scalar dataset */

/* [n] of uint8, written with the skeleton; n: at least 1. */
stm_status stm_skeleton_bytes(stm_skeleton *skeleton, const char *name, const void *bytes, size_t n);

/* Attributes of an object that is there. type: the native type of *value. */
stm_status stm_skeleton_attribute(stm_skeleton *skeleton, const char *object, const char *name, hid_t type,
                                  const void *value);
stm_status stm_skeleton_attribute_text(stm_skeleton *skeleton, const char *object, const char *name, const char *text);

/* Ends the layout; *bytes is the size of the whole file. It may be more than a limit on the size of files lets be. */
stm_status stm_skeleton_finish(stm_skeleton *skeleton, uint64_t *bytes);

/* After finish: the anonymous file itself, whose holes read as zeros, and a copy of what it holds into another. */
int stm_skeleton_descriptor(const stm_skeleton *skeleton);
stm_status stm_skeleton_copy(const stm_skeleton *skeleton, int descriptor);

/* Stores "path: what: HDF5's own reason" and returns STM_ERR_IO. */
stm_status stm_hdf5_fail(const char *path, const char *what);

/* HDF5 prints nothing from here on; for whoever calls it directly. */
void stm_hdf5_quiet(void);

#endif
