/* src/rollout/awaited.h: rounds of a pipeline's stage on a device that records.
 *
 * Each round's ids go from the last stage's host to the others' (rollout/handover.h), so none is queued ahead of them;
 * but a batch's rounds repeat (rollout/repeat.h), each batch with a recording of its own, since batches take turns:
 *
 *      b0: tables, hidden rows in | layers, or a replay of them | hidden rows out     b1: ..
 *
 * Tables are written, and results read, through memory that the device gets at by itself. To queue rounds ahead, ids
 * would have to go from device to device without their hosts: MPI's messages are begun and ended by these. */
#ifndef STM_ROLLOUT_AWAITED_H
#define STM_ROLLOUT_AWAITED_H

#include "mpi/link.h"
#include "rollout/repeat.h"

typedef struct stm_awaited stm_awaited;

/* Whether the work is done so: rounds can be recorded, and there are other stages. Local. */
bool stm_awaited_is_possible(const stm_decode_work *work);

/* Of all batches of slots. other: of the other of two models, or NULL; draw: NULL but on the last stage. These must
 * outlive it. Its memory is of the passes' arenas and the stream's host_room. progress: called while the device is
 * awaited. Local. Fails: STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_awaited_create(const stm_decode_work *work, const stm_slots *slots, stm_step *step, stm_step *other,
                              stm_draw *draw, stm_progress_hook progress, stm_awaited **out);

/* Queues the next round of a batch whose hidden rows, if any come, have entered the steps. Local. Fails:
 * STM_ERR_DEVICE. */
stm_status stm_awaited_run(stm_awaited *awaited, size_t batch);

/* What it drew, on the last stage: as stm_draw_run. Waits. Local. Fails: STM_ERR_DEVICE. */
stm_status stm_awaited_read(stm_awaited *awaited, size_t batch, const int32_t **ids, size_t *not_finite);

#endif
