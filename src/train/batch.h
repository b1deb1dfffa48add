/* src/train/batch.h: the batch of a step, made of prompts. Local, all of it: every rank makes the same. */
#ifndef STM_TRAIN_BATCH_H
#define STM_TRAIN_BATCH_H

#include "data/groups.h"
#include "data/prompts.h"

/* A group for each of prompts->items[which[0..n)], without responses. The caller clears *batch, also after a failure.
 * Fails: STM_ERR_MEMORY. */
stm_status stm_batch_of_prompts(const stm_prompts *prompts, const size_t *which, size_t n, stm_batch *batch);

/* Which demonstrations come without their thought. */
typedef struct {
    double probability;
    uint64_t seed, position; /* position in the run of the first prompt */
} stm_thought_dropout;

/* The same with the lines' own responses, groups of one at temperature 1. *n_dropped: how many without their thought.
 */
stm_status stm_batch_of_demonstrations(const stm_prompts *prompts, const size_t *which, size_t n,
                                       const stm_thought_dropout *dropout, stm_batch *batch, size_t *n_dropped);

/* Copies of groups which[0..n) of another batch, with their responses. The caller clears *batch, also after a failure.
 */
stm_status stm_batch_of_groups(const stm_batch *all, const size_t *which, size_t n, stm_batch *batch);

/* Groups [first, first + n) of the batch, not to be cleared. */
stm_batch stm_batch_slice(const stm_batch *batch, size_t first, size_t n);

#endif
