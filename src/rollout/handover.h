/* src/rollout/handover.h: what the stages of a column say to each other while they decode: hidden rows of a batch to
 * the next stage, and sampled ids from the last stage to every other.
 *
 * All stages run batches in one order, and each has its ids in the same order: so no message says which batch it is of.
 * Messages are announced by whoever will receive them, as soon as he knows how many rows they have. */
#ifndef STM_ROLLOUT_HANDOVER_H
#define STM_ROLLOUT_HANDOVER_H

#include "mpi/link.h"
#include "rollout/slots.h"

typedef struct stm_handover stm_handover;

/* Buffers lie in the pass's arenas: those of rows on the device, in reals (group/neighbours.h), those of ids not.
 * progress: called while something is awaited; it drives the handover, too. The
 * caller destroys *out. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_handover_create(const stm_decode_work *work, const stm_slots *slots, stm_progress_hook progress,
                               stm_handover **out);
void stm_handover_destroy(stm_handover *handover); /* all has been received that was announced; NULL is fine */
void stm_handover_drive(stm_handover *handover);   /* NULL is fine */

/* Hidden rows, device memory; of two models, all rows of the one, then all of the other. expect: one more batch will
 * run, of n_rows rows. receive: the next batch's from the stage before, until release; waits. On the first stage none
 * come, and *rows is NULL. */
void stm_handover_expect(stm_handover *handover, size_t n_rows);
const void *stm_handover_receive(stm_handover *handover);
void stm_handover_release(stm_handover *handover);

/* take: memory for a batch's rows, send: n_rows of them leave for the next stage; not on the last. */
void *stm_handover_take(stm_handover *handover);
void stm_handover_send(stm_handover *handover, size_t n_rows);

/* Ids. tell: the last stage to all others; expect, has, hear: the others; hear waits. */
void stm_handover_tell(stm_handover *handover, const int32_t *ids, size_t n);
void stm_handover_expect_ids(stm_handover *handover, size_t n);
bool stm_handover_has_ids(stm_handover *handover);
void stm_handover_hear(stm_handover *handover, int32_t *ids, size_t n);

#endif
