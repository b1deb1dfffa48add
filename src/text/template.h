/* src/text/template.h: chat templates: messages to the text that the model was trained on.
 *
 * Named templates, each printing what the model's own Jinja template prints for system, user and assistant turns
 * without tools: chatml, qwen2, qwen2.5, qwen3, qwen3-thinking, smollm2, smollm3, llama2, llama3, llama3.1 (also 3.2
 * and 3.3), mistral, mistral-v0.1, mistral-v0.3, mistral-nemo, deepseek-v3, deepseek-r1, ... (stm_template_names).
 * `plain` prints the contents alone, a line each. Where a template asks for today's date it gets 26 Jul 2024, for a run
 * must print the same whenever it is resumed. The text is to be tokenised without the tokenizer's own special tokens.
 * Local, all of it. */
#ifndef STM_TEXT_TEMPLATE_H
#define STM_TEXT_TEMPLATE_H

#include "base/base.h"

typedef struct {
    const char *role;    /* system, user, assistant */
    const char *content; /* UTF-8 */
} stm_message;

typedef struct stm_template stm_template;

/* By name; the caller destroys *out. Fails: STM_ERR_INPUT (unknown, with the nearest name), STM_ERR_MEMORY. */
stm_status stm_template_find(const char *name, stm_template **out);

/* By the text of a Jinja template. file: for messages. Fails: STM_ERR_INPUT (none of the known ones). */
stm_status stm_template_recognise(const char *file, const char *jinja, stm_template **out);

/* wanted: a name, or "auto": recognised from jinja (the text of chat_template.jinja) or else from "chat_template" of
 * config (the text of tokenizer_config.json: a string, or a list of which "default" counts). jinja, config: NULL where
 * there is no such file; folder: for messages. Fails: STM_ERR_INPUT. */
stm_status stm_template_choose(const char *wanted, const char *folder, const char *config, const char *jinja,
                               stm_template **out);
void stm_template_destroy(stm_template *template); /* NULL is fine */

const char *stm_template_name(const stm_template *template);
const char *const *stm_template_names(size_t *n);

/* The text of messages [n], with the beginning of an assistant's turn if add_generation_prompt. bos_text, eos_text: the
 * tokenizer's, "" where it has none. The caller frees *text. Fails: STM_ERR_INPUT (a role that the template does not
 * know or does not expect here), STM_ERR_MEMORY. */
stm_status stm_template_render(const stm_template *template, const stm_message *messages, size_t n,
                               bool add_generation_prompt, const char *bos_text, const char *eos_text, char **text);

#endif
