/* src/data/text_context.h: how the texts of a data line become token ids of one model.
 *
 * Every id that comes back is within the model's vocabulary. `where` names the value in messages: "responses[3].ids".
 * Failures are STM_ERR_INPUT, "FILE:LINE: where: found .., expected ..", or STM_ERR_MEMORY. Local, all of it. */
#ifndef STM_DATA_TEXT_CONTEXT_H
#define STM_DATA_TEXT_CONTEXT_H

#include "data/json_lines.h"
#include "text/tokenizer.h"

typedef struct stm_template stm_template; /* text/template.h */

typedef struct {
    const stm_tokenizer *tokenizer; /* NULL: the model has none, so that lines must hold ids */
    const stm_template *chat;       /* for `messages`; NULL: none is known, so that messages are refused */
    size_t vocab_size;              /* ids are below it */
    size_t max_positions;           /* tokens of a sequence at most */
} stm_text_context;

/* Where a prompt came from decides what may be shown and cut. */
typedef enum { STM_PROMPT_TEXT, STM_PROMPT_MESSAGES, STM_PROMPT_IDS } stm_prompt_kind;

/* The ids of a line's prompt: of `prompt_ids` as they are (a prompt or messages beside them are information), of
 * `prompt` with the tokenizer's own special tokens, of `messages` with the template's alone. Never empty. The caller
 * frees *ids. */
stm_status stm_context_prompt(const stm_text_context *context, const stm_json_lines *lines, const json_t *object,
                              stm_prompt_kind *kind, int32_t **ids, size_t *n);

/* The ids of a text that stands for itself: no special tokens are added. value: a JSON string. The caller frees *ids.
 */
stm_status stm_context_text(const stm_text_context *context, const stm_json_lines *lines, const char *where,
                            const json_t *value, int32_t **ids, size_t *n);

/* An array of ids, as it stands. The caller frees *ids. */
stm_status stm_context_ids(const stm_text_context *context, const stm_json_lines *lines, const char *where,
                           const json_t *value, int32_t **ids, size_t *n);

/* The parts of stm_context_prompt: a text with or without the tokenizer's own special tokens, and turns of a
 * conversation, each {"role", "content"}, in the template's form with the assistant's turn opened. The caller frees
 * *ids, which may be empty. */
stm_status stm_context_encode(const stm_text_context *context, const stm_json_lines *lines, const char *where,
                              const char *text, size_t n_text, bool special_tokens, int32_t **ids, size_t *n);
stm_status stm_context_messages(const stm_text_context *context, const stm_json_lines *lines, const json_t *value,
                                int32_t **ids, size_t *n);

#endif
