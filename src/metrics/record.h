/* src/metrics/record.h: the numbers of one training step, and the one table of them that feeds the step line,
 * metrics.jsonl and the plots.
 *
 * Adding a number: a row in STM_RECORD_FIELDS (it is then in the struct and in metrics.jsonl) and, if it shall be seen
 * in the step line, a row in step_line.c. A field that was not set is NaN: null in metrics.jsonl, "-" in the step
 * line. All values are of the whole step, already reduced over ranks. Local, all of it; rank 0 calls. */
#ifndef STM_METRICS_RECORD_H
#define STM_METRICS_RECORD_H

#include "base/timers.h"

typedef enum { STM_FIELD_COUNT, STM_FIELD_REAL } stm_field_kind; /* how it is written: 12, 0.41000000000000003 */

/* X(name, kind, "unit", "meaning") */
#define STM_RECORD_FIELDS(X)                                                                                           \
    X(step, COUNT, "", "the step, from 1; 0: before the first")                                                        \
    X(reward_mean, REAL, "", "mean reward of the step's rollouts")                                                     \
    X(reward_std, REAL, "", "standard deviation of the rewards over all rollouts of the step")                         \
    X(reward_min, REAL, "", "least reward")                                                                            \
    X(reward_max, REAL, "", "greatest reward")                                                                         \
    X(groups, COUNT, "", "groups of the step")                                                                         \
    X(groups_equal, COUNT, "", "groups whose rewards are all equal")                                                   \
    X(groups_failed, COUNT, "", "groups left out because a reward of theirs failed")                                   \
    X(rollouts_extra, COUNT, "", "rollouts of further prompts, with rollout.dynamic")                                  \
    X(groups_replayed, COUNT, "", "groups that a success of an earlier step was put into")                             \
    X(replay_stored, COUNT, "", "successes that are kept, after the step")                                             \
    X(thoughts_dropped, COUNT, "", "demonstrations without their thought, by data.thought_dropout")                    \
    X(decisions_masked, COUNT, "", "responses with a token that objective.mask_after takes the loss from")             \
    X(refinements, COUNT, "", "answers that were criticised and answered again, with rollout.refine")                  \
    X(groups_refined, COUNT, "", "groups that one of these joined")                                                    \
    X(refined_right, COUNT, "", "of these, those that are right")                                                      \
    X(responses_dropped, COUNT, "", "responses left out by objective.min_advantage")                                   \
    X(updates_skipped, COUNT, "", "updates that were not taken: not-a-number, or no group that could be judged")       \
    X(response_tokens_mean, REAL, "tokens", "mean length of a response")                                               \
    X(response_tokens_max, COUNT, "tokens", "longest response")                                                        \
    X(turns_mean, REAL, "", "mean turns of a response, with rollout.environment")                                      \
    X(truncated_share, REAL, "", "share of responses that ran out of length")                                          \
    X(kl_reference, REAL, "nats", "mean k3 estimate of KL to the reference, per token")                                \
    X(kl_point, REAL, "nats", "log-ratio that counts as neutral, with objective.kl_point_from: mismatched")            \
    X(log_z, REAL, "nats", "fdpg: mean logarithm of the targets' sums, with objective.normaliser: running")            \
    X(baseline, REAL, "", "fdpg: mean pseudo-reward of the responses before, with objective.baseline_window")          \
    X(kl_old, REAL, "nats", "mean k3 estimate of KL from the sampling policy, per token")                              \
    X(clip_share, REAL, "", "share of tokens whose ratio was clipped")                                                 \
    X(entropy, REAL, "nats", "mean entropy per token")                                                                 \
    X(pairs, COUNT, "", "pairs of the step's updates")                                                                 \
    X(pairs_right, REAL, "", "share of pairs that the policy orders as their labels do")                               \
    X(h_chosen, REAL, "nats", "mean log-ratio to the reference of the pairs' better responses")                        \
    X(h_rejected, REAL, "nats", "the same of the worse ones")                                                          \
    X(h_samples, REAL, "nats", "the same of the policy's responses: an estimate of its KL to the reference")           \
    X(ratio_ess, REAL, "", "effective sample size of responses weighed by their ratio, to their number")               \
    X(responses_clamped, COUNT, "", "responses of which a number was held at a bound")                                 \
    X(group_entropy, REAL, "nats", "dpo: entropy of a group's responses weighed by their ratio to the reference")      \
    X(grad_norm, REAL, "", "2-norm of the gradient before clipping")                                                   \
    X(lr, REAL, "", "learning rate")                                                                                   \
    X(loss, REAL, "", "loss")                                                                                          \
    X(kept_mass, REAL, "", "mean probability that top-p, top-k and min-p kept")                                        \
    X(tokens_computed, COUNT, "tokens", "rows that the update computed, each shared token once")                       \
    X(tokens_repeated, COUNT, "tokens", "rows that the repeated form would have computed")                             \
    X(tokens_sampled, COUNT, "tokens", "tokens sampled")                                                               \
    X(sharing_factor, REAL, "", "tokens_repeated / tokens_computed")                                                   \
    X(tokens_per_s, REAL, "tokens/s", "tokens_computed / update_s")                                                    \
    X(rollout_tokens_per_s, REAL, "tokens/s", "tokens_sampled / rollout_s")                                            \
    X(step_s, REAL, "s", "wall time of the step")                                                                      \
    X(rollout_s, REAL, "s", "of it, sampling")                                                                         \
    X(reward_s, REAL, "s", "of it, rewards")                                                                           \
    X(update_s, REAL, "s", "of it, forward, backward, reduction and optimizer")                                        \
    X(wait_kv_s, REAL, "s", "mean over ranks: of the step, waiting for prefix K,V of another rank")                    \
    X(wait_kv_max_s, REAL, "s", "the same of the rank that waited longest")                                            \
    X(wait_dkv_s, REAL, "s", "mean: waiting for sums of dK,dV")                                                        \
    X(wait_dkv_max_s, REAL, "s", "longest")                                                                            \
    X(wait_stages_s, REAL, "s", "mean: waiting for a neighbouring stage of the pipeline")                              \
    X(wait_stages_max_s, REAL, "s", "longest")                                                                         \
    X(wait_gradients_s, REAL, "s", "mean: in sums of gradients, what backward did not hide")                           \
    X(wait_gradients_max_s, REAL, "s", "longest")                                                                      \
    X(wait_parameters_s, REAL, "s", "mean: gathering parameters, updated and reference's, what was not hidden")        \
    X(wait_parameters_max_s, REAL, "s", "longest")                                                                     \
    X(wait_ranks_s, REAL, "s", "mean: waiting for other ranks for another reason, as at the end of a pass")            \
    X(wait_ranks_max_s, REAL, "s", "longest")                                                                          \
    X(exposed_share, REAL, "", "share of the step that ranks spent in these waits, on average")                        \
    X(memory_peak_bytes, COUNT, "bytes", "peak resident memory of the largest rank")                                   \
    X(eval_reward, REAL, "", "mean reward on the evaluation prompts")                                                  \
    X(eval_pass_at_1, REAL, "", "pass@1 on the evaluation prompts")                                                    \
    X(eval_pass_at_k, REAL, "", "pass@k on the evaluation prompts")                                                    \
    X(eval_k, COUNT, "", "the k of pass@k")

typedef struct {
#define STM_RECORD_MEMBER(name, kind, unit, meaning) double name;
    STM_RECORD_FIELDS(STM_RECORD_MEMBER)
#undef STM_RECORD_MEMBER
} stm_record;

typedef struct {
    const char *name, *unit, *meaning;
    stm_field_kind kind;
    size_t offset; /* of the double in stm_record */
} stm_record_field;

const stm_record_field *stm_record_fields(size_t *n);
const stm_record_field *stm_record_field_find(const char *name); /* NULL when there is none */
double stm_record_get(const stm_record *record, const stm_record_field *field);
double *stm_record_at(stm_record *record, const stm_record_field *field);

void stm_record_init(stm_record *record); /* all NaN */

/* Sets sharing_factor, tokens_per_s, rollout_tokens_per_s and exposed_share from the counts and seconds that are set.
 */
void stm_record_rates(stm_record *record);

double stm_memory_peak_bytes(void); /* of this process */

#endif
