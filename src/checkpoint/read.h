/* src/checkpoint/read.h: reads what HDF5 files describe; data itself is read with plain reads at the places found here.
 *
 * Local, all of it. Fails: STM_ERR_INPUT, with path and name. */
#ifndef STM_CHECKPOINT_READ_H
#define STM_CHECKPOINT_READ_H

#include <hdf5.h>

#include "checkpoint/checkpoint.h"

/* To be closed with H5Fclose. */
stm_status stm_hdf5_open(const char *path, hid_t *file);

bool stm_hdf5_has(hid_t file, const char *name);

/* value: of the native type `type`. */
stm_status stm_hdf5_attribute(hid_t file, const char *path, const char *object, const char *name, hid_t type,
                              void *value);
/* Texts are allocated; the caller frees. */
stm_status stm_hdf5_attribute_text(hid_t file, const char *path, const char *object, const char *name, char **text);
stm_status stm_hdf5_text(hid_t file, const char *path, const char *name, char **text);

/* The bytes of a dataset of one dimension; the caller frees. Fails also: STM_ERR_MEMORY. */
stm_status stm_hdf5_bytes(hid_t file, const char *path, const char *name, stm_kept *out);

/* "/kept/rewards", ..: where the bytes lie in a file. */
extern const char *const stm_checkpoint_kept_names[STM_CHECKPOINT_N_KEPT];

/* Where the tensors of a model lie in a checkpoint; kinds from PARAMETERS on. Those of a copy that is not there are 0.
 */
typedef struct {
    size_t real_bytes;                         /* of the file's numbers */
    uint64_t *offsets[STM_CHECKPOINT_N_KINDS]; /* [n_tensors] each, one allocation at `all` */
    uint64_t *all;                             /* [N_KINDS * n_tensors]; the caller frees */
} stm_places;
stm_status stm_places_create(size_t n_tensors, stm_places *places);

/* Fills places created for this model; refuses by name what is missing, misshaped or surplus. */
stm_status stm_places_read(hid_t file, const char *path, const stm_model *model, stm_places *places);

/* "/parameters/<name>" and so on, in the caller's text. */
enum { STM_TENSOR_PATH = 160 };
const char *stm_tensor_path(stm_checkpoint_kind kind, const char *name, char text[STM_TENSOR_PATH]);

/* n numbers from `offset` of the file, converted to reals. raw: [n * places->real_bytes]. */
stm_status stm_read_reals(int descriptor, const char *path, uint64_t offset, size_t file_real_bytes, size_t n,
                          void *raw, size_t real_bytes, void *reals);

#endif
