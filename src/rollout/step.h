/* src/rollout/step.h: a round of decoding on the device: one row each for the rollouts of a batch, through the layers
 * that are here, and a token drawn for each. */
#ifndef STM_ROLLOUT_STEP_H
#define STM_ROLLOUT_STEP_H

#include "rollout/slots.h"

typedef struct stm_step stm_step;

/* What a round reads of its rows: their last tokens, their positions, and their places in the cache: slot, and row of
 * it. [most_rows] each, one array behind the other. */
typedef struct {
    int32_t *ids, *positions, *slots, *lengths;
} stm_step_tables;

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

/* Where the host runs ahead (rollout/ahead.h). describe: tables of the rows for their next round, in host memory; the
 * token of a row whose last id has not been read is STM_NOT_YET. list: attention parts in every layer, in host memory
 * [stm_step_most_parts]; returns how many. They hold as long as the rows stay the same: keys of a row's own are counted
 * by the lengths on the device. run_listed: the layers over n_rows rows, by what is on the device: the tables, and the
 * last list; no row has more than most_own_keys of its own. No hooks are called. Local. Fails: STM_ERR_DEVICE. */
stm_step_tables stm_step_tables_in(size_t most_rows, int32_t *memory); /* [4 * most_rows] */
void stm_step_describe(const stm_step *step, const stm_slot_batch *batch, const stm_step_tables *to);
size_t stm_step_most_parts(const stm_step *step);
size_t stm_step_list(stm_step *step, const stm_slot_batch *batch, stm_attend_part *parts);
const stm_step_tables *stm_step_device_tables(const stm_step *step);
stm_status stm_step_run_listed(stm_step *step, size_t n_rows, size_t most_own_keys,
                               const stm_attend_part *device_parts);

/* Hidden rows after the layers, to host memory. Local. Fails: STM_ERR_DEVICE. */
stm_status stm_step_read(const stm_step *step, void *leaving);

/* The same on the device, until the next run. */
const void *stm_step_rows(const stm_step *step);

#endif
