#include "reward/quantity.h"

#include <math.h>
#include <string.h>

static const struct {
    const char *name, *kind;
    double factor;
} units[] = {
    {"mm", "length", 1e-3},
    {"cm", "length", 1e-2},
    {"dm", "length", 0.1},
    {"m", "length", 1},
    {"km", "length", 1e3},
    {"millimeter", "length", 1e-3},
    {"centimeter", "length", .01},
    {"meter", "length", 1},
    {"kilometer", "length", 1e3},
    {"in", "length", 0.0254},
    {"inch", "length", 0.0254},
    {"inche", "length", 0.0254},
    {"ft", "length", 0.3048},
    {"foot", "length", 0.3048},
    {"feet", "length", 0.3048},
    {"yard", "length", 0.9144},
    {"mile", "length", 1609.344},
    {"mg", "mass", 1e-3},
    {"g", "mass", 1},
    {"kg", "mass", 1e3},
    {"gram", "mass", 1},
    {"kilogram", "mass", 1e3},
    {"s", "time", 1},
    {"sec", "time", 1},
    {"second", "time", 1},
    {"min", "time", 60},
    {"minute", "time", 60},
    {"h", "time", 3600},
    {"hr", "time", 3600},
    {"hour", "time", 3600},
    {"day", "time", 86400},
    {"week", "time", 604800},
    {"ml", "volume", 1e-3},
    {"l", "volume", 1},
    {"liter", "volume", 1},
    {"cent", "money", 0.01},
    {"dollar", "money", 1},
    {"degree", "angle", 1},
    {"rad", "angle", 57.29577951308232},
};

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* "Square inches" of a unit's words: lower case, without spaces, braces and \text, and without a plural's s. */
static void spell_unit(stm_span words, stm_quantity *q)
{
    size_t n = 0;
    words = stm_span_strip(words);
    for (size_t i = 0; i < words.n && n + 1 < sizeof q->unit; i++) {
        const char c = words.at[i];
        if (stm_span_starts(stm_span_cut(words, i, words.n), "\\text"))
            i += strlen("\\text") - 1;
        else if (!strchr("{} .", c))
            q->unit[n++] = (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    }
    q->power = 1;
    if (n > 2 && q->unit[n - 2] == '^' && (q->unit[n - 1] == '2' || q->unit[n - 1] == '3')) {
        q->power = q->unit[n - 1] - '0';
        n -= 2;
    }
    if (n > 2 && q->unit[n - 1] == 's')
        n--;
    q->unit[n] = 0;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcmp(units[i].name, q->unit) == 0) {
            q->kind = units[i].kind;
            q->factor = pow(units[i].factor, q->power);
        }
}

/* Where the unit of "12 cm^2" or "12\text{ apples}" starts: behind a value, a word of several letters, or of one after
 * a space. text.n: there is none. */
static size_t unit_start(stm_span text)
{
    for (size_t i = 1; i < text.n; i++) {
        const char before = text.at[i - 1];
        const bool value_ends = before == ' ' || before == '}' || before == ')' || (before >= '0' && before <= '9');
        const stm_span rest = stm_span_cut(text, i, text.n);
        if (!value_ends)
            continue;
        if (stm_span_starts(rest, "\\text"))
            return i;
        if (is_letter(*rest.at) && ((rest.n > 1 && is_letter(rest.at[1])) || (before == ' ' && rest.n == 1)))
            return i;
    }
    return text.n;
}

/* Without \text{..} around all of it, and without the brackets of a choice "(C)". */
static stm_span unwrap(stm_span text)
{
    stm_span inside;
    text = stm_span_strip(text);
    if (stm_span_starts(text, "\\text{") && stm_span_find(text, "}", 0) == text.n - 1 &&
        stm_span_between(text, "{", "}", &inside))
        text = stm_span_strip(inside);
    if (text.n == 3 && text.at[0] == '(' && is_letter(text.at[1]) && text.at[2] == ')')
        text = stm_span_cut(text, 1, 2);
    return text;
}

void stm_quantity_read(stm_span text, stm_quantity *out)
{
    *out = (stm_quantity){.text = unwrap(text), .factor = 1.0, .power = 1};
    stm_span rest = out->text;
    const bool negative = stm_span_starts(rest, "-\\$");
    if (negative || stm_span_starts(rest, "\\$")) {
        spell_unit(stm_span_of("dollar"), out);
        rest = stm_span_strip(stm_span_cut(rest, negative ? 3 : 2, rest.n));
    }
    const size_t start = unit_start(rest);
    if (start < rest.n) {
        stm_quantity with_unit = *out;
        spell_unit(stm_span_cut(rest, start, rest.n), &with_unit);
        if (with_unit.kind || !stm_formula_read(rest, &out->formula)) { /* "5 m" is a length, "5x" a product */
            *out = with_unit;
            rest = stm_span_cut(rest, 0, start);
        }
    }
    if (strcmp(out->unit, "percent") == 0) {
        out->is_percent = true;
        out->unit[0] = 0;
    }
    rest = stm_span_strip(rest);
    if (rest.n > 0 && rest.at[rest.n - 1] == '%') {
        out->is_percent = true;
        rest.n--;
    }
    out->is_formula = stm_formula_read(rest, &out->formula);
    for (size_t k = 0; negative && k < STM_FORMULA_POINTS; k++)
        out->formula.at[k] = -out->formula.at[k];
}

static stm_formula times(stm_formula formula, double factor)
{
    for (size_t k = 0; k < STM_FORMULA_POINTS; k++)
        formula.at[k] *= factor;
    return formula;
}

static bool same_formula(const stm_quantity *a, const stm_quantity *b)
{
    if (stm_formula_same(&a->formula, &b->formula))
        return true;
    if (a->is_percent == b->is_percent)
        return false;
    const stm_formula x = a->is_percent ? times(a->formula, 0.01) : a->formula;
    const stm_formula y = b->is_percent ? times(b->formula, 0.01) : b->formula;
    return stm_formula_same(&x, &y);
}

bool stm_quantity_same(const stm_quantity *a, const stm_quantity *b)
{
    if (a->text.n > 0 && stm_span_same(a->text, b->text))
        return true;
    if (!a->is_formula || !b->is_formula)
        return false;
    if (a->unit[0] == 0 || b->unit[0] == 0)
        return same_formula(a, b);
    if (strcmp(a->unit, b->unit) == 0)
        return a->power == b->power && same_formula(a, b);
    if (!a->kind || !b->kind || strcmp(a->kind, b->kind) != 0 || a->power != b->power)
        return false;
    const stm_formula x = times(a->formula, a->factor), y = times(b->formula, b->factor);
    return stm_formula_same(&x, &y);
}
