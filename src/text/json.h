/* src/text/json.h: JSON documents read with messages that name file, line and key. Local, all of it. */
#ifndef STM_TEXT_JSON_H
#define STM_TEXT_JSON_H

#include <jansson.h>

#include "base/base.h"

/* Parses n bytes; the caller json_decref's *out. any_integer: integers are read as reals, for files that hold some
 * beyond 64 bits (model_max_length). Fails: STM_ERR_INPUT, "name:line: why". */
stm_status stm_json_parse(const char *name, const char *text, size_t n, bool any_integer, json_t **out);

/* "an object", "null", ... for messages; NULL is "nothing". */
const char *stm_json_kind(const json_t *value);

/* A member of an object. What is absent or null gives the default; another type fails with STM_ERR_INPUT, "key: found
 * .., expected ..". Strings and members belong to the document. */
stm_status stm_json_bool(const json_t *object, const char *key, bool absent, bool *out);
stm_status stm_json_integer(const json_t *object, const char *key, int64_t absent, int64_t *out);
stm_status stm_json_string(const json_t *object, const char *key, const char *absent, const char **out, size_t *n);
stm_status stm_json_array(const json_t *object, const char *key, json_t **out); /* *out NULL: absent */

/* The member "type" of an object: a string that must be there. */
stm_status stm_json_type(const json_t *object, const char **out);

#endif
