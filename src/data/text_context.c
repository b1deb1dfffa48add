#include "data/text_context.h"

#include <stdlib.h>
#include <string.h>

static stm_status out_of_vocabulary(const stm_text_context *context, const stm_json_lines *lines, const char *where,
                                    size_t k, const json_t *value)
{
    stm_json_found_text found;
    return stm_json_lines_fail(lines, "%s[%zu]: found %s, expected an integer from 0 to %zu, an id of the model", where,
                               k, stm_json_found(value, found), context->vocab_size - 1);
}

stm_status stm_context_ids(const stm_text_context *context, const stm_json_lines *lines, const char *where,
                           const json_t *value, int32_t **ids, size_t *n)
{
    stm_json_found_text found;
    if (!json_is_array(value))
        return stm_json_lines_fail(lines, "%s: found %s, expected an array of token ids", where,
                                   stm_json_found(value, found));
    const size_t n_ids = json_array_size(value);
    int32_t *array;
    STM_TRY(stm_alloc(n_ids, sizeof *array, &array));
    for (size_t k = 0; k < n_ids; k++) {
        const json_t *element = json_array_get(value, k);
        const json_int_t id = json_is_integer(element) ? json_integer_value(element) : -1;
        if (id < 0 || (uint64_t)id >= context->vocab_size) {
            free(array);
            return out_of_vocabulary(context, lines, where, k, element);
        }
        array[k] = (int32_t)id;
    }
    *ids = array;
    *n = n_ids;
    return STM_OK;
}

/* A tokenizer may know more ids than its model. */
static stm_status check_encoded(const stm_text_context *context, const stm_json_lines *lines, const char *where,
                                const int32_t *ids, size_t n)
{
    for (size_t k = 0; k < n; k++)
        if (ids[k] < 0 || (size_t)ids[k] >= context->vocab_size)
            return stm_json_lines_fail(lines,
                                       "%s: the tokenizer makes id %d of it, but the model's vocabulary ends at %zu",
                                       where, (int)ids[k], context->vocab_size - 1);
    return STM_OK;
}

stm_status stm_context_encode(const stm_text_context *context, const stm_json_lines *lines, const char *where,
                              const char *text, size_t n_text, bool special_tokens, int32_t **ids, size_t *n)
{
    if (!context->tokenizer)
        return stm_json_lines_fail(lines, "%s: found text, but the model has no tokenizer.json; expected token ids",
                                   where);
    int32_t *array = NULL;
    size_t n_ids = 0;
    stm_status status = stm_tokenizer_encode(context->tokenizer, text, n_text, special_tokens, &array, &n_ids);
    if (status == STM_ERR_INPUT)
        return stm_fail_context(status, "%s:%zu: %s", lines->name, lines->line, where);
    STM_TRY(status);
    if ((status = check_encoded(context, lines, where, array, n_ids)) != STM_OK) {
        free(array);
        return status;
    }
    *ids = array;
    *n = n_ids;
    return STM_OK;
}

stm_status stm_context_text(const stm_text_context *context, const stm_json_lines *lines, const char *where,
                            const json_t *value, int32_t **ids, size_t *n)
{
    return stm_context_encode(context, lines, where, json_string_value(value), json_string_length(value), false, ids,
                              n);
}

/* A text that is empty is most likely a mistake in the data, though a BOS would make it legal. */
static stm_status encode_prompt(const stm_text_context *context, const stm_json_lines *lines, const json_t *value,
                                int32_t **ids, size_t *n)
{
    stm_json_found_text found;
    if (!json_is_string(value))
        return stm_json_lines_fail(lines, "prompt: found %s, expected text", stm_json_found(value, found));
    if (json_string_length(value) == 0)
        return stm_json_lines_fail(lines, "prompt: found an empty text, expected at least one token (for the start "
                                          "token alone give \"prompt_ids\")");
    return stm_context_encode(context, lines, "prompt", json_string_value(value), json_string_length(value), true, ids,
                              n);
}

/* A key that may have been meant, for a line that has none of the three. */
static stm_status no_prompt(const stm_json_lines *lines, const json_t *object)
{
    static const char *const keys[] = {"prompt", "messages", "prompt_ids"};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        const char *near = stm_nearest_name(key, keys, 3);
        if (near && !json_is_null(value))
            return stm_json_lines_fail(lines, "prompt: found nothing but \"%.60s\"; did you mean \"%s\"?", key, near);
    }
    return stm_json_lines_fail(lines, "prompt: found nothing, expected \"prompt\", \"messages\" or \"prompt_ids\"");
}

stm_status stm_context_prompt(const stm_text_context *context, const stm_json_lines *lines, const json_t *object,
                              stm_prompt_kind *kind, int32_t **ids, size_t *n)
{
    const json_t *prompt = stm_json_get(object, "prompt"), *messages = stm_json_get(object, "messages"),
                 *prompt_ids = stm_json_get(object, "prompt_ids");
    *kind = prompt_ids ? STM_PROMPT_IDS : messages ? STM_PROMPT_MESSAGES : STM_PROMPT_TEXT;
    if (!prompt_ids && !messages && !prompt)
        return no_prompt(lines, object);
    if (!prompt_ids && messages && prompt)
        return stm_json_lines_fail(lines, "prompt: found \"messages\" too, expected one of them");
    if (prompt_ids)
        STM_TRY(stm_context_ids(context, lines, "prompt_ids", prompt_ids, ids, n));
    else if (messages)
        STM_TRY(stm_context_messages(context, lines, messages, ids, n));
    else
        STM_TRY(encode_prompt(context, lines, prompt, ids, n));
    if (*n > 0)
        return STM_OK;
    free(*ids);
    *ids = NULL;
    return stm_json_lines_fail(lines, "%s: found an empty prompt, expected at least one token",
                               prompt_ids ? "prompt_ids"
                               : messages ? "messages"
                                          : "prompt");
}
