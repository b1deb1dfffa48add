/* src/train/clusters.h: which rollouts of a group end in the same answer, for objectives that ask for it (SEED-GRPO).
 */
#ifndef STM_TRAIN_CLUSTERS_H
#define STM_TRAIN_CLUSTERS_H

#include "reward/answers.h"
#include "train/judge.h"

/* *out is NULL where the objective reads no clusters; the caller destroys it. Local. Fails: STM_ERR_INPUT where
 * responses have no text, and what stm_answers_create says. */
stm_status stm_clusters_create(const stm_policy *policy, stm_answers **out);

/* Compares on rank 0, by the texts that were judged, and sends the numbers to all: the responses have their clusters
 * afterwards. Nothing is done where `answers` is NULL. Collective over the grid's world; same status everywhere. */
stm_status stm_cluster_answers(const stm_policy *policy, const stm_answers *answers, const stm_verdicts *verdicts,
                               stm_batch *batch);

#endif
