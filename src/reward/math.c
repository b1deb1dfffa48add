/* The response's final answer equals the prompt's: 1 or 0. The final answer of a text is what `extract` takes, then
 * the last \boxed{..}, or the rest of the line behind the last "####", "Answer:", "answer is" or "A:" at the start of a
 * line, else all of it. Read are numbers (1,234.5, -3/4, 1\frac{1}{2}, 50\%), formulas (formula.h), units (12 cm = 0.12
 * m), lists and sets in any order, tuples and intervals, choices ("(C)" is "C") and words. What these rules cannot
 * decide counts as not equal: matrices, inequalities, \pm, numbers of more than 15 digits that are written differently,
 * and rounded decimals (0.333 is not 1/3). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "reward/kinds.h"
#include "reward/quantity.h"

enum { MOST_PARTS = 64 };

/* One way to write what LaTeX and plain text write in several; longer ones before their beginnings. */
static const struct {
    const char *from, *to;
} spellings[] = {
    {"\\left", ""},
    {"\\right", ""},
    {"\\displaystyle", ""},
    {"\\dfrac", "\\frac"},
    {"\\tfrac", "\\frac"},
    {"\\cfrac", "\\frac"},
    {"\\mathrm", "\\text"},
    {"\\textbf", "\\text"},
    {"\\textit", "\\text"},
    {"\\mathbf", "\\text"},
    {"\\mbox", "\\text"},
    {"\\operatorname", "\\text"},
    {"\\cdot", "*"},
    {"\\times", "*"},
    {"\\div", "/"},
    {"\\%", "%"},
    {"\\!", ""},
    {"\\,", " "},
    {"\\;", " "},
    {"\\:", " "},
    {"\\ ", " "},
    {"~", " "},
    {"{,}", ","},
    {"^{\\circ}", " degree"},
    {"^\\circ", " degree"},
    {"\u00B0", " degree"},
    {"\u2212", "-"},
    {"\u00D7", "*"},
    {"\u00B7", "*"},
    {"\u00F7", "/"},
    {"\u03C0", "\\pi "},
    {"\u221A", "\\sqrt"},
    {"\\(", ""},
    {"\\)", ""},
    {"\\[", ""},
    {"\\]", ""},
    {"\\$", "\\$"},
    {"$", ""},
    {"**", "^"},
    {"\n", " "},
};

/* `out` has room for four times the text and one byte: a degree sign grows the most. */
static void spell(stm_span text, char *out)
{
    for (size_t i = 0; i < text.n;) {
        size_t s = 0;
        const size_t n_spellings = sizeof spellings / sizeof *spellings;
        while (s < n_spellings && !stm_span_starts(stm_span_cut(text, i, text.n), spellings[s].from))
            s++;
        if (s == n_spellings) {
            *out++ = text.at[i++];
            continue;
        }
        memcpy(out, spellings[s].to, strlen(spellings[s].to));
        out += strlen(spellings[s].to);
        i += strlen(spellings[s].from);
    }
    *out = 0;
}

/* Inside the braces of the last \boxed or \fbox. False: there is none, or it is not closed. */
static bool last_box(stm_span text, stm_span *inside)
{
    for (size_t at = text.n; at-- > 0;) {
        const stm_span rest = stm_span_cut(text, at, text.n);
        if (!stm_span_starts(rest, "\\boxed{") && !stm_span_starts(rest, "\\fbox{"))
            continue;
        const size_t first = stm_span_find(rest, "{", 0) + 1;
        size_t depth = 1;
        for (size_t end = first; end < rest.n; end++) {
            const bool escaped = rest.at[end - 1] == '\\';
            depth += rest.at[end] == '{' && !escaped;
            depth -= rest.at[end] == '}' && !escaped;
            if (depth == 0) {
                *inside = stm_span_cut(rest, first, end);
                return true;
            }
        }
        return false;
    }
    return false;
}

static stm_span final_answer(stm_span text)
{
    static const char *const marks[] = {"####", "Answer:", "answer:", "answer is:", "answer is", "\nA:"};
    stm_span inside;
    if (last_box(text, &inside))
        return inside;
    for (size_t at = text.n; at-- > 0;)
        for (size_t m = 0; m < sizeof marks / sizeof *marks; m++)
            if (stm_span_starts(stm_span_cut(text, at, text.n), marks[m])) {
                const size_t first = at + strlen(marks[m]), end = stm_span_find(text, "\n", first);
                return stm_span_cut(text, first, end == STM_NOWHERE ? text.n : end);
            }
    return stm_span_starts(text, "A:") ? stm_span_cut(text, 2, text.n) : text;
}

/* An answer in parts: one quantity, or several with what is around them. */
typedef struct {
    size_t n;
    stm_quantity parts[MOST_PARTS];
    char open, close; /* of a tuple or interval; '{' of a set, 0 of a bare list */
} reading;

static bool is_group_comma(stm_span text, size_t at)
{
    size_t digits = 0;
    while (at + 1 + digits < text.n && text.at[at + 1 + digits] >= '0' && text.at[at + 1 + digits] <= '9')
        digits++;
    return at > 0 && text.at[at - 1] >= '0' && text.at[at - 1] <= '9' && digits == 3;
}

/* Bytes of what separates two parts at `at`; 0: nothing does. Inside brackets every comma separates. */
static size_t separator(stm_span text, size_t at, bool bracketed)
{
    static const char *const words[] = {" and ", " or ", "\\text{ and }", "\\text{ or }", "\\text{and}", "\\text{or}"};
    if (text.at[at] == ';' || (text.at[at] == ',' && (bracketed || !is_group_comma(text, at))))
        return 1;
    for (size_t w = 0; w < sizeof words / sizeof *words; w++)
        if (stm_span_starts(stm_span_cut(text, at, text.n), words[w]))
            return strlen(words[w]);
    return 0;
}

static bool split(stm_span text, bool bracketed, reading *r)
{
    size_t first = 0;
    int depth = 0;
    for (size_t at = 0; at < text.n; at++) {
        const size_t skip = depth == 0 ? separator(text, at, bracketed) : 0;
        depth += (strchr("([{", text.at[at]) != NULL) - (strchr(")]}", text.at[at]) != NULL);
        if (skip == 0)
            continue;
        if (r->n + 2 > MOST_PARTS)
            return false;
        if (stm_span_strip(stm_span_cut(text, first, at)).n > 0) /* "1, 2, and 3" */
            stm_quantity_read(stm_span_cut(text, first, at), &r->parts[r->n++]);
        first = at + skip;
        at = first - 1;
        depth = 0;
    }
    stm_quantity_read(stm_span_cut(text, first, text.n), &r->parts[r->n++]);
    return true;
}

/* The bracket that opens at the start closes at the very end. */
static bool is_enclosed(stm_span text)
{
    int depth = 0;
    for (size_t at = 0; at < text.n; at++) {
        depth += (strchr("([{", text.at[at]) != NULL) - (strchr(")]}", text.at[at]) != NULL);
        if (depth == 0)
            return at > 0 && at + 1 == text.n;
    }
    return false;
}

/* Without "x =" in front, and a full stop behind. */
static stm_span bare(stm_span text)
{
    text = stm_span_strip(text);
    const size_t equals = stm_span_find(text, "=", 0);
    if (equals != STM_NOWHERE && stm_span_find(text, "=", equals + 1) == STM_NOWHERE) {
        const stm_span name = stm_span_strip(stm_span_cut(text, 0, equals));
        if (name.n == 1 || (name.n == 4 && stm_span_starts(stm_span_cut(name, 1, 4), "(x)")))
            text = stm_span_cut(text, equals + 1, text.n);
    }
    text = stm_span_strip(text);
    if (text.n > 1 && text.at[text.n - 1] == '.')
        text.n--;
    return stm_span_strip(text);
}

static bool read_answer(stm_span text, reading *r)
{
    text = bare(text);
    r->n = 0;
    r->open = r->close = 0;
    if (stm_span_starts(text, "\\{") && text.n >= 4 && stm_span_is(stm_span_cut(text, text.n - 2, text.n), "\\}")) {
        r->open = r->close = '{';
        return split(stm_span_cut(text, 2, text.n - 2), true, r);
    }
    if (text.n > 2 && (*text.at == '(' || *text.at == '[') && is_enclosed(text)) {
        if (!split(stm_span_cut(text, 1, text.n - 1), true, r))
            return false;
        if (r->n > 1) {
            r->open = *text.at;
            r->close = text.at[text.n - 1];
            return true;
        }
        r->n = 0;
    }
    return split(text, false, r);
}

/* Each part of one has its own equal among the other's. */
static bool same_in_any_order(const reading *a, const reading *b)
{
    bool used[MOST_PARTS] = {false};
    for (size_t i = 0; i < a->n; i++) {
        size_t j = 0;
        while (j < b->n && (used[j] || !stm_quantity_same(&a->parts[i], &b->parts[j])))
            j++;
        if (j == b->n)
            return false;
        used[j] = true;
    }
    return true;
}

static bool same(const reading *a, const reading *b)
{
    const bool loose_a = a->open == 0 || a->open == '{', loose_b = b->open == 0 || b->open == '{';
    if (a->n != b->n || loose_a != loose_b)
        return false;
    if (loose_a)
        return same_in_any_order(a, b);
    bool all = a->open == b->open && a->close == b->close;
    for (size_t i = 0; all && i < a->n; i++)
        all = stm_quantity_same(&a->parts[i], &b->parts[i]);
    return all;
}

static stm_status compare(stm_span mine, stm_span right, bool *equal)
{
    stm_status status = STM_OK;
    char *spelled = NULL;
    reading *readings = NULL; /* [2] */
    STM_GOTO_OUT(stm_alloc(4 * (mine.n + right.n) + 2, 1, &spelled));
    STM_GOTO_OUT(stm_alloc(2, sizeof *readings, &readings));
    char *second = spelled + 4 * mine.n + 1;
    spell(mine, spelled);
    spell(right, second);
    *equal = read_answer(stm_span_of(spelled), &readings[0]) && read_answer(stm_span_of(second), &readings[1]) &&
             same(&readings[0], &readings[1]);
out:
    free(readings);
    free(spelled);
    return status;
}

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    size_t start, n;
    bool failed, equal = false;
    if (!stm_reward_extract(item, input->text, &start, &n, complaint, &failed))
        return failed ? NAN : 0.0;
    const stm_span mine = final_answer((stm_span){input->text + start, n});
    if (compare(mine, final_answer(stm_span_of(input->answer)), &equal) != STM_OK)
        return stm_complain(complaint, "%s: %s", item->where, stm_failure());
    return equal ? 1.0 : 0.0;
}

const stm_reward_kind stm_reward_math = {
    .name = "math",
    .reads = STM_READS_EXTRACT,
    .needs_answer = stm_reward_always,
    .one = score,
};
