/* src/checkpoint/contents.h: what an HDF5 file holds, for people who look into one. Local, all of it. */
#ifndef STM_CHECKPOINT_CONTENTS_H
#define STM_CHECKPOINT_CONTENTS_H

#include "base/base.h"

enum { STM_CONTENT_DIMS = 8 };

/* One dataset. */
typedef struct {
    char *name;                             /* "parameters/model.norm.weight" */
    char type[16];                          /* float32, uint64, text, .. */
    size_t n_dims, shape[STM_CONTENT_DIMS]; /* of an array of more dimensions the first ones */
    uint64_t n;                             /* elements; 0: no statistics */
    bool has_statistics;                    /* for float32 and float64 in one block */
    double norm, min, max;                  /* of the finite ones */
    uint64_t n_not_finite;
} stm_content;

/* Every dataset of the file, in order of name, numbers inside names counting as such. The caller calls free_ with both.
 * Fails: STM_ERR_INPUT for what HDF5 cannot read, STM_ERR_IO, STM_ERR_MEMORY. */
stm_status stm_contents_read(const char *path, stm_content **contents, size_t *n);
void stm_contents_free(stm_content *contents, size_t n); /* NULL is fine */

#endif
