/* src/group/token_weights.h: weights of tokens by how far the members of their group are from each other where they
 * stand: TW-GRPO, arXiv:2505.24718. At position t of the responses, i a member and v a token of the vocabulary,
 *
 *   mbar_t(v) = mean_i log p_it(v),   D_t = mean_i sum_v (e^x - x - 1), x = mbar_t(v) - log p_it(v), held to +-11,
 *   w_t = 1 + (alpha - 1) (D_t - min D) / (max D - min D + 1e-8)
 *
 * minimum and maximum over the positions of the longest member; a member that has ended is uniform. A forward of the
 * batch without gradient leaves the last hidden states of a few groups at a time; the ranks of a team share out the
 * positions, and form logits again for blocks of positions and of the vocabulary. */
#ifndef STM_GROUP_TOKEN_WEIGHTS_H
#define STM_GROUP_TOKEN_WEIGHTS_H

#include "group/engine.h"

/* weights: of every token of every response, one after another; 1 in groups with skip [n_groups] (NULL: none). The same
 * on every rank, to the bit. Collective over the grid's world; same status everywhere. Fails: STM_ERR_NUMERIC and what
 * the engine says. */
stm_status stm_token_weights(stm_engine *engine, const stm_grid *grid, const stm_batch *batch, const uint8_t *skip,
                             double alpha, double *weights);

/* Tells the engine of that pass and of the hidden states that a rank keeps. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_token_weights_expect(stm_engine *engine, const stm_grid *grid, const stm_batch *batch);

/* w [n] from D [n], which may be the same array. Local. */
void stm_weigh_positions(double alpha, size_t n, const double *divergence, double *weights);

#endif
