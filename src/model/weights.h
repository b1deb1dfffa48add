/* src/model/weights.h: the safetensors files of a model folder, seen as one set of tensors.
 *
 * As transformers does: model.safetensors if it is there, else the shards that model.safetensors.index.json lists, else
 * every *.safetensors. Local, all of it. */
#ifndef STM_MODEL_WEIGHTS_H
#define STM_MODEL_WEIGHTS_H

#include "model/model.h"
#include "model/safetensors.h"

typedef struct {
    char *folder;
    size_t n_files;
    stm_safetensors **files; /* [n_files]; none: the folder holds no weights */
} stm_weights;

/* The caller closes *out. Fails: STM_ERR_INPUT for a damaged file, an index that names what is not there, one tensor in
 * two files. */
stm_status stm_weights_open(const char *folder, stm_weights **out);
void stm_weights_close(stm_weights *weights); /* NULL is fine */

/* The tensor and the file that holds it; false: in none. */
bool stm_weights_find(const stm_weights *weights, const char *name, const stm_safetensors **file,
                      const stm_tensor **tensor);

/* Refuses by name: a tensor of the model that is missing or of another shape, one that the model does not have (but for
 * rotary_emb buffers and the copy of a tied head). Fails: STM_ERR_INPUT. */
stm_status stm_weights_check(const stm_weights *weights, const stm_model *model);

#endif
