/* src/train/evaluate.h: how good a model is on a set of prompts.
 *
 * Each prompt gets eval.samples responses at eval.temperature; what else rollout.* says holds here too. The random
 * numbers depend on the prompt's place alone, so that two evaluations differ by the model. A response passes when the
 * first reward of the list gives it more than 0.5, the weight left aside: list the one that tells right from wrong
 * first. */
#ifndef STM_TRAIN_EVALUATE_H
#define STM_TRAIN_EVALUATE_H

#include "train/judge.h"

/* Unbiased estimate of the probability that at least one of k samples passes, from n samples of which c passed:
 * 1 - C(n-c, k) / C(n, k); Chen et al. 2021, arXiv:2107.03374, section 2.1. 1 <= k <= n. Local. */
double stm_pass_at_k(size_t n, size_t c, size_t k);

typedef struct {
    size_t n_prompts, n_samples;
    size_t n_failed; /* prompts with a response that could not be judged: they are in no mean but those of lengths */
    char complaint[512]; /* about the first of them, on rank 0; "" elsewhere */
    size_t *n_passed;    /* [n_prompts]; STM_NOT_JUDGED: it failed */
    double mean_reward;  /* over prompts and samples; NaN where all failed, as pass@k */
    double truncated_share, mean_tokens;
} stm_evaluation;
#define STM_NOT_JUDGED SIZE_MAX
void stm_evaluation_clear(stm_evaluation *evaluation);

/* Mean over the prompts that did not fail. Local. */
double stm_evaluation_pass_at(const stm_evaluation *evaluation, size_t k);

/* lines: NULL, or gets the first n_lines prompts with their responses in the form of GROUPS.jsonl, on rank 0. The
 * caller clears *out and frees lines->bytes, also after a failure. Where policy->watch leaves, the evaluation is worth
 * nothing. Collective over the grid's world; same status everywhere. Fails: what the engine says. */
stm_status stm_evaluate(const stm_policy *policy, stm_reward_set *rewards, const stm_prompt_set *set, size_t n_lines,
                        stm_string *lines, stm_evaluation *out);

#endif
