/* src/objective/target.h: the target of fdpg, p(y) = a(y) / Z, and what of it goes on from step to step: a prompt's Z
 * and the baseline (train/targets.h keeps both). Local, all of it. */
#ifndef STM_OBJECTIVE_TARGET_H
#define STM_OBJECTIVE_TARGET_H

#include "config/options.h"
#include "data/groups.h"

/* Whether Z, or the baseline, is one that is kept. */
bool stm_target_keeps_z(const stm_objective_options *options);
bool stm_target_keeps_baseline(const stm_objective_options *options);

/* log a of a response: S^ref + r / target_beta, or S^ref where r is above target_threshold and -infinity elsewhere. */
double stm_target_log_a(const stm_objective_options *options, const stm_response *response);

/* log (a / probability of being sampled): the mean of its exponential over samples of any policies is Z. The response
 * has old and reference log-probs. */
double stm_target_log_weight(const stm_objective_options *options, const stm_response *response);

/* log Z of the group's prompt: as given, of the group's weights alone, or as the group has it. -infinity: nothing meets
 * the constraint. */
double stm_target_log_z(const stm_objective_options *options, const stm_group *group);

/* -f'(e^t), t = log (policy / p); t is held within [-50, 50], infinity left alone. *held (NULL: not asked): it was. */
double stm_target_pseudo_reward(stm_divergence divergence, double t, bool *held);

/* That of a response, by the policy that sampled it. */
double stm_target_sampled_reward(const stm_objective_options *options, const stm_response *response, double log_z);

/* log (e^a + e^b), either -infinity at least. */
double stm_log_add(double a, double b);

#endif
