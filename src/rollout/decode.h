/* src/rollout/decode.h: a rank's rollouts, decoded in slots below prompts whose K and V are there. */
#ifndef STM_ROLLOUT_DECODE_H
#define STM_ROLLOUT_DECODE_H

#include "rollout/rollout.h"

/* A rollout of this rank: where its prompt ends in the forest, and what it has become. */
typedef struct {
    size_t sequence; /* of the pass's forest */
    size_t group, rollout;
    stm_response *response; /* ids, old_logprobs, kept_mass have room for max_new_tokens */
} stm_rollout_item;

/* Memory of the K and V of so many slots. */
size_t stm_decode_slot_bytes(const stm_model *model, size_t n_slots, size_t max_new_tokens);

/* Decodes items [n], sorted by sequence, n_slots at a time; *rounds counts. `batch` has the prompts. Uses pass->device
 * and
 * ->host, and leaves them as they were. Local. Fails: STM_ERR_NUMERIC, STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_decode(const stm_pass *pass, const stm_batch *batch, const stm_sampling *sampling,
                      stm_rollout_item *items, size_t n, size_t n_slots, double *rounds);

#endif
