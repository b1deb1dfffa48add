/* src/train/refine.h: critique and refine (Critique-GRPO, arXiv:2506.03106).
 *
 * A group is sampled one response short. Each answer comes back to the model with a critique, and it answers again; the
 * first refinement that is right, else the one with the best reward, joins the group as response 0, below the group's
 * own prompt. No policy has sampled it there, so that it has no old log-probs and is marked off_policy. */
#ifndef STM_TRAIN_REFINE_H
#define STM_TRAIN_REFINE_H

#include "rollout/rollout.h"
#include "train/rounds.h"

/* Whether options and model allow it, where rollout.refine asks for it. Local. Fails: STM_ERR_INPUT. */
stm_status stm_refine_check(const stm_options *options, const stm_text_context *text);

/* The first of rewards [n] that is at least `right`, else the greatest; n: none is a number. Local. */
size_t stm_refine_choose(size_t n, const double *rewards, double right);

/* The text with {critique} and {answer} (NULL: "") filled in. The caller frees *out. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_refine_fill(const char *text, const char *critique, const char *answer, char **out);

/* A batch of one prompt for each answer whose refinement has room in the model's positions, in their order: the
 * conversation so far with the filled-in text as the user's next turn, or, where there are no messages, prompt, answer
 * and text, a line each. owners: [batch->n_groups] groups of the round. The caller frees both. Rank 0 makes it.
 * Collective over the grid's world; same status everywhere. Fails: STM_ERR_INPUT, STM_ERR_MEMORY. */
stm_status stm_refine_prompts(const stm_policy *policy, const stm_prompt_set *set, const stm_sampling *sampling,
                              const stm_round *round, stm_batch *batch, size_t **owners);

/* Tokens of the longest text that an answer may come back with, rewards' own critiques left out: of praise and blame,
 * with the longest answer of the prompts (NULL: none is known); without a tokenizer a token a byte. 0 without
 * rollout.refine. Local. Fails: STM_ERR_INPUT, STM_ERR_MEMORY. */
stm_status stm_refine_most_said(const stm_options *options, const stm_text_context *text, const stm_prompts *prompts,
                                size_t *most);

/* Tells the engine of the memory of second answers: below each of sampling->group_size first ones to every prompt of
 * the batch, all as long as they may be. Collective over the grid's world in a pipeline. Fails: STM_ERR_MEMORY. */
stm_status stm_refine_expect(const stm_policy *policy, const stm_sampling *sampling, const stm_batch *batch);

/* Lets the chosen one of each group's refinements join it, which leaves `refined` without it, and its verdicts those of
 * the round. *n: how many groups got one. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_refine_join(double right, const size_t *owners, stm_round *refined, stm_round *round, size_t *n);

#endif
