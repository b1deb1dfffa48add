#include "text/json.h"

#include <string.h>

stm_status stm_json_parse(const char *name, const char *text, size_t n, bool any_integer, json_t **out)
{
    json_error_t error;
    *out = json_loadb(text, n, JSON_ALLOW_NUL | JSON_DECODE_ANY | (any_integer ? JSON_DECODE_INT_AS_REAL : 0), &error);
    if (!*out)
        return stm_fail(STM_ERR_INPUT, "%s:%d: not JSON: %s", name, error.line, error.text);
    return STM_OK;
}

const char *stm_json_kind(const json_t *value)
{
    static const char *const kinds[] = {"an object", "an array", "a string", "an integer",
                                        "a number",  "true",     "false",    "null"};
    return value ? kinds[json_typeof(value)] : "nothing";
}

static stm_status wrong_type(const char *key, const json_t *found, const char *expected)
{
    return stm_fail(STM_ERR_INPUT, "%s: found %s, expected %s", key, stm_json_kind(found), expected);
}

static const json_t *member(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return value && !json_is_null(value) ? value : NULL;
}

stm_status stm_json_bool(const json_t *object, const char *key, bool absent, bool *out)
{
    const json_t *value = member(object, key);
    if (value && !json_is_boolean(value))
        return wrong_type(key, value, "true or false");
    *out = value ? json_is_true(value) : absent;
    return STM_OK;
}

stm_status stm_json_integer(const json_t *object, const char *key, int64_t absent, int64_t *out)
{
    const json_t *value = member(object, key);
    if (value && !json_is_integer(value))
        return wrong_type(key, value, "an integer");
    *out = value ? json_integer_value(value) : absent;
    return STM_OK;
}

stm_status stm_json_string(const json_t *object, const char *key, const char *absent, const char **out, size_t *n)
{
    const json_t *value = member(object, key);
    if (value && !json_is_string(value))
        return wrong_type(key, value, "a string");
    *out = value ? json_string_value(value) : absent;
    *n = value ? json_string_length(value) : absent ? strlen(absent) : 0;
    return STM_OK;
}

stm_status stm_json_array(const json_t *object, const char *key, json_t **out)
{
    json_t *value = json_object_get(object, key);
    *out = json_is_null(value) ? NULL : value;
    if (*out && !json_is_array(value))
        return wrong_type(key, value, "an array");
    return STM_OK;
}

stm_status stm_json_type(const json_t *object, const char **out)
{
    size_t n;
    if (!json_is_object(object))
        return stm_fail(STM_ERR_INPUT, "found %s, expected an object", stm_json_kind(object));
    STM_TRY(stm_json_string(object, "type", NULL, out, &n));
    return *out ? STM_OK : stm_fail(STM_ERR_INPUT, "type: found nothing, expected a string");
}
