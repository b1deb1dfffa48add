#include "data/json_lines.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

stm_status stm_json_lines_fail(const stm_json_lines *lines, const char *format, ...)
{
    char message[1024];
    va_list list;
    va_start(list, format);
    vsnprintf(message, sizeof message, format, list);
    va_end(list);
    return stm_fail(STM_ERR_INPUT, "%s:%zu: %s", lines->name, lines->line, message);
}

/* Length of the longest beginning of text[0..n) that is at most `most` and does not cut a character. */
static size_t whole_characters(const char *text, size_t n, size_t most)
{
    if (n <= most)
        return n;
    while (most > 0 && ((unsigned char)text[most] & 0xC0) == 0x80)
        most--;
    return most;
}

const char *stm_json_found(const json_t *value, stm_json_found_text found)
{
    enum { LONGEST = 24 };
    char number[32];
    if (!value)
        return strcpy(found, "nothing");
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return strcpy(found, "an object");
    case JSON_ARRAY:
        snprintf(found, STM_JSON_FOUND_BYTES, "an array of %zu", json_array_size(value));
        return found;
    case JSON_STRING: {
        const size_t n = json_string_length(value), shown = whole_characters(json_string_value(value), n, LONGEST);
        snprintf(found, STM_JSON_FOUND_BYTES, "text \"%.*s%s\"", (int)shown, json_string_value(value),
                 shown < n ? ".." : "");
        return found;
    }
    case JSON_INTEGER:
        snprintf(found, STM_JSON_FOUND_BYTES, "%lld", (long long)json_integer_value(value));
        return found;
    case JSON_REAL:
        stm_json_real_text(json_real_value(value), number);
        return strcpy(found, number);
    case JSON_TRUE:
        return strcpy(found, "true");
    case JSON_FALSE:
        return strcpy(found, "false");
    default:
        return strcpy(found, "null");
    }
}

json_t *stm_json_get(const json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

void stm_json_real_text(double number, char text[32])
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, 32, "%.*g", digits, number);
        if (strtod(text, NULL) == number)
            break;
    }
    if (!strpbrk(text, ".en"))
        strcat(text, ".0");
}

/* The parser calls the end of its text "end of file"; here it is the end of a line. */
static stm_status malformed(const stm_json_lines *lines, const json_error_t *error)
{
    const char *words = "end of file", *at = strstr(error->text, words);
    const int before = at ? (int)(at - error->text) : (int)strlen(error->text);
    return stm_json_lines_fail(lines, "column %d: malformed JSON: %.*s%s%s", error->column, before, error->text,
                               at ? "end of line" : "", at ? at + strlen(words) : "");
}

static stm_status parse(const stm_json_lines *lines, json_t **object)
{
    json_error_t error;
    json_t *value =
        json_loadb(lines->line_text, lines->n_line, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (!value && json_error_code(&error) == json_error_out_of_memory)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    if (!value)
        return malformed(lines, &error);
    if (!json_is_object(value)) {
        stm_json_found_text found;
        const stm_status status =
            stm_json_lines_fail(lines, "found %s, expected an object, {..}", stm_json_found(value, found));
        json_decref(value);
        return status;
    }
    *object = value;
    return STM_OK;
}

static bool is_blank(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r\v\f", text[i]) || text[i] == 0)
            return false;
    return true;
}

stm_status stm_json_lines_next(stm_json_lines *lines, json_t **object)
{
    *object = NULL;
    if (lines->position == 0 && lines->n >= 3 && memcmp(lines->text, "\xEF\xBB\xBF", 3) == 0)
        lines->position = 3;
    while (lines->position < lines->n) {
        const char *start = lines->text + lines->position;
        const size_t left = lines->n - lines->position;
        const char *end = memchr(start, '\n', left);
        lines->n_line = end ? (size_t)(end - start) : left;
        lines->position += lines->n_line + (end != NULL);
        lines->line_text = start;
        lines->line++;
        while (lines->n_line && start[lines->n_line - 1] == '\r')
            lines->n_line--;
        if (!is_blank(start, lines->n_line))
            return parse(lines, object);
    }
    return STM_OK;
}

stm_json_share stm_json_share_at(const char *text, size_t n, size_t start, size_t line)
{
    stm_json_share share = {.start = start, .end = start, .line = line};
    while (share.end < n && share.end - start < STM_JSON_SHARE_BYTES) {
        const char *newline = memchr(text + share.end, '\n', n - share.end);
        share.end = newline ? (size_t)(newline + 1 - text) : n;
        share.n_lines++;
    }
    return share;
}
