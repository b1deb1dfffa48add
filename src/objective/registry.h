/* src/objective/registry.h: the rows of the registry, and what objectives share; for src/objective alone. An objective
 * is one file and one row here. */
#ifndef STM_OBJECTIVE_REGISTRY_H
#define STM_OBJECTIVE_REGISTRY_H

#include "objective/objective.h"

extern const stm_objective stm_objective_grpo, stm_objective_sft, stm_objective_disco, stm_objective_copg,
    stm_objective_mdpo_regression, stm_objective_direct_advantage, stm_objective_dpo, stm_objective_orpo,
    stm_objective_kto, stm_objective_self_play, stm_objective_p3o, stm_objective_fdpg;

enum { STM_MOST_OBJECTIVES = 32 };

/* Options that several objectives read, for stm_objective.reads. */
#define STM_READS_WEIGHTS "aggregate", "max_tokens", "control_tokens", "control_coef"
#define STM_READS_KL "kl_coef", "kl_coef_start", "kl_coef_steps"
#define STM_READS_ORACLE "oracle", "label_scale"
#define STM_READS_PAIRS                                                                                                \
    STM_READS_ORACLE, "score", "pairing", "pair_margin", "pair_filter", "max_pairs", "label", "pair_aggregate"
#define STM_KEYS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* exp(x), continued as a straight line beyond 20 (a ratio of 5e8), so that a wild log-ratio gives a large finite loss
 * and the gradient of that loss. *slope: the derivative. */
double stm_bounded_exp(double x, double *slope);

/* An estimate of KL(now || ref) from one token, q = ref - logp, and its derivative by logp: exp(q) - q - 1 | -q |
 * q^2/2. */
double stm_kl_estimate(stm_kl_estimator estimator, double q, double *slope);

/* logp - old of token k, 0 where nothing was recorded; a NaN stays one. */
static inline double stm_log_ratio(const stm_tokens *t, size_t k)
{
    return t->logp[k] - (t->old ? t->old[k] : t->logp[k]);
}

static inline double stm_weight_at(const stm_tokens *t, const stm_objective_options *options, size_t k)
{
    return (double)(t->first + k) < (double)options->control_tokens ? t->control_weight : t->weight;
}

static inline double stm_advantage_at(const stm_tokens *t, size_t k)
{
    return t->advantages[k * t->advantage_stride];
}

/* Adds token k, which has loss, to the statistics: everything but loss and clipping. */
void stm_objective_observe(const stm_tokens *t, size_t k, stm_objective_sums *sums);

/* A response's reward, or its win rate: the parts with the weights of the options where both are there, else the
 * recorded one; less the divergence of its tokens from the reference with kl_in=reward. */
double stm_reward_of(const stm_objective_options *options, const stm_group *group, const stm_response *response);

/* advantage [n] from values x [n] of one group: less the baseline, by the scale of the group (scales of the batch are
 * left to the caller). Values that are all equal give exactly 0, which rounding of the mean would not. */
void stm_center_and_scale(const stm_objective_options *options, size_t n, const double *x, double *advantage);

/* Advantages and totals of the policy gradients, stm_objective.prepare: rewards, baselines, scales, and what
 * SEED-GRPO, BRPO and KL in the reward make of them. */
void stm_prepare_advantages(stm_objective_batch *batch);
size_t stm_advantages_n_work(const stm_group *group);
bool stm_advantages_by_token(const stm_objective_options *options);
unsigned stm_advantages_needs(const stm_objective_options *options);

/* Fails: STM_ERR_INPUT for objective.min_advantage where it has no meaning. */
stm_status stm_objective_check_drop(const stm_objective_options *options);

/* Fails: STM_ERR_INPUT for options that are set and that the objective does not read; STM_ERR_MEMORY. */
stm_status stm_objective_check_unread(const stm_options *options);

/* Sum over budgets and members (brpo.c). work: stm_brpo_n_work numbers. */
void stm_brpo_advantages(const stm_objective_options *options, const stm_group *group, double *work,
                         double *advantages);
size_t stm_brpo_n_work(const stm_group *group);

/* Entropy of the clusters of a group's answers over its largest possible value, log n (seed.c); 0 for a group of one.
 * work: [2 n_responses]. */
double stm_semantic_entropy(const stm_group *group, double *work);

#endif
