/* src/reward/answers.h: which responses to one prompt give the same final answer. Two do where a reward that tells
 * right from wrong (math, numeric, exact, choices) takes one for right by the other. Local. */
#ifndef STM_REWARD_ANSWERS_H
#define STM_REWARD_ANSWERS_H

#include "base/base.h"

typedef struct stm_answers stm_answers;

/* kind: the reward that compares. extract: PCRE2 pattern whose last match (its first group) is the answer; empty:
 * `kind` finds it in the text. The caller destroys *out. Fails: STM_ERR_INPUT "rollout.answer_extract: ..",
 * STM_ERR_MEMORY. */
stm_status stm_answers_create(const char *kind, const char *extract, stm_answers **out);
void stm_answers_destroy(stm_answers *answers); /* NULL is fine */

/* cluster [n]: the first of the texts [n] that has the same answer; a text without one is a cluster of its own. Fails:
 * STM_ERR_MEMORY. */
stm_status stm_answers_cluster(const stm_answers *answers, size_t n, const char *const *texts, int64_t *cluster);

#endif
