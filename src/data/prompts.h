/* src/data/prompts.h: a set of prompts for training, evaluation and generation, read from JSON Lines, and the order in
 * which a run takes them.
 *
 * A line: {"prompt": text | "messages": [{"role", "content"}, ..] | "prompt_ids": [..], "answer": text or number,
 * "response": text (for objective sft), any other field}. Every rank reads the same text from memory and holds the
 * whole set, which all its threads read. Local, all of it. */
#ifndef STM_DATA_PROMPTS_H
#define STM_DATA_PROMPTS_H

#include "config/options.h"
#include "data/groups.h"
#include "data/text_context.h"

typedef struct {
    size_t n; /* at least 1 */
    int32_t *ids;
    bool has_response;
    size_t n_response; /* the end token included */
    int32_t *response; /* [n_response] or NULL */
    size_t n_thoughtless;
    int32_t *thoughtless; /* [n_thoughtless]: the response with an empty thought; NULL: it has none, or nobody asked */
    char *prompt_text; /* the text of `prompt`; else the ids decoded without special tokens, "" where the model has no
                          tokenizer */
    char *answer;      /* as text; NULL: none */
    char *fields_json; /* the line itself */
    size_t line;       /* in the file, from 1 */
} stm_prompt;

typedef struct stm_prompt_order stm_prompt_order;

typedef struct {
    size_t n; /* at least 1 */
    stm_prompt *items;
    size_t n_skipped, n_truncated; /* by the overlong policy */
    stm_prompt_order *order;       /* of the epoch asked for last */
} stm_prompts;

typedef struct {
    stm_overlong overlong;
    size_t max_prompt_tokens; /* 0: as many as the model's positions leave */
    size_t max_new_tokens; /* an environment's tokens included: room that the positions must leave after a prompt; with
                              needs_response the response's own length counts instead */
    bool has_environment;  /* for messages: which options max_new_tokens is made of */
    bool needs_answer;     /* some reward reads it: a line without one is an error */
    bool needs_response;   /* sft: a line without one is an error; else responses are left alone */
    int32_t end_token;     /* appended to each response; -1: none */
    const char *thought_begin, *thought_end; /* of thoughts that may be left out of responses; NULL: they stay */
} stm_prompts_use;

/* Reads text[0..n); `name` stands for the file in messages. The caller clears *out (stm_prompts_clear). A prompt that
 * is too long is an error, left out, or loses its first tokens (a BOS that the tokenizer or the template put stays), as
 * `overlong` says. Fails: STM_ERR_INPUT "FILE:LINE: answer: found nothing, expected ..", also when no prompt is left;
 * STM_ERR_MEMORY. */
stm_status stm_prompts_read(const char *name, const char *text, size_t n, const stm_text_context *context,
                            const stm_prompts_use *use, stm_prompts *out);
void stm_prompts_clear(stm_prompts *prompts);

/* The prompts of the groups, one for each: ids alone. The caller clears *out, also after a failure. Fails:
 * STM_ERR_MEMORY. */
stm_status stm_prompts_of_groups(const stm_batch *groups, stm_prompts *out);

/* Lines which[0..n) of a set, n at least 1: a set that borrows them. To be given back with unselect, not with clear.
 * Fails: STM_ERR_MEMORY. */
stm_status stm_prompts_select(const stm_prompts *prompts, const size_t *which, size_t n, stm_prompts *out);
void stm_prompts_unselect(stm_prompts *selection);

/* Index of the prompt at a position of the run: step s takes positions s * prompts_per_step and on. Epoch after epoch
 * each prompt comes once, in the file's order or shuffled anew, so that a small set may give a step one prompt twice. A
 * pure function of its arguments (it keeps the last epoch's order in prompts->order: one thread at a time). */
size_t stm_prompt_at(const stm_prompts *prompts, uint64_t seed, bool shuffle, uint64_t position);

#endif
