#include "data/text_lines.h"

#include <stdio.h>
#include <string.h>

/* Reading */

typedef struct {
    const char *at, *end;
} cursor;

static void skip_blanks(cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\r'))
        c->at++;
}

/* Blanks, then the word. */
static bool skip_word(cursor *c, const char *word)
{
    const size_t n = strlen(word);
    skip_blanks(c);
    if ((size_t)(c->end - c->at) < n || memcmp(c->at, word, n) != 0)
        return false;
    c->at += n;
    return true;
}

/* Ends a stretch of characters that stand for themselves: a quote, a backslash, a control character. */
static bool is_plain(char byte)
{
    return (unsigned char)byte >= 0x20 && byte != '"' && byte != '\\';
}

static bool read_plain(cursor *c, stm_string *text)
{
    const char *start = c->at;
    unsigned seen = 0;
    for (; c->at < c->end && is_plain(*c->at); c->at++)
        seen |= (unsigned char)*c->at;
    const size_t n = (size_t)(c->at - start);
    return (seen < 0x80 || stm_utf8_valid(start, n) == n) && stm_string_add(text, start, n) == STM_OK;
}

static bool read_hex(cursor *c, uint32_t *number)
{
    *number = 0;
    if (c->end - c->at < 4)
        return false;
    for (size_t i = 0; i < 4; i++) {
        const char digit = *c->at++;
        const char *digits = "0123456789abcdef", *found = memchr(digits, digit | ('A' <= digit ? 0x20 : 0), 16);
        if (!found)
            return false;
        *number = *number << 4 | (uint32_t)(found - digits);
    }
    return true;
}

/* What follows \u: a code point, or the two halves of one. */
static bool read_point(cursor *c, stm_string *text)
{
    uint32_t point, low;
    if (!read_hex(c, &point) || (point >= 0xDC00 && point <= 0xDFFF))
        return false;
    if (point >= 0xD800 && point <= 0xDBFF) {
        if (c->end - c->at < 2 || c->at[0] != '\\' || c->at[1] != 'u')
            return false;
        c->at += 2;
        if (!read_hex(c, &low) || low < 0xDC00 || low > 0xDFFF)
            return false;
        point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
    }
    return stm_string_add_point(text, point) == STM_OK;
}

static const char short_names[] = "\"\\/bfnrt", short_values[] = "\"\\/\b\f\n\r\t";

/* The backslash has been read. */
static bool read_escape(cursor *c, stm_string *text)
{
    if (c->at == c->end)
        return false;
    const char name = *c->at++;
    if (name == 'u')
        return read_point(c, text);
    const char *found = memchr(short_names, name, sizeof short_names - 1);
    return found && stm_string_add(text, &short_values[found - short_names], 1) == STM_OK;
}

/* The opening quote has been read; takes the closing one. */
static bool read_string(cursor *c, stm_string *text)
{
    while (read_plain(c, text) && c->at < c->end) {
        const char stop = *c->at++;
        if (stop == '"')
            return true;
        if (stop != '\\' || !read_escape(c, text))
            return false;
    }
    return false;
}

bool stm_text_line_read(const char *line, size_t n, stm_string *text)
{
    cursor c = {line, line + n};
    text->n = 0;
    if (!skip_word(&c, "{") || !skip_word(&c, "\"text\"") || !skip_word(&c, ":") || !skip_word(&c, "\""))
        return false;
    if (!read_string(&c, text) || !skip_word(&c, "}"))
        return false;
    skip_blanks(&c);
    return c.at == c.end && stm_string_end(text) == STM_OK;
}

/* Writing */

static stm_status add_ids(const int32_t *ids, size_t n, stm_string *out)
{
    enum { LONGEST = 13 }; /* "-2147483648, " */
    STM_TRY(stm_reserve(&out->bytes, &out->capacity, out->n + n * LONGEST, 1));
    for (size_t i = 0; i < n; i++) {
        char digits[LONGEST], *at = digits + sizeof digits;
        int64_t left = ids[i] < 0 ? -(int64_t)ids[i] : ids[i];
        if (i + 1 < n)
            memcpy(at -= 2, ", ", 2);
        do
            *--at = (char)('0' + left % 10);
        while (left /= 10);
        if (ids[i] < 0)
            *--at = '-';
        const size_t length = (size_t)(digits + sizeof digits - at);
        memcpy(out->bytes + out->n, at, length);
        out->n += length;
    }
    return STM_OK;
}

static stm_status add_escape(char byte, stm_string *out)
{
    char number[16];
    const char *found = byte ? strchr(short_values, byte) : NULL;
    if (found)
        return stm_string_add(out, (char[]){'\\', short_names[found - short_values]}, 2);
    snprintf(number, sizeof number, "\\u%04X", (unsigned)byte);
    return stm_string_add_text(out, number);
}

stm_status stm_text_line_write(const int32_t *ids, size_t n, const char *text, size_t n_bytes, stm_string *out)
{
    STM_TRY(stm_string_add_text(out, "{\"ids\": ["));
    STM_TRY(add_ids(ids, n, out));
    STM_TRY(stm_string_add_text(out, "], \"decoded\": \""));
    for (size_t at = 0; at < n_bytes;) {
        const size_t start = at;
        while (at < n_bytes && is_plain(text[at]))
            at++;
        STM_TRY(stm_string_add(out, text + start, at - start));
        if (at < n_bytes)
            STM_TRY(add_escape(text[at++], out));
    }
    return stm_string_add_text(out, "\"}\n");
}
