/* src/rollout/draw.h: from the last layer's rows of a batch to a token for each: final norm, head, sampling. */
#ifndef STM_ROLLOUT_DRAW_H
#define STM_ROLLOUT_DRAW_H

#include "rollout/slots.h"

typedef struct stm_draw stm_draw;

/* Takes all its memory from the pass's arenas. Local. Fails: STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_draw_create(const stm_decode_work *work, size_t most_rows, stm_draw **out);

/* Memory of it, but for a few bytes a row: rows of logits are as many as the backend takes at once, not all. Local. */
size_t stm_draw_bytes(const stm_model *model, size_t most_rows);
size_t stm_draw_other_bytes(const stm_model *model, size_t most_rows); /* more for the other of two models */

/* Draws a token for each row of the batch, and writes log-probs and kept mass of its response. x: [n_rows, hidden],
 * device; other: the same of the other of two models, or NULL. *ids: [n_rows], valid until the next run; STM_NO_ID
 * where the log-prob is not a finite number: *not_finite is then such a row's item, else STM_NONE. Local. Fails:
 * STM_ERR_DEVICE. */
stm_status stm_draw_run(stm_draw *draw, const stm_slot_batch *batch, const void *x, const void *other,
                        const int32_t **ids, size_t *not_finite);

/* Where the host runs ahead (rollout/ahead.h): drawing in halves. The uniform number for the token after n of a row's
 * response; whether a row that goes on from where it is may not end yet; what draws on the device from its uniform
 * numbers [n_rows], leaving the ids in sampled and all results in [bytes], until the next time; and, of a copy of these
 * in the host's memory, what row `place` got: its numbers go to the item's response, its id is returned, as run does.
 * Local. Fails: STM_ERR_DEVICE. */
typedef struct {
    double *uniform;
    const int32_t *sampled;
    const void *results;
    size_t bytes;
} stm_draw_arrays;

stm_draw_arrays stm_draw_device_arrays(const stm_draw *draw);
double stm_draw_number(const stm_draw *draw, const stm_occupant *row, size_t n);
bool stm_draw_is_early(const stm_draw *draw, const stm_occupant *row);
stm_status stm_draw_on_device(stm_draw *draw, const stm_slot_batch *batch, const void *x, const void *other);
int32_t stm_draw_take(const stm_draw *draw, void *copy, size_t place, size_t item, size_t *not_finite);

#endif
