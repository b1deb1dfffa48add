/* src/rollout/ahead.h: rounds of decoding on a device that works by itself, while the host reads what it drew before.
 *
 * The device hands its ids from round to round (stm_advance of backend.h); the host queues some rounds, and reads the
 * ids of the first of them:
 *
 *      host       queue 1, 2 | read 1, stops, refills | queue 3 | read 2 ..
 *      device        round 1 | round 2                  round 3 | ..
 *
 * So a rollout that ended in round 1 is in round 2 for nothing, and what takes its slot begins in round 3; its tokens
 * are the same whenever that is. How many rounds lie between is fixed, so equal runs give equal bits. Of two models
 * (rollout/mixture.h) a round is both, and the draw from what they say together. */
#ifndef STM_ROLLOUT_AHEAD_H
#define STM_ROLLOUT_AHEAD_H

#include "rollout/repeat.h"

typedef struct stm_ahead stm_ahead;

/* Whether the work may be done so: rounds can be recorded, and there are no other stages to hand rows to (which would
 * have to send the ids back from device to device by themselves: rollout/awaited.h). Local. */
bool stm_ahead_is_possible(const stm_decode_work *work);

/* Of one batch of slots; other: of the other of two models, or NULL. The steps and draw must outlive it. Its memory is
 * of the passes' arenas and the stream's host_room. Local. Fails: STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_ahead_create(const stm_decode_work *work, size_t most_rows, stm_step *step, stm_step *other,
                            stm_draw *draw, stm_ahead **out);

/* As stm_draw_run, of the first round that was not read yet: *ids are STM_NOT_YET for rows of the batch that were not
 * in it. The batch must have rows; all that it gets and loses in between must come from stm_slots_add and _fill. Local.
 * Fails: STM_ERR_DEVICE. */
stm_status stm_ahead_run(stm_ahead *ahead, stm_slot_batch *batch, const int32_t **ids, size_t *not_finite);

/* Waits for rounds that are under way for nothing. NULL is fine. Local. Fails: STM_ERR_DEVICE. */
stm_status stm_ahead_finish(const stm_ahead *ahead);

#endif
