/* src/train/judge.h: rewards of a batch of rollouts. */
#ifndef STM_TRAIN_JUDGE_H
#define STM_TRAIN_JUDGE_H

#include "reward/reward.h"
#include "text/utf8.h"
#include "train/policy.h"
#include "train/prompt_sets.h"

/* What the judge found, response by response in order of the batch. */
typedef struct {
    size_t n, n_rewards;
    size_t n_failed;     /* groups with a response that could not be judged */
    char complaint[512]; /* about the first of them, on rank 0; "" elsewhere */
    double *total;       /* [n]: weighted sums */
    double *parts;       /* [n, n_rewards]: unweighted */
    char **texts;        /* [n]: decoded without special tokens; on rank 0, NULL elsewhere */
    char **critiques;    /* [n], with rollout.refine on rank 0: what a reward command says, or NULL */
} stm_verdicts;
void stm_verdicts_clear(stm_verdicts *verdicts);

/* Decodes and judges on rank 0, and sends the numbers to all; the responses have their rewards afterwards, but for
 * those whose reward failed (stm_group_is_judged). Group g belongs to set->prompts.items[which[g]]. practice: it
 * is to train on, and rewards with a memory take note. Rewards may take long: where the policy's watch leaves
 * afterwards, it was told to while they did, and the caller goes no further. The caller clears *verdicts, also after a
 * failure. Collective over the grid's world; same status everywhere. */
stm_status stm_judge(const stm_policy *policy, stm_reward_set *rewards, const stm_prompt_set *set, const size_t *which,
                     stm_batch *batch, bool practice, stm_verdicts *verdicts);

/* The text of a response as the judge reads it, in place of an earlier one. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_verdicts_text(const stm_policy *policy, const stm_response *response, char **text);

/* The same where thinking was cut (train/budgets.h): judges what is below the cuts; batch and verdicts are of thinking
 * and summaries afterwards, or, without practice, of these alone. */
stm_status stm_judge_cuts(const stm_policy *policy, stm_reward_set *rewards, const stm_prompt_set *set,
                          const size_t *which, stm_batch *batch, stm_batch *cuts, bool practice,
                          stm_verdicts *verdicts);

/* Appends groups [0, n) as GROUPS.jsonl lines with texts and rewards. Rank 0 calls; local. Fails: STM_ERR_NUMERIC,
 * STM_ERR_MEMORY. */
stm_status stm_verdicts_write(const stm_verdicts *verdicts, const stm_prompt_set *set, const size_t *which,
                              const stm_batch *batch, size_t n, stm_string *out);

/* Whether each of its responses has a reward; what lacks one compares with nothing. Local. */
bool stm_group_is_judged(const stm_group *group);

#endif
