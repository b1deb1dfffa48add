/* src/rollout/mixture.h: sampling from two models at once: each token is drawn by softmax of
 *
 *      ((1 - share) logits of the one + share logits of the other) / temperature
 *
 * which is their geometric mixture, token by token (Nash-MD: Munos et al. 2023, arXiv:2312.00886). The other model has
 * an engine of its own for the K and V of its prompts, of the same grid and settings, so that both do the same in the
 * same order; its slots lie there, too. */
#ifndef STM_ROLLOUT_MIXTURE_H
#define STM_ROLLOUT_MIXTURE_H

#include "group/engine.h"

typedef struct {
    stm_engine *engine;     /* NULL: none yet; only the memory is reckoned */
    const stm_model *model; /* of the other; laid out and divided as the one */
    double share;           /* of its logits, between 0 and 1 */
} stm_mixture;

#endif
