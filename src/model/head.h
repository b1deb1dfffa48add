/* src/model/head.h: final norm and head over rows with loss: log-prob of each row's target, entropy of its
 * distribution, and their gradient.
 *
 * Logits exist for a block of rows alone. Of a vocabulary up to STM_HEAD_WHOLE_COLUMNS the block has every column and
 * stays until the rows' backward; of a larger one columns, too, are taken in blocks, and backward forms each again. */
#ifndef STM_MODEL_HEAD_H
#define STM_MODEL_HEAD_H

#include "model/model.h"

/* Arrays are device memory. */
typedef struct {
    size_t n_rows;
    const void *x;                     /* [n_rows, hidden]: the last layer's output */
    const int32_t *targets;            /* [n_rows] */
    const double *inverse_temperature; /* [n_rows] */
    void *inverse_rms;                 /* [n_rows]: kept for backward */
    double *logp, *entropy, *lse;      /* [n_rows] */
} stm_head_rows;

enum { STM_HEAD_ROWS = 512, STM_HEAD_WHOLE_COLUMNS = 1 << 16 };

/* Room that forward and backward need besides, whatever n_rows is. */
size_t stm_head_scratch_bytes(const stm_model *model);

/* Writes logp, entropy, lse and inverse_rms. Local. Fails: STM_ERR_DEVICE. */
stm_status stm_head_forward(const stm_model *model, const stm_head_rows *rows, void *scratch);

/* Of at most STM_HEAD_ROWS rows, whose forward was the last to use the scratch. dlogp, dentropy [n_rows]: gradients of
 * the loss (dentropy may be NULL). Writes dx [n_rows, hidden], adds to `gradient` (layout of the parameters). Local.
 * Fails: STM_ERR_DEVICE. */
stm_status stm_head_backward(const stm_model *model, const stm_head_rows *rows, const double *dlogp,
                             const double *dentropy, void *scratch, void *dx, void *gradient);

/* A group's rows, position by position; device memory. See stm_spread of backend.h. */
typedef struct {
    size_t n_rows, n_positions, n_members;
    double inverse_temperature;
    const void *x;             /* [n_rows, hidden]: the last layer's output */
    const double *lse;         /* [n_rows]: as forward left it */
    const int32_t *first_rows; /* [n_positions + 1] */
    double *sums;              /* [n_positions] */
} stm_head_positions;

/* Room that spread needs besides. */
size_t stm_head_spread_bytes(const stm_model *model, size_t n_rows);

/* Writes sums, over the whole vocabulary; logits exist for a block of its columns alone. Local. Fails: STM_ERR_DEVICE.
 */
stm_status stm_head_spread(const stm_model *model, const stm_head_positions *positions, void *scratch);

#endif
