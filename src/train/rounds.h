/* src/train/rounds.h: dynamic sampling (DAPO, arXiv:2503.14476): groups whose rewards are all equal teach nothing, and
 * give their places to groups of further prompts.
 *
 * A step's first round has rollouts for all of its prompts; a further one for as many further prompts as groups are
 * equal still. Local, all of it: every rank holds the same rounds and decides alike. */
#ifndef STM_TRAIN_ROUNDS_H
#define STM_TRAIN_ROUNDS_H

#include "train/judge.h"

/* Rollouts of some prompts, and what the judge said; every group has as many responses. */
typedef struct {
    size_t n;
    size_t *which; /* [n]: of the training set */
    stm_batch batch;
    stm_batch cuts; /* of thinking, until it is judged (train/budgets.h) */
    stm_verdicts verdicts;
} stm_round;
void stm_round_clear(stm_round *round);

/* Whether a group gives its place up: all of its rewards are there, and equal. A group that could not be judged does
 * not: a reward that fails would fail again. */
bool stm_group_is_idle(const stm_group *group);
size_t stm_round_n_idle(const stm_round *round);

/* Groups of `more` that could be judged and are not equal change places with idle ones of `kept`, both in their order.
 */
void stm_round_replace(stm_round *kept, stm_round *more);

#endif
