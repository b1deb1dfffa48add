/* src/group/flops.h: the useful work of a pass, in FLOPs (a multiplication and an addition are 2).
 *
 * Counted is what must be computed: GEMMs by row, attention by pairs of a row and a key that it sees, the head for rows
 * with loss. What is skipped (the last layer of rows without loss, but for K and V) is not, nor what is done twice
 * (recomputed activations, scores in the backward of attention, logits in that of the head). Local. */
#ifndef STM_GROUP_FLOPS_H
#define STM_GROUP_FLOPS_H

#include "group/forest.h"
#include "model/model.h"

/* Of a forward; a backward is twice as much. */
typedef struct {
    double dense, attention, head;
} stm_flops;

/* Rows at positions first .. first + n - 1 of one sequence, in all layers but the last. */
void stm_flops_add_rows(const stm_model_config *config, size_t first, size_t n, stm_flops *flops);

/* The same in the last layer, and through the head: whole where they are active, else K and V alone. */
void stm_flops_add_last_layer(const stm_model_config *config, size_t first, size_t n, bool active, stm_flops *flops);

/* A forest's forward; active are the rows that predict a token with loss. */
void stm_flops_of_forest(const stm_model_config *config, const stm_forest *forest, stm_flops *flops);

/* Sampling n_new tokens after a prompt whose K and V are there: the prompt's last token is the first row. */
void stm_flops_add_sampling(const stm_model_config *config, size_t n_prompt, size_t n_new, stm_flops *flops);

double stm_flops_forward(const stm_flops *flops);
double stm_flops_update(const stm_flops *flops); /* forward and backward */

#endif
