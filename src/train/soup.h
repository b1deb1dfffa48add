/* src/train/soup.h: the reference as the weighted average of several models (SALSA, arXiv:2411.01798).
 *
 * The models of reference.paths are read one after the other into the place of the policy's weights, which a set keeps
 * meanwhile; so forming the average takes one more shard than the average itself, and nothing afterwards. */
#ifndef STM_TRAIN_SOUP_H
#define STM_TRAIN_SOUP_H

#include "train/parameter_set.h"
#include "train/policy.h"

/* Fails: STM_ERR_INPUT for a configuration that computes otherwise than the model's, naming what differs. Local. */
stm_status stm_soup_check_config(const char *path, const stm_model_config *found, const stm_model_config *expected);

/* `set`, a set of the policy's parameters, becomes the average; the policy's weights are as before, bit for bit. *hash:
 * of what was read, with its weights. Collective over the grid's world; same status everywhere. Fails: STM_ERR_INPUT
 * (no model of the policy's configuration), STM_ERR_IO, STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_soup_form(const stm_policy *policy, size_t bucket_n, stm_parameter_set *set, uint64_t *hash);

#endif
