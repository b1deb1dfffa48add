/* src/model/head.h: final norm and head over rows with loss: log-prob of each row's target, entropy of its
 * distribution, and their gradient.
 *
 * Logits exist for a block of rows and vocabulary columns at a time: forward runs over the blocks once, backward forms
 * each block again, so [rows, vocab] never exists. */
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

/* Room that forward and backward need besides, whatever n_rows is. */
size_t stm_head_scratch_bytes(const stm_model *model);

/* Writes logp, entropy, lse and inverse_rms. Local. Fails: STM_ERR_DEVICE. */
stm_status stm_head_forward(const stm_model *model, const stm_head_rows *rows, void *scratch);

/* dlogp, dentropy [n_rows]: gradients of the loss (dentropy may be NULL). Writes dx [n_rows, hidden], adds to
 * `gradient` (layout of the parameters). Local. Fails: STM_ERR_DEVICE. */
stm_status stm_head_backward(const stm_model *model, const stm_head_rows *rows, const double *dlogp,
                             const double *dentropy, void *scratch, void *dx, void *gradient);

#endif
