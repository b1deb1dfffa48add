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

/* Makes the model, laid out and not yet allocated, that of one stage. Local. */
void stm_model_hold_stage(stm_model *model, size_t n_stages, size_t stage);

static inline bool stm_model_is_first(const stm_model *model)
{
    return model->first_layer == 0;
}

static inline bool stm_model_is_last(const stm_model *model)
{
    return model->end_layer == model->config.n_layers;
}

#endif
