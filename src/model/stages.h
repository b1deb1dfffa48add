/* src/model/stages.h: which stage of a pipeline has which layers, and so which parameters.
 *
 * Stages have consecutive layers. The first has the embedding, too, the last the final norm and the head: as parameters
 * lie in this order, a stage's own are one range of the buffer. Where head and embedding are tied, the first stage owns
 * them, and the last has a copy. */
#ifndef STM_MODEL_STAGES_H
#define STM_MODEL_STAGES_H

#include "model/model.h"

/* Layers [*first, *end) of a stage, at least one: the slowest stage has as little as possible to do, by the FLOPs of a
 * row (the head counts for the last), and the others of what is left nearly the same. n_stages: 1 .. n_layers. Local.
 */
void stm_stage_layers(const stm_model_config *config, size_t n_stages, size_t stage, size_t *first, size_t *end);

/* "stage s: layers a-b", a line each, with the embedding and the head; "" for one stage. The caller frees *text. Local.
 * Fails: STM_ERR_MEMORY. */
stm_status stm_stages_text(const stm_model_config *config, size_t n_stages, char **text);

/* Makes the model, laid out and not yet allocated, that of one stage. Local. */
void stm_model_hold_stage(stm_model *model, size_t n_stages, size_t stage);

/* An array of reals laid out as the parameters (weights, a gradient), with memory for what the model holds of them
 * alone: own and tied_copy. Nothing else of it may be touched. Contents undefined. The caller destroys *out (NULL is
 * fine), with the same model. Local. Fails: STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_model_array_create(const stm_model *model, void *out); /* out: address of a pointer */
void stm_model_array_destroy(const stm_model *model, void *array);

/* Of the elements that are held: zero, and a copy. Local. Fails: STM_ERR_DEVICE. */
stm_status stm_model_array_zero(const stm_model *model, void *array);
stm_status stm_model_array_copy(const stm_model *model, void *to, const void *from);

/* round_weights (backend.h) for an array of weights; begin: it has been written; end: it is weights no longer. Local.
 * Fails: STM_ERR_DEVICE, STM_ERR_MEMORY. */
stm_status stm_model_round(const stm_model *model, const void *weights);
void stm_model_round_end(const stm_model *model, const void *weights);

/* Elements that a rank of this stage holds, and the bytes of an array of them; of weights, with their rounded copy. */
size_t stm_model_n_held(const stm_model *model);
size_t stm_model_own_bytes(const stm_model *model);
size_t stm_model_weights_bytes(const stm_model *model);

/* The i-th range of elements that are held, of 2; n may be 0. */
static inline stm_range stm_model_held(const stm_model *model, size_t i)
{
    return i == 0 ? model->own : model->tied_copy;
}

/* The part of [first, first + n) that lies in the i-th of them. */
static inline stm_range stm_model_held_of(const stm_model *model, size_t i, size_t first, size_t n)
{
    const stm_range held = stm_model_held(model, i);
    const size_t begin = STM_MAX(first, held.first), end = STM_MIN(first + n, held.first + held.n);
    return begin < end ? (stm_range){begin, end - begin} : (stm_range){first, 0};
}

static inline bool stm_model_is_whole(const stm_model *model)
{
    return model->own.n == model->n_parameters;
}

static inline bool stm_model_is_first(const stm_model *model)
{
    return model->first_layer == 0;
}

static inline bool stm_model_is_last(const stm_model *model)
{
    return model->end_layer == model->config.n_layers;
}

#endif
