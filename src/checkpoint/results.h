/* src/checkpoint/results.h: the files that `score` and `grad` leave.
 *
 * A file is written under a temporary name (PATH.part), synced and renamed, so that PATH is whole or not there. One
 * process writes; local. Fails: STM_ERR_IO for a folder that is missing, a full disk and the like, with path and
 * reason.
 */
#ifndef STM_CHECKPOINT_RESULTS_H
#define STM_CHECKPOINT_RESULTS_H

#include "data/groups.h"
#include "model/model.h"

/* /groups/<g>/<i>/logprobs and /entropy, float64 [L_i]. logprobs, entropy: [sum of L_i], the responses one after the
 * other in order of the batch; may be NULL where that sum is 0. */
stm_status stm_results_write_scores(const char *path, const stm_batch *batch, const double *logprobs,
                                    const double *entropy);

/* Reads n reals of the model's backend from element `first` of an array laid out as the parameters into host memory. */
typedef stm_status stm_reals_read(void *context, size_t first, size_t n, void *reals);

/* /loss, a float64, and /grad/<parameter name>, float64 of the parameter's shape. read: gives the gradient, in pieces,
 * in any order. Also fails: as read does. */
stm_status stm_results_write_gradient(const char *path, const stm_model *model, double loss, stm_reals_read *read,
                                      void *context);

#endif
