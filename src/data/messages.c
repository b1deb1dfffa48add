#include "data/text_context.h"

#include <stdlib.h>
#include <string.h>

#include "text/template.h"

static stm_status read_message(const stm_json_lines *lines, const json_t *object, size_t i, stm_message *message)
{
    stm_json_found_text found;
    if (!json_is_object(object))
        return stm_json_lines_fail(lines, "messages[%zu]: found %s, expected {\"role\": .., \"content\": ..}", i,
                                   stm_json_found(object, found));
    const json_t *role = stm_json_get(object, "role"), *content = stm_json_get(object, "content");
    if (!json_is_string(role) || !json_is_string(content))
        return stm_json_lines_fail(lines, "messages[%zu].%s: found %s, expected text", i,
                                   json_is_string(role) ? "content" : "role",
                                   stm_json_found(json_is_string(role) ? content : role, found));
    *message = (stm_message){json_string_value(role), json_string_value(content)};
    if (strlen(message->content) != json_string_length(content))
        return stm_json_lines_fail(lines, "messages[%zu].content: found a NUL character, expected text without", i);
    return STM_OK;
}

/* Renders with the opening of the assistant's turn, since a response follows. */
static stm_status render(const stm_text_context *context, const stm_json_lines *lines, const json_t *array, char **text)
{
    const size_t n = json_array_size(array);
    stm_message *messages;
    STM_TRY(stm_alloc(n, sizeof *messages, &messages));
    stm_status status = STM_OK;
    for (size_t i = 0; i < n && status == STM_OK; i++)
        status = read_message(lines, json_array_get(array, i), i, &messages[i]);
    if (status == STM_OK) {
        status = stm_template_render(context->chat, messages, n, true, stm_tokenizer_bos_text(context->tokenizer),
                                     stm_tokenizer_eos_text(context->tokenizer), text);
        if (status == STM_ERR_INPUT)
            status = stm_fail_context(status, "%s:%zu: messages", lines->name, lines->line);
    }
    free(messages);
    return status;
}

stm_status stm_context_messages(const stm_text_context *context, const stm_json_lines *lines, const json_t *value,
                                int32_t **ids, size_t *n)
{
    stm_json_found_text found;
    if (!json_is_array(value) || json_array_size(value) == 0)
        return stm_json_lines_fail(lines, "messages: found %s, expected an array of {\"role\": .., \"content\": ..}",
                                   stm_json_found(value, found));
    if (!context->chat)
        return stm_json_lines_fail(lines, "messages: the model has no chat template that is known; name one with "
                                          "data.template, or give \"prompt\"");
    if (!context->tokenizer)
        return stm_json_lines_fail(lines, "messages: found text, but the model has no tokenizer.json; expected token "
                                          "ids, \"prompt_ids\"");
    char *text = NULL;
    stm_status status = render(context, lines, value, &text);
    if (status == STM_OK)
        status = stm_context_encode(context, lines, "messages", text, strlen(text), false, ids, n);
    free(text);
    return status;
}
