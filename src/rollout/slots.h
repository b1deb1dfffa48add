/* src/rollout/slots.h: which rollout is decoded in which slot.
 *
 * A rank has a queue of rollouts that have not started, and slots that are cut into batches: a round of decoding
 * computes the rows of one batch, a row for each rollout in it. A rollout that ends leaves its slot to the next of the
 * queue. All of it is a function of the sampled ids, in the order in which batches get theirs: so every stage of a
 * pipeline, told the ids, finds the same rows. Knows no messages. */
#ifndef STM_ROLLOUT_SLOTS_H
#define STM_ROLLOUT_SLOTS_H

#include "rollout/decode.h"
#include "rollout/stop.h"

/* In the place of a sampled id. NO_ID: the log-prob was not a number, or the rollout is left; it ends. NOT_YET: it was
 * not in the round; it stays. */
enum { STM_NO_ID = -1, STM_NOT_YET = -2 };

typedef struct {
    size_t item, slot;
    size_t n_ahead; /* rounds that it is in, whose ids nobody has read yet: rollout/ahead.h; else 0 */
} stm_occupant;

typedef struct {
    size_t n_rows; /* active rollouts, in the order of their start */
    stm_occupant *rows;
    size_t *free_slots, n_free;
} stm_slot_batch;

typedef struct {
    const stm_sampling *sampling;
    stm_rollout_item *items; /* [n_items]: the team's */
    size_t *queue;           /* [n_items]: items [first_queued, first_queued + n_queued) of it have not started */
    size_t first_queued, n_queued;
    size_t n_held;            /* the last of the queue that must not start now: they may go to another rank */
    size_t n_tokens, n_ended; /* so far: sampled, and rollouts that ended */
    size_t n_slots, n_batches, most_rows;
    stm_slot_batch *batches;
    stm_stop_state **stops; /* [n_slots] */
} stm_slots;

/* Slots for the work of decode.h, cut into up to n_batches (at most one a slot), with this rank's share in the queue;
 * tables come from the host arena. The caller destroys *out, also after a failure. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_slots_init(const stm_decode_work *work, size_t n_batches, stm_slots *out);
void stm_slots_clear(stm_slots *slots);

/* Starts rollouts of the queue in the batch's free slots. Local. */
void stm_slots_fill(stm_slots *slots, size_t batch);

/* Tokens of a row's response that it has got, or will have got when all rounds that it is in are read. Local. */
static inline size_t stm_slots_n_given(const stm_rollout_item *items, const stm_occupant *row)
{
    return items[row->item].response->n + row->n_ahead;
}

/* The batch's rows got these tokens [n_rows]; what has ended leaves. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_slots_add(stm_slots *slots, size_t batch, const int32_t *ids);

#endif
