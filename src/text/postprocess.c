#include "text/postprocess.h"

#include <stdlib.h>
#include <string.h>

#include "text/vocab.h"

void stm_frame_free(stm_frame *frame)
{
    free(frame->before.items);
    free(frame->after.items);
}

static stm_status add_id(stm_ids *ids, const json_t *id)
{
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > STM_VOCAB_LARGEST_ID)
        return stm_fail(STM_ERR_INPUT, "id: found %s, expected an integer from 0 to %d", stm_json_kind(id),
                        STM_VOCAB_LARGEST_ID);
    return stm_ids_add(ids, (int32_t)json_integer_value(id));
}

/* "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}} */
static stm_status add_named(stm_ids *ids, const json_t *json, const char *name)
{
    const json_t *list = json_object_get(json_object_get(json_object_get(json, "special_tokens"), name), "ids");
    if (!json_is_array(list))
        return stm_fail(STM_ERR_INPUT, "special_tokens: found no ids of \"%s\", expected them, for `single` has it",
                        name);
    for (size_t i = 0; i < json_array_size(list); i++)
        STM_TRY(add_id(ids, json_array_get(list, i)));
    return STM_OK;
}

/* What one processor adds goes outside of what the former ones added. */
static stm_status wrap(stm_frame *frame, const stm_ids *before, const stm_ids *after)
{
    const size_t old = frame->before.n;
    for (size_t i = 0; i < before->n; i++)
        STM_TRY(stm_ids_add(&frame->before, before->items[i]));
    if (before->n && old) { /* rotate: the new ones first */
        memmove(frame->before.items + before->n, frame->before.items, old * sizeof *frame->before.items);
        memcpy(frame->before.items, before->items, before->n * sizeof *frame->before.items);
    }
    for (size_t i = 0; i < after->n; i++)
        STM_TRY(stm_ids_add(&frame->after, after->items[i]));
    return STM_OK;
}

static stm_status read_template(const json_t *json, stm_frame *frame)
{
    json_t *single;
    size_t n_texts = 0;
    STM_TRY(stm_json_array(json, "single", &single));
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i), *special = json_object_get(item, "SpecialToken");
        const char *name = json_string_value(json_object_get(special, "id"));
        if (json_object_get(item, "Sequence"))
            n_texts++;
        else if (!name)
            return stm_fail(STM_ERR_INPUT,
                            "single[%zu]: found %s, expected {\"Sequence\": ..} or {\"SpecialToken\": {\"id\": ..}}", i,
                            stm_json_kind(item));
        else
            STM_TRY(add_named(n_texts ? &frame->after : &frame->before, json, name));
    }
    return n_texts == 1 ? STM_OK : stm_fail(STM_ERR_INPUT, "single: found the text %zu times, expected once", n_texts);
}

/* "cls": ["<s>", 0], "sep": ["</s>", 2] */
static stm_status read_pair(const json_t *json, stm_frame *frame)
{
    STM_TRY(add_id(&frame->before, json_array_get(json_object_get(json, "cls"), 1)));
    return add_id(&frame->after, json_array_get(json_object_get(json, "sep"), 1));
}

static stm_status read_one(const json_t *json, stm_frame *frame)
{
    stm_frame one = {0};
    const char *type;
    STM_TRY(stm_json_type(json, &type));
    if (strcmp(type, "ByteLevel") == 0)
        return STM_OK;
    stm_status status;
    if (strcmp(type, "TemplateProcessing") == 0)
        status = read_template(json, &one);
    else if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0)
        status = read_pair(json, &one);
    else
        status = stm_fail(STM_ERR_INPUT, "type: found \"%s\", which is not supported", type);
    if (status == STM_OK)
        status = wrap(frame, &one.before, &one.after);
    stm_frame_free(&one);
    return status;
}

static stm_status read_any(const json_t *json, stm_frame *frame)
{
    const char *type;
    json_t *list;
    STM_TRY(stm_json_type(json, &type));
    if (strcmp(type, "Sequence") != 0)
        return read_one(json, frame);
    STM_TRY(stm_json_array(json, "processors", &list));
    for (size_t i = 0; i < json_array_size(list); i++)
        STM_TRY(read_any(json_array_get(list, i), frame));
    return STM_OK;
}

stm_status stm_frame_read(const json_t *json, stm_frame *frame)
{
    if (!json || json_is_null(json))
        return STM_OK;
    const stm_status status = read_any(json, frame);
    return status == STM_OK ? STM_OK : stm_fail_context(status, "post_processor");
}
