/* src/rollout/repeat.h: rounds of a batch of slots on a device that records.
 *
 * A round of the rows of the round before does the same work, as long as no row has more keys of its own than a bound
 * says and the same rows must not end yet. So the first of such rounds is queued as it is, the second recorded, and
 * replayed from then on. What changes from one to the next lies where a recording reads it: in the tables of
 * rollout/step.h and the uniform numbers of rollout/draw.h. */
#ifndef STM_ROLLOUT_REPEAT_H
#define STM_ROLLOUT_REPEAT_H

#include "rollout/draw.h"
#include "rollout/step.h"

typedef struct stm_repeat stm_repeat;

/* Whether the backend records, and the sampling wants it (rounds_ahead). Local. */
bool stm_repeat_is_possible(const stm_decode_work *work);

/* Of one batch of up to most_rows slots. number: of the batch, which has its recordings; from STM_RECORDINGS on nothing
 * is recorded. other: of the other of two models, or NULL; draw: NULL where the rows go on to another stage. These must
 * outlive it; its memory is of the passes' arenas. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_repeat_create(const stm_decode_work *work, size_t number, size_t most_rows, stm_step *step,
                             stm_step *other, stm_draw *draw, stm_repeat **out);

/* The rows of the next round: whether they are those of the last. Then list, if they are not; then run. Local. */
bool stm_repeat_meet(stm_repeat *repeat, const stm_slot_batch *batch);

/* Lists what their attention meets. room: host memory of room_bytes, which is read until the device has passed what is
 * queued here. Local. Fails: STM_ERR_DEVICE. */
size_t stm_repeat_room_bytes(const stm_repeat *repeat);
stm_status stm_repeat_list(stm_repeat *repeat, const stm_slot_batch *batch, void *room);

/* Queues the round: advance (NULL: nothing is advanced), the layers, the draw. Local. Fails: STM_ERR_DEVICE. */
stm_status stm_repeat_run(stm_repeat *repeat, const stm_slot_batch *batch, const stm_advance *advance);

/* For what goes beside the lists in the host's room: takes `bytes` from *at, in steps of 64; of a NULL base only the
 * count is meant. */
void *stm_repeat_cut(char *base, size_t *at, size_t bytes);

#endif
