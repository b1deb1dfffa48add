/* The response's number equals the answer's number: 1 or 0. As in GSM8K, the number of a text is the one after its last
 * marker ("####" anywhere, "A:" or "Answer:" at the start of a line, "\boxed{"), or its last number when it has no
 * marker. With `extract`, what that takes from the response is read in the same way. A response without a number scores
 * 0; an answer without one is a fault of the data. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "reward/kinds.h"

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_word(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (unsigned char)c >= 0x80;
}

enum { MOST_DIGITS = 320 }; /* more than that before the point is beyond a double */

/* Digits at `at`, "," between groups of three dropped, into `out`; the position after them. */
static size_t take_integer(const char *text, size_t n, size_t at, char *out, size_t *n_out)
{
    while (at < n) {
        const bool group = text[at] == ',' && at + 3 < n && is_digit(text[at + 1]) && is_digit(text[at + 2]) &&
                           is_digit(text[at + 3]) && !(at + 4 < n && is_digit(text[at + 4]));
        if (!group && !is_digit(text[at]))
            break;
        if (!group && *n_out < MOST_DIGITS)
            out[(*n_out)++] = text[at];
        at++;
    }
    return at;
}

/* An unsigned number "1,234.5e6" that starts at `at`; the position after it. */
static size_t take_number(const char *text, size_t n, size_t at, double *value)
{
    char digits[2 * MOST_DIGITS + 16];
    size_t used = 0;
    at = take_integer(text, n, at, digits, &used);
    if (at + 1 < n && text[at] == '.' && is_digit(text[at + 1])) {
        digits[used++] = '.';
        const size_t end = used + MOST_DIGITS;
        for (at++; at < n && is_digit(text[at]); at++)
            if (used < end)
                digits[used++] = text[at];
    }
    if (at + 1 < n && (text[at] == 'e' || text[at] == 'E')) {
        size_t from = at + 1 + (text[at + 1] == '-' || text[at + 1] == '+');
        if (from < n && is_digit(text[from])) {
            digits[used++] = 'e';
            digits[used++] = text[at + 1] == '-' ? '-' : '+';
            for (const size_t end = used + 5; from < n && is_digit(text[from]); from++)
                if (used < end)
                    digits[used++] = text[from];
            at = from;
        }
    }
    digits[used] = 0;
    *value = strtod(digits, NULL);
    return at;
}

/* A minus sign at the end of text[0..n), also the typographic one, that is no subtraction: nothing or no operand stands
 * before it. */
static bool minus_before(const char *text, size_t n)
{
    if (n > 0 && text[n - 1] == '$') /* -$5 */
        n--;
    size_t sign = 0;
    if (n >= 1 && text[n - 1] == '-')
        sign = 1;
    else if (n >= 3 && memcmp(text + n - 3, "\xE2\x88\x92", 3) == 0)
        sign = 3;
    return sign > 0 && (n == sign || !(is_word(text[n - sign - 1]) || text[n - sign - 1] == ')'));
}

/* The first or the last number of text[0..n): signs, "$", thousands' commas, "a/b" as a quotient. False: there is none.
 */
static bool find_number(const char *text, size_t n, bool last, double *value)
{
    bool found = false;
    size_t at = 0;
    while (at < n && (last || !found)) {
        const bool point = text[at] == '.' && at + 1 < n && is_digit(text[at + 1]);
        if (!is_digit(text[at]) && !point) {
            at++;
            continue;
        }
        const double sign = minus_before(text, at) ? -1.0 : 1.0;
        double number, divisor;
        at = take_number(text, n, at, &number);
        if (at + 1 < n && text[at] == '/' && is_digit(text[at + 1])) {
            at = take_number(text, n, at + 1, &divisor);
            number /= divisor;
        }
        if (isfinite(number)) {
            *value = sign * number;
            found = true;
        }
    }
    return found;
}

/* Where the text after the last marker starts; SIZE_MAX without one. */
static size_t after_last_marker(const char *text, size_t n)
{
    static const struct {
        const char *word;
        bool starts_line;
    } markers[] = {{"####", false}, {"\\boxed{", false}, {"A:", true}, {"Answer:", true}, {"answer:", true}};
    for (size_t at = n; at-- > 0;)
        for (size_t m = 0; m < sizeof markers / sizeof *markers; m++) {
            const size_t length = strlen(markers[m].word);
            if (n - at >= length && memcmp(text + at, markers[m].word, length) == 0 &&
                (!markers[m].starts_line || at == 0 || text[at - 1] == '\n'))
                return at + length;
        }
    return SIZE_MAX;
}

static bool number_of(const char *text, size_t n, double *value)
{
    const size_t from = after_last_marker(text, n);
    return from == SIZE_MAX ? find_number(text, n, true, value) : find_number(text + from, n - from, false, value);
}

/* Whole numbers are compared exactly; decimal fractions and quotients need room for rounding. */
static bool same(double a, double b)
{
    if (a == floor(a) && b == floor(b))
        return a == b;
    return fabs(a - b) <= 1e-9 * STM_MAX(1.0, fabs(b));
}

static stm_status check_answer(const stm_reward_item *item, const char *answer)
{
    double value;
    if (number_of(answer, strlen(answer), &value))
        return STM_OK;
    return stm_fail(STM_ERR_INPUT, "answer: found \"%.100s\", expected a number in it, which %s (numeric) compares",
                    answer, item->where);
}

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    size_t start, n;
    double mine, right;
    bool failed;
    if (!number_of(input->answer, strlen(input->answer), &right))
        return stm_complain(complaint, "%s: the answer \"%.100s\" holds no number", item->where, input->answer);
    if (!stm_reward_extract(item, input->text, &start, &n, complaint, &failed))
        return failed ? NAN : 0.0;
    if (!number_of(input->text + start, n, &mine))
        return 0.0;
    return same(mine, right) ? 1.0 : 0.0;
}

const stm_reward_kind stm_reward_numeric = {
    .name = "numeric",
    .reads = STM_READS_EXTRACT,
    .needs_answer = stm_reward_always,
    .check_answer = check_answer,
    .one = score,
};
