/* src/rollout/step.h: a round of decoding on the device: one row each for the rollouts of a batch, through the layers
 * that are here, and a token drawn for each. */
#ifndef STM_ROLLOUT_STEP_H
#define STM_ROLLOUT_STEP_H

#include "rollout/slots.h"

typedef struct stm_step stm_step;

/* Through the model of `pass`, one of the work's; takes all its memory from that pass's arenas: K and V of the slots,
 * and a round's rows. hooks: what a rank does while layers run; NULL: nothing else. Local. Fails: STM_ERR_MEMORY,
 * STM_ERR_DEVICE. */
stm_status stm_step_create(const stm_decode_work *work, const stm_pass *pass, const stm_slots *slots,
                           const stm_layer_hooks *hooks, stm_step **out);

/* Memory of it, but for a few bytes a row. Local. */
size_t stm_step_bytes(const stm_model *model, size_t n_slots, size_t most_rows, size_t max_new_tokens);

/* The rows of a batch through the layers. arrived: hidden rows [n_rows, hidden] from the stage before, host memory, may
 * be written again when this returns; NULL: the rows' last tokens are embedded. Local. Fails: STM_ERR_DEVICE. */
stm_status stm_step_run(stm_step *step, const stm_slot_batch *batch, const void *arrived);

/* Hidden rows after the layers, to host memory. Local. Fails: STM_ERR_DEVICE. */
stm_status stm_step_read(const stm_step *step, void *leaving);

/* The same on the device, until the next run. */
const void *stm_step_rows(const stm_step *step);

#endif
