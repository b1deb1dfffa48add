/* src/rollout/turns.h: rollouts of several turns: whenever one has ended by itself, a partner may add text to it and
 * let it go on.
 *
 *      prompt ─ turn 1 ─ [reply 1] ─ turn 2 ─ [reply 2] ─ turn 3          [ ]: mask 0, no loss
 *
 * All conversations of a batch are sampled turn by turn, by the code that samples one turn: what each has so far is its
 * prompt then, so that those of a group share what they have in common, in the same forest of K and V. Between turns
 * rank 0 asks the partner about all that live, and every rank hears the replies. A turn begins by computing the reply,
 * and what the turns before have not left in memory: K and V of a conversation are not kept from turn to turn. */
#ifndef STM_ROLLOUT_TURNS_H
#define STM_ROLLOUT_TURNS_H

#include "data/groups.h"

/* A conversation whose turn has ended. */
typedef struct {
    size_t group, rollout;
    size_t number;                /* of the turn, from 1 */
    size_t first;                 /* the turn is tokens [first, response->n) */
    bool last;                    /* it may not go on, whatever the reply: a limit is reached */
    const stm_response *response; /* all so far */
} stm_turn;

/* ids: tokens to add, freed by whoever asked. ends: the conversation is over. failed: no reply was to be had; it is
 * over, and its group is left out of what is learnt. */
typedef struct {
    size_t n;
    int32_t *ids; /* [n] */
    bool ends, failed, has_reward;
    double reward; /* added to those of earlier turns */
} stm_reply;

typedef struct {
    /* Fills replies [n], which are zero. Only rank 0 is asked. Fails: STM_ERR_MEMORY; what data can cause is `failed`.
     */
    stm_status (*reply)(void *context, size_t n, const stm_turn *turns, stm_reply *replies);
    void *context;
} stm_partner;

#endif
