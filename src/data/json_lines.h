/* src/data/json_lines.h: a JSON Lines text, an object a line, and values of it with messages that say where.
 *
 * Works from memory: rank 0 reads the file and broadcasts it. Refused: what is not JSON in UTF-8, keys given twice,
 * numbers that a double or int64 cannot hold, NaN and Infinity, a line that is no object. Blank lines are skipped, and
 * so is a byte-order mark. Failures are STM_ERR_INPUT, "FILE:LINE: key: found .., expected ..". Local, all of it. */
#ifndef STM_DATA_JSON_LINES_H
#define STM_DATA_JSON_LINES_H

#include <jansson.h>

#include "base/base.h"

/* Set name, text and n; the rest starts at zero. After a line has been read: its number, from 1, and its bytes. */
typedef struct {
    const char *name; /* stands for the file in messages */
    const char *text; /* [n] */
    size_t n;
    size_t position, line, n_line;
    const char *line_text; /* [n_line], without its end */
} stm_json_lines;

/* The next line's object; NULL after the last. The caller gives *object back with json_decref.
 * Fails: STM_ERR_INPUT, STM_ERR_MEMORY. */
stm_status stm_json_lines_next(stm_json_lines *lines, json_t **object);

/* Some whole lines of a text, which a thread takes at a time: so many that taking them costs nothing, so few that
 * threads end at about the same time. */
enum { STM_JSON_SHARE_BYTES = 64 << 10 };
typedef struct {
    size_t start, end;    /* in the text; it ends as soon as it has STM_JSON_SHARE_BYTES, or with the text */
    size_t line, n_lines; /* lines of the text before it; of its own */
} stm_json_share;

/* The share of text[0..n) that begins at `start`, where a line does, `line` lines after the text's first. */
stm_json_share stm_json_share_at(const char *text, size_t n, size_t start, size_t line);

/* "FILE:LINE: " and the message. Returns STM_ERR_INPUT. */
stm_status stm_json_lines_fail(const stm_json_lines *lines, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Room for the description of a value: "5", "text "abc"", "an array of 3", "nothing". */
enum { STM_JSON_FOUND_BYTES = 64 };
typedef char stm_json_found_text[STM_JSON_FOUND_BYTES];

/* Writes the description of a value (NULL: "nothing") into `found` and returns it. */
const char *stm_json_found(const json_t *value, stm_json_found_text found);

/* The value of a key; NULL when the object has none or says null. */
json_t *stm_json_get(const json_t *object, const char *key);

/* Shortest text from which strtod gives the number back; it holds a point or an exponent. */
void stm_json_real_text(double number, char text[32]);

#endif
