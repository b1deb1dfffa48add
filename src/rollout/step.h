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
 * and a round's rows. hooks: what a rank does while layers run; NULL: nothing else. beside: of the other of two models,
 * which has the same rows: they read the same tables on the device; or NULL. Local. Fails: STM_ERR_MEMORY,
 * STM_ERR_DEVICE. */
stm_status stm_step_create(const stm_decode_work *work, const stm_pass *pass, const stm_slots *slots,
                           const stm_layer_hooks *hooks, const stm_step *beside, stm_step **out);

/* Memory of it, but for a few bytes a row. Local. */
size_t stm_step_bytes(const stm_model *model, size_t n_slots, size_t most_rows, size_t max_new_tokens);

/* The rows of a batch through the layers, from their last tokens; where there is a stage before this one, from its
 * hidden rows [n_rows, hidden], which enter beforehand: arrived, device memory. Local. Fails: STM_ERR_DEVICE. */
stm_status stm_step_enter(stm_step *step, size_t n_rows, const void *arrived);
stm_status stm_step_run(stm_step *step, const stm_slot_batch *batch);

/* Where a round may be a recording (rollout/repeat.h). describe: tables of the rows for their next round, in host
 * memory; the token of a row whose last id has not been read is STM_NOT_YET. list: attention parts in every layer,
 * which hold as long as the rows stay the same: keys of a row's own are counted by the lengths on the device; room:
 * [stm_step_most_parts], host memory that is read until the device has passed this. run_listed: the layers over n_rows
 * rows, by the tables on the device and a list; no row has more than most_own_keys of its own. No hooks are called.
 * Local. Fails: STM_ERR_DEVICE; take_listing, of the pass's arenas: STM_ERR_MEMORY. */
typedef struct {
    size_t n_parts;          /* of a layer */
    stm_attend_part *shapes; /* [n_parts], host */
    stm_attend_part *device; /* [layers here, n_parts] */
} stm_step_listing;

stm_step_tables stm_step_tables_in(size_t most_rows, int32_t *memory); /* [4 * most_rows] */
void stm_step_describe(const stm_step *step, const stm_slot_batch *batch, const stm_step_tables *to);
const stm_step_tables *stm_step_device_tables(const stm_step *step);
size_t stm_step_most_parts(const stm_step *step); /* of all layers here */
stm_status stm_step_take_listing(const stm_step *step, stm_step_listing *out);
stm_status stm_step_list(stm_step *step, const stm_slot_batch *batch, stm_attend_part *room, stm_step_listing *listing);
stm_status stm_step_run_listed(stm_step *step, size_t n_rows, size_t most_own_keys, const stm_step_listing *listing);

/* Hidden rows [n_rows, hidden] after the layers, to other memory of the device. Local. Fails: STM_ERR_DEVICE. */
stm_status stm_step_copy(const stm_step *step, size_t n_rows, void *leaving);

/* The same on the device, until the next run. */
const void *stm_step_rows(const stm_step *step);

#endif
