/* src/model/layout.h: the two halves of stm_model_create, for those who look at a model before they pay for its memory.
 */
#ifndef STM_MODEL_LAYOUT_H
#define STM_MODEL_LAYOUT_H

#include "model/model.h"

/* Names, shapes and offsets of all parameters; no backend, weights or tables. The caller destroys *out. Local. Fails:
 * STM_ERR_MEMORY. */
stm_status stm_model_lay_out(const stm_model_config *config, stm_model **out);

/* Allocates the weights, and the RoPE tables with their values, on a backend. Local. Fails: STM_ERR_MEMORY,
 * STM_ERR_DEVICE. */
stm_status stm_model_allocate(stm_model *model, const stm_backend *backend, stm_stream *stream);

/* *out: the same model with weights of its own, held as `model` holds its, and the same numbers in them; all else is
 * model's, which must outlive it. unshare also clears what a failure left. Local. Fails as allocate. */
stm_status stm_model_share(const stm_model *model, stm_model *out);
void stm_model_unshare(stm_model *shared);

/* Allocates and computes cosine and sine, in double, then rounded. Local. Fails as allocate does, which calls it. */
stm_status stm_model_fill_rope(stm_model *model);

/* Angle of pair i at position p is p * frequency[i]; frequencies: [head_dim / 2]. Su et al. 2021, arXiv 2104.09864;
 * linear: Chen et al. 2023, arXiv 2306.15595; llama3: wavelengths longer than original / low_freq_factor are stretched
 * by `factor`, those shorter than original / high_freq_factor are kept, those between blend linearly in original /
 * wavelength (Llama 3.1's reference code). Local. */
void stm_rope_frequencies(const stm_model_config *config, double *frequencies);

#endif
