#include "reward/tokenize_13a.h"

#include <stdlib.h>
#include <string.h>

/* Each `from` becomes `to`, which is not longer. */
static void replace(char *text, const char *from, const char *to)
{
    const size_t n_from = strlen(from), n_to = strlen(to);
    char *out = text;
    for (const char *in = text; *in;)
        if (strncmp(in, from, n_from) == 0) {
            memcpy(out, to, n_to);
            out += n_to;
            in += n_from;
        } else {
            *out++ = *in++;
        }
    *out = 0;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool stands_alone(char c)
{
    return (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') || (c >= '(' && c <= '+') ||
           (c >= ':' && c <= '@') || c == '/';
}

static bool is_point(char c)
{
    return c == '.' || c == ',';
}

static char *put(char *out, char before, char c, char after)
{
    if (before)
        *out++ = before;
    *out++ = c;
    if (after)
        *out++ = after;
    return out;
}

/* The four passes, each over the whole text: the spaces that one adds are what the next one sees around a point. A pair
 * that a pass has taken is behind it, so of two points in a row the second is not looked at again. Bytes will do: a
 * character of several bytes is neither a digit nor a point in any of them. */
static void separate_symbols(const char *in, char *out)
{
    for (; *in; in++)
        out = stands_alone(*in) ? put(out, ' ', *in, ' ') : put(out, 0, *in, 0);
    *out = 0;
}

static void separate_points_after_no_digit(const char *in, char *out)
{
    while (*in)
        if (!is_digit(*in) && is_point(in[1])) {
            out = put(out, 0, *in, 0);
            out = put(out, ' ', in[1], ' ');
            in += 2;
        } else {
            *out++ = *in++;
        }
    *out = 0;
}

static void separate_points_before_no_digit(const char *in, char *out)
{
    while (*in)
        if (is_point(*in) && in[1] && !is_digit(in[1])) {
            out = put(out, ' ', *in, ' ');
            *out++ = in[1];
            in += 2;
        } else {
            *out++ = *in++;
        }
    *out = 0;
}

static void separate_dashes_after_digits(const char *in, char *out)
{
    while (*in)
        if (is_digit(*in) && in[1] == '-') {
            out = put(out, 0, *in, ' ');
            out = put(out, 0, '-', ' ');
            in += 2;
        } else {
            *out++ = *in++;
        }
    *out = 0;
}

stm_status stm_tokenize_13a(stm_span text, char **out)
{
    char *buffers;
    const stm_span stripped = stm_span_strip(text);
    const size_t n = (size_t)(stripped.at - text.at) + stripped.n; /* white space at the end alone does not count */
    const size_t capacity = 8 * n + 16; /* a byte becomes at most three, and a space at most two more beside points */
    STM_TRY(stm_alloc(2 * capacity, 1, &buffers));
    char *a = buffers, *b = buffers + capacity;
    memcpy(a + 1, text.at, n);
    a[n + 1] = 0;
    replace(a + 1, "<skipped>", "");
    replace(a + 1, "-\n", "");
    replace(a + 1, "\n", " ");
    replace(a + 1, "&quot;", "\"");
    replace(a + 1, "&amp;", "&");
    replace(a + 1, "&lt;", "<");
    replace(a + 1, "&gt;", ">");
    a[0] = ' ';
    strcat(a, " ");
    separate_symbols(a, b);
    separate_points_after_no_digit(b, a);
    separate_points_before_no_digit(a, b);
    separate_dashes_after_digits(b, a);
    *out = buffers;
    return STM_OK;
}
