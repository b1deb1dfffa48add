/* src/data/groups_file.h: the GROUPS.jsonl form (DESIGN.md, section 5): a group a line, read for `score` and `grad`,
 * written by `generate`.
 *
 * {"prompt": text | "messages": [{"role", "content"}, ..] | "prompt_ids": [..], "temperature": 1.0, "responses":
 * [{"text": .. | "ids": [..], "reward": x, "mask": [0/1 ..], "old_logprobs": [..], "ref_logprobs": [..], "kept_mass":
 * [..], "finish": "stop" | "length"}, ..], ..} For some objectives a response also has "sampler_logprobs",
 * "token_weights", "off_policy", "cluster" (of equal answers: the same integer), "twin_logprobs", "target_logprobs" and
 * "origin" ("policy", or "other": sampled by another model), "reward_parts" (any number), "step" (of each token) and
 * "step_advantages"; and of thinking that was cut "segment" (the budget of each token of thinking, else -1) and
 * "answer" (the summary of each token of one, else -1), with the group's "scores", [members][budgets][summaries], where
 * a response that is but a part of a member says which by "member"; the group "preferences" [[..], ..], the probability
 * that the row's response is better than the column's. Where both ids and their text are given, ids are taken. Other
 * keys of a group are its own affair ("answer"), other keys of a response are refused; null is as good as absent.
 * Local, all of it. */
#ifndef STM_DATA_GROUPS_FILE_H
#define STM_DATA_GROUPS_FILE_H

#include "data/groups.h"
#include "data/text_context.h"
#include "text/utf8.h"

typedef enum {
    STM_GROUPS_IGNORE_MASK = 1,   /* every token has loss; masks are still checked */
    STM_GROUPS_NEED_REWARDS = 2,  /* a response without reward is an error */
    STM_GROUPS_NEED_REFERENCE = 4 /* a response without ref_logprobs is an error */
} stm_groups_use;

/* Reads text[0..n); `name` stands for the file in messages, use: stm_groups_use, or-ed. The caller clears *out
 * (stm_batch_clear). Fails: STM_ERR_INPUT "FILE:LINE: responses[3].mask: found 5 numbers, expected 7, one for each id";
 * a text without groups is an error; STM_ERR_MEMORY. */
stm_status stm_groups_read(const char *name, const char *text, size_t n, const stm_text_context *context, unsigned use,
                           stm_batch *out);

/* Appends one group as a line, its newline included, in the form that stm_groups_read reads back to the last bit.
 * fields_json: the prompt's line, whose other fields are carried over (NULL: none); texts [n_responses]: the decoded
 * responses (NULL: none). Fails: STM_ERR_NUMERIC (a number that is not finite), STM_ERR_MEMORY. */
stm_status stm_group_write(const stm_group *group, const char *fields_json, const char *const *texts, stm_string *out);

#endif
