/* src/rollout/decode.h: rollouts of a team, decoded in slots below prompts whose K and V are there.
 *
 * In a pipeline the slots are cut into as many batches as there are stages, which are in flight at once:
 *
 *      stage 0   b0 b1 b2 | b0 b1 b2 |        hidden rows go to the next stage; the last samples, and tells all others
 *      stage 1      b0 b1   b2 b0 b1 ..       the ids, from which each knows the rows of the batch's next round (stops,
 *      stage 2         b0   b1 b2 b0 ..       and rollouts that start in their place: rollout/slots.h)
 */
#ifndef STM_ROLLOUT_DECODE_H
#define STM_ROLLOUT_DECODE_H

#include "rollout/rollout.h"

/* A rollout: where its prompt ends in the forest, and what it has become. */
typedef struct {
    size_t sequence; /* of the pass's forest */
    size_t group, rollout;
    stm_origin origin;      /* begins: the same group and rollout, and no tokens */
    bool is_here;           /* this rank (its column, in a pipeline) decodes it */
    stm_response *response; /* ids, old_logprobs, kept_mass have room for max_new_tokens; the latter two are written on
                               the last stage alone */
} stm_rollout_item;

typedef struct {
    const stm_pass *pass;  /* has the prompts; its device and host arenas are used, and left as they were */
    const stm_pass *other; /* the same of the other of two models (rollout/mixture.h); NULL: there is one */
    const stm_batch *batch;
    const stm_sampling *sampling;
    const stm_grid *grid;
    stm_timers *timers;
    stm_rollout_item *items; /* [n_items], sorted by sequence: the same on every rank of the team, and of its column */
    size_t n_items;
    size_t n_slots; /* decoded at once on this rank; the same on every rank of the team and of its column */
    double *rounds; /* counts them */
} stm_decode_work;

/* Models that a row passes through. Local. */
static inline size_t stm_decode_n_models(const stm_decode_work *work)
{
    return work->other ? 2 : 1;
}

/* The rank's first share are the items from here up to where the next rank's begin. Local. */
static inline size_t stm_decode_share(const stm_decode_work *work, int team_rank)
{
    return work->n_items * (size_t)team_rank / (size_t)work->grid->team_size;
}

/* Memory of the K and V of so many slots in the layers that the model has here. */
size_t stm_decode_slot_bytes(const stm_model *model, size_t n_slots, size_t max_new_tokens);

/* All memory of decoding so many slots, in a pipeline of n_stages, but for a few bytes a slot. other: what the other of
 * two models adds to that. */
stm_slots_bytes stm_decode_bytes(const stm_model *model, const stm_sampling *sampling, size_t n_slots, size_t n_stages,
                                 bool other);

/* Decodes the team's items. Collective over the team, and all stages of it. Fails: STM_ERR_NUMERIC (on the last stage;
 * the rollout ends there, the others go on), STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_decode(const stm_decode_work *work);

#endif
