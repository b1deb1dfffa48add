#include "reward/formula.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_DEPTH = 48, MOST_DIGITS = 15 };

typedef struct {
    stm_span rest;
    int depth;
    bool failed;
} reader;

typedef stm_formula value;

static value constant(double x)
{
    value v;
    for (size_t k = 0; k < STM_FORMULA_POINTS; k++)
        v.at[k] = x;
    return v;
}

static value fail(reader *r)
{
    r->failed = true;
    return constant(NAN);
}

static char look(reader *r)
{
    while (r->rest.n > 0 && *r->rest.at == ' ')
        r->rest = stm_span_cut(r->rest, 1, r->rest.n);
    return r->rest.n > 0 ? *r->rest.at : 0;
}

static void skip(reader *r, size_t n)
{
    r->rest = stm_span_cut(r->rest, n, r->rest.n);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool take(reader *r, const char *word)
{
    (void)look(r);
    const size_t n = strlen(word);
    if (!stm_span_starts(r->rest, word) || (is_letter(word[n - 1]) && r->rest.n > n && is_letter(r->rest.at[n])))
        return false;
    skip(r, n);
    return true;
}

static value sum(reader *r);

/* Digits with a point and with commas before groups of three; *whole: neither point nor comma. */
static value number(reader *r, bool *whole)
{
    char digits[64];
    size_t n = 0, significant = 0, i = 0;
    bool point = false;
    *whole = true;
    for (; i < r->rest.n && n + 1 < sizeof digits; i++) {
        const char *c = r->rest.at + i;
        const size_t left = r->rest.n - i;
        if (*c == ',' && !point && n > 0 && left > 3 && is_digit(c[1]) && is_digit(c[2]) && is_digit(c[3]) &&
            !(left > 4 && is_digit(c[4]))) {
            *whole = false;
            continue;
        }
        if (*c == '.' && !point && ((left > 1 && is_digit(c[1])) || (n > 0 && left == 1)))
            point = true;
        else if (!is_digit(*c))
            break;
        significant += significant > 0 || (*c >= '1' && *c <= '9');
        digits[n++] = *c;
    }
    digits[n] = 0;
    skip(r, i);
    *whole = *whole && !point;
    return n == 0 || significant > MOST_DIGITS + (size_t)point ? fail(r) : constant(strtod(digits, NULL));
}

static value bracketed(reader *r, const char *close)
{
    const value v = sum(r);
    return take(r, close) ? v : fail(r);
}

/* What \frac, \sqrt and ^ take: a group in braces, or one number or letter; \frac12 takes a digit at a time. */
static value atom(reader *r);
static value argument(reader *r, bool one_digit)
{
    if (take(r, "{"))
        return bracketed(r, "}");
    if (one_digit && is_digit(look(r))) {
        const double digit = *r->rest.at - '0';
        skip(r, 1);
        return constant(digit);
    }
    if (take(r, "-")) {
        value v = atom(r);
        for (size_t k = 0; k < STM_FORMULA_POINTS; k++)
            v.at[k] = -v.at[k];
        return v;
    }
    return atom(r);
}

static value apply(char operation, value a, value b)
{
    for (size_t k = 0; k < STM_FORMULA_POINTS; k++)
        a.at[k] = operation == '+'   ? a.at[k] + b.at[k]
                  : operation == '-' ? a.at[k] - b.at[k]
                  : operation == '*' ? a.at[k] * b.at[k]
                  : operation == '/' ? (b.at[k] == 0.0 ? NAN : a.at[k] / b.at[k])
                                     : pow(a.at[k], b.at[k]);
    return a;
}

static value fraction(reader *r)
{
    const value above = argument(r, true);
    return apply('/', above, argument(r, true));
}

static value root(reader *r)
{
    value degree = constant(2.0);
    if (take(r, "["))
        degree = bracketed(r, "]");
    const value inside = argument(r, false);
    return apply('^', inside, apply('/', constant(1.0), degree));
}

static const struct {
    const char *name;
    double (*of)(double);
} functions[] = {{"\\sin", sin}, {"\\cos", cos},   {"\\tan", tan},     {"\\ln", log},      {"\\log", log10},
                 {"\\exp", exp}, {"\\sinh", sinh}, {"\\arcsin", asin}, {"\\arccos", acos}, {"\\arctan", atan}};

static const char *const greek[] = {"\\alpha", "\\beta", "\\gamma", "\\theta", "\\lambda", "\\phi", "\\omega"};

/* Values of an unknown: two of either sign, which no short formula of others meets by chance. */
static value unknown(unsigned letter)
{
    value v;
    for (size_t k = 0; k < STM_FORMULA_POINTS; k++) {
        const double spread = fmod((letter + 1) * 0.618033988749895 + (double)(k + 1) * 0.414213562373095, 1.0);
        v.at[k] = (k < 2 ? 1.0 : -1.0) * (0.6 + 1.3 * spread);
    }
    return v;
}

static bool named(reader *r, value *v)
{
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (take(r, functions[i].name)) {
            *v = argument(r, false);
            for (size_t k = 0; k < STM_FORMULA_POINTS; k++)
                v->at[k] = functions[i].of(v->at[k]);
            return true;
        }
    for (size_t i = 0; i < sizeof greek / sizeof *greek; i++)
        if (take(r, greek[i])) {
            *v = unknown(128 + (unsigned)i);
            return true;
        }
    return false;
}

static value absolute(reader *r)
{
    value v = bracketed(r, "|");
    for (size_t k = 0; k < STM_FORMULA_POINTS; k++)
        v.at[k] = fabs(v.at[k]);
    return v;
}

/* "1\frac{1}{2}" and "1 1/2" behind a whole number: the fraction is added. */
static value mixed(reader *r, value whole)
{
    const reader before = *r;
    bool plain, below;
    (void)look(r);
    if (stm_span_starts(r->rest, "\\frac")) {
        skip(r, strlen("\\frac"));
        const stm_span inside = r->rest;
        const value part = fraction(r);
        const size_t used = inside.n - r->rest.n;
        for (size_t i = 0; i < used; i++)
            if (!is_digit(inside.at[i]) && !strchr("{} ", inside.at[i])) {
                *r = before;
                return whole;
            }
        return apply('+', whole, part);
    }
    if (!is_digit(look(r)))
        return whole;
    const value above = number(r, &plain);
    if (!plain || !take(r, "/") || !is_digit(look(r)))
        return fail(r);
    const value under = number(r, &below);
    return below ? apply('+', whole, apply('/', above, under)) : fail(r);
}

static value atom_inside(reader *r)
{
    value v;
    bool whole;
    const char c = look(r);
    if (is_digit(c) || c == '.') {
        v = number(r, &whole);
        return whole && !r->failed ? mixed(r, v) : v;
    }
    if (take(r, "("))
        return bracketed(r, ")");
    if (take(r, "["))
        return bracketed(r, "]");
    if (take(r, "{"))
        return bracketed(r, "}");
    if (take(r, "|"))
        return absolute(r);
    if (stm_span_starts(r->rest, "\\frac")) {
        skip(r, strlen("\\frac"));
        return fraction(r);
    }
    if (stm_span_starts(r->rest, "\\sqrt")) {
        skip(r, strlen("\\sqrt"));
        return root(r);
    }
    if (take(r, "\\pi"))
        return constant(3.14159265358979323846);
    if (is_letter(c)) {
        skip(r, 1);
        return c == 'e' ? constant(2.71828182845904523536) : unknown((unsigned char)c);
    }
    return named(r, &v) ? v : fail(r);
}

static value atom(reader *r)
{
    if (++r->depth > MOST_DEPTH) /* \frac\frac\frac.. */
        return fail(r);
    const value v = atom_inside(r);
    r->depth--;
    return v;
}

static value power(reader *r)
{
    value v = atom(r);
    while (!r->failed) {
        if (take(r, "^"))
            return apply('^', v, argument(r, false));
        if (!take(r, "!"))
            break;
        for (size_t k = 0; k < STM_FORMULA_POINTS; k++)
            v.at[k] = v.at[k] >= 0.0 && v.at[k] == floor(v.at[k]) ? tgamma(v.at[k] + 1.0) : NAN;
    }
    return v;
}

static value signed_power(reader *r)
{
    if (take(r, "-"))
        return apply('-', constant(0.0), power(r));
    (void)take(r, "+");
    return power(r);
}

/* Factors side by side are multiplied, but a number never stands behind another factor. */
static value product(reader *r)
{
    value v = signed_power(r);
    while (!r->failed) {
        const char c = look(r);
        if (take(r, "*"))
            v = apply('*', v, signed_power(r));
        else if (take(r, "/"))
            v = apply('/', v, signed_power(r));
        else if (c == '(' || c == '\\' || is_letter(c))
            v = apply('*', v, power(r));
        else
            break;
    }
    return v;
}

static value sum(reader *r)
{
    if (++r->depth > MOST_DEPTH)
        return fail(r);
    value v = product(r);
    while (!r->failed) {
        if (take(r, "+"))
            v = apply('+', v, product(r));
        else if (take(r, "-"))
            v = apply('-', v, product(r));
        else
            break;
    }
    r->depth--;
    return v;
}

/* Three plain letters in a row: a word, not a product of unknowns. */
static bool holds_word(stm_span text)
{
    size_t run = 0;
    for (size_t i = 0; i < text.n; i++) {
        const bool command = text.at[i] == '\\';
        while (command && i + 1 < text.n && is_letter(text.at[i + 1]))
            i++;
        run = !command && is_letter(text.at[i]) ? run + 1 : 0;
        if (run == 3)
            return true;
    }
    return false;
}

bool stm_formula_read(stm_span text, stm_formula *out)
{
    reader r = {.rest = text};
    if (holds_word(text))
        return false;
    *out = sum(&r);
    return !r.failed && look(&r) == 0;
}

static bool same(double a, double b)
{
    if (a == floor(a) && b == floor(b))
        return a == b;
    return fabs(a - b) <= 1e-10 * fmax(fabs(a), fabs(b));
}

bool stm_formula_same(const stm_formula *a, const stm_formula *b)
{
    size_t n_values = 0;
    for (size_t k = 0; k < STM_FORMULA_POINTS; k++) {
        if (isnan(a->at[k]) && isnan(b->at[k]))
            continue;
        if (!isfinite(a->at[k]) || !isfinite(b->at[k]) || !same(a->at[k], b->at[k]))
            return false;
        n_values++;
    }
    return n_values > 0;
}
