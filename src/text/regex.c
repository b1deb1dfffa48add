#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "text/unicode.h"

struct stm_regex {
    pcre2_code *code;  /* NULL: a literal */
    stm_string source; /* the literal */
};

/* The insides of character classes. White_Space; Alphabetic, marks, decimal digits, connectors and Latin-1's numbers.
 */
static const char SPACE[] =
    "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
static const char WORD[] = "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}\\x{24b6}-\\x{24e9}"
                           "\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}";
static const char HEX[] = "0-9A-Fa-f";

/* From Oniguruma to PCRE2 */

typedef struct {
    const char *pattern;
    size_t n, i;
    stm_string out;
    size_t atom;              /* where the last atom begins in `out` */
    size_t groups[64], depth; /* where the open groups begin */
} translation;

static stm_status refuse(const translation *t, const char *what)
{
    return stm_fail(STM_ERR_INPUT, "pattern \"%.*s\": found %s at character %zu, which is not supported", (int)t->n,
                    t->pattern, what, t->i + 1);
}

static stm_status copy(translation *t, size_t n)
{
    const size_t left = t->n - t->i, m = STM_MIN(n, left);
    STM_TRY(stm_string_add(&t->out, t->pattern + t->i, m));
    t->i += m;
    return STM_OK;
}

static char peek(const translation *t, size_t ahead)
{
    return t->i + ahead < t->n ? t->pattern[t->i + ahead] : '\0';
}

/* The members of the class that the escape stands for, or NULL. */
static const char *members_of(char letter)
{
    switch (letter) {
    case 's':
    case 'S':
        return SPACE;
    case 'w':
    case 'W':
        return WORD;
    case 'h':
    case 'H':
        return HEX;
    default:
        return NULL;
    }
}

static stm_status add_members(translation *t, const char *members)
{
    STM_TRY(stm_string_add_text(&t->out, members));
    return members == WORD ? stm_string_add_text(&t->out, stm_unicode_new_word) : STM_OK;
}

static stm_status add_class(translation *t, bool negated, const char *members)
{
    STM_TRY(stm_string_add_text(&t->out, negated ? "[^" : "["));
    STM_TRY(add_members(t, members));
    return stm_string_add_text(&t->out, "]");
}

static stm_status add_boundary(translation *t, bool negated)
{
    const char *const shapes[] = {negated ? "(?:(?<=" : "(?:(?<=", negated ? ")(?=" : ")(?!",
                                  negated ? ")|(?<!" : ")|(?<!", negated ? ")(?!" : ")(?=", "))"};
    for (size_t i = 0; i < 5; i++) {
        STM_TRY(stm_string_add_text(&t->out, shapes[i]));
        if (i < 4)
            STM_TRY(add_class(t, false, WORD));
    }
    return STM_OK;
}

/* What newer versions of Unicode add to a category ("L", "Lu"); 0 bytes for most. */
static stm_status add_new_members(translation *t, const char *category, size_t n)
{
    for (size_t i = 0; i < stm_n_unicode_new; i++)
        if (n && n <= 2 && strncmp(stm_unicode_new[i].category, category, n) == 0)
            STM_TRY(stm_string_add_text(&t->out, stm_unicode_new[i].members));
    return STM_OK;
}

/* "\p{L}" outside of a class becomes "[\p{L}...]", "\P{L}" becomes "[^\p{L}...]"; inside of one the new members follow.
 */
static stm_status translate_property(translation *t, bool in_class)
{
    const char *end = memchr(t->pattern + t->i, '}', t->n - t->i);
    if (!end)
        return refuse(t, "a property without its end");
    const char *name = t->pattern + t->i + 3;
    const size_t n = (size_t)(end - name);
    const bool negated = t->pattern[t->i + 1] == 'P';
    t->i += 4 + n;
    if (!in_class)
        STM_TRY(stm_string_add_text(&t->out, negated ? "[^" : "["));
    STM_TRY(stm_string_add_text(&t->out, in_class && negated ? "\\P{" : "\\p{"));
    STM_TRY(stm_string_add(&t->out, name, n));
    STM_TRY(stm_string_add_text(&t->out, "}"));
    if (!in_class || !negated)
        STM_TRY(add_new_members(t, name, n));
    return in_class ? STM_OK : stm_string_add_text(&t->out, "]");
}

/* Copies "\x{..}", "\uHHHH" and two-character escapes. */
static stm_status copy_escape(translation *t, bool in_class)
{
    const char letter = peek(t, 1);
    if ((letter == 'p' || letter == 'P') && peek(t, 2) == '{')
        return translate_property(t, in_class);
    if (letter == 'u') {
        t->i += 2;
        STM_TRY(stm_string_add_text(&t->out, "\\x{"));
        STM_TRY(copy(t, 4));
        return stm_string_add_text(&t->out, "}");
    }
    STM_TRY(copy(t, 2));
    if (letter == 'x' && peek(t, 0) == '{')
        while (t->i < t->n) {
            const bool last = peek(t, 0) == '}';
            STM_TRY(copy(t, 1));
            if (last)
                break;
        }
    return STM_OK;
}

static stm_status translate_escape(translation *t)
{
    const char letter = peek(t, 1);
    const char *members = members_of(letter);
    t->atom = t->out.n;
    if (members) {
        t->i += 2;
        return add_class(t, letter < 'a', members);
    }
    if (letter == 'b' || letter == 'B') {
        t->i += 2;
        return add_boundary(t, letter == 'B');
    }
    return copy_escape(t, false);
}

static stm_status translate_class(translation *t)
{
    t->atom = t->out.n;
    STM_TRY(copy(t, peek(t, 1) == '^' ? 2 : 1));
    for (bool first = true; t->i < t->n; first = false) {
        const char c = peek(t, 0);
        if (c == ']' && !first)
            return copy(t, 1);
        if (c == '&' && peek(t, 1) == '&')
            return refuse(t, "a class intersection");
        if (c == '[' && peek(t, 1) != ':')
            return refuse(t, "a class inside a class");
        if (c == '[') { /* [:alpha:] */
            while (t->i < t->n && !(peek(t, 0) == ':' && peek(t, 1) == ']'))
                STM_TRY(copy(t, 1));
            STM_TRY(copy(t, 2));
        } else if (c == '\\' && members_of(peek(t, 1)) && peek(t, 1) >= 'a') {
            STM_TRY(add_members(t, members_of(peek(t, 1))));
            t->i += 2;
        } else if (c == '\\' && (peek(t, 1) == 'W' || peek(t, 1) == 'H')) {
            return refuse(t, "a negated class inside a class");
        } else if (c == '\\') {
            STM_TRY(copy_escape(t, true));
        } else {
            STM_TRY(copy(t, 1));
        }
    }
    return STM_OK; /* PCRE2 says that the bracket is missing */
}

/* "(?i:", "(?<name>", "(?m)": Ruby's m is PCRE2's s. */
static stm_status translate_group(translation *t)
{
    if (t->depth == sizeof t->groups / sizeof *t->groups)
        return refuse(t, "too many groups in each other");
    t->groups[t->depth++] = t->out.n;
    STM_TRY(copy(t, 1));
    if (peek(t, 0) != '?')
        return STM_OK;
    STM_TRY(copy(t, 1));
    if (peek(t, 0) == '#')
        return refuse(t, "a comment");
    while (strchr("imx-", peek(t, 0)) && t->i < t->n) {
        if (peek(t, 0) == 'm') {
            STM_TRY(stm_string_add_text(&t->out, "s"));
            t->i++;
        } else {
            STM_TRY(copy(t, 1));
        }
    }
    if (peek(t, 0) == '<' && (peek(t, 1) == '=' || peek(t, 1) == '!'))
        return copy(t, 2);
    return peek(t, 0) && strchr(":=!>", peek(t, 0)) ? copy(t, 1) : STM_OK;
}

/* Length of "{n}", "{n,}", "{,m}" or "{n,m}" at i; 0: a brace that stands for itself. */
static size_t interval_length(const translation *t)
{
    size_t k = 1, digits = 0, commas = 0;
    for (; t->i + k < t->n && peek(t, k) != '}'; k++) {
        digits += peek(t, k) >= '0' && peek(t, k) <= '9';
        commas += peek(t, k) == ',';
    }
    return peek(t, k) == '}' && digits > 0 && commas < 2 && digits + commas == k - 1 ? k + 1 : 0;
}

static stm_status translate_quantifier(translation *t)
{
    const size_t length = peek(t, 0) == '{' ? interval_length(t) : 1;
    const bool interval = peek(t, 0) == '{';
    if (interval && peek(t, 1) == ',') {
        STM_TRY(stm_string_add_text(&t->out, "{0"));
        t->i++;
        STM_TRY(copy(t, length - 1));
    } else {
        STM_TRY(copy(t, length));
    }
    if (interval && peek(t, 0) == '+') { /* greedy once more in Ruby, possessive in PCRE2 */
        STM_TRY(stm_string_add_text(&t->out, "...)"));
        memmove(t->out.bytes + t->atom + 3, t->out.bytes + t->atom, t->out.n - 4 - t->atom);
        memcpy(t->out.bytes + t->atom, "(?:", 3);
        t->out.bytes[t->out.n - 1] = ')';
        return copy(t, 1);
    }
    return peek(t, 0) == '?' || (!interval && peek(t, 0) == '+') ? copy(t, 1) : STM_OK;
}

static stm_status translate(translation *t)
{
    while (t->i < t->n) {
        const char c = peek(t, 0);
        if (c == '\\') {
            STM_TRY(translate_escape(t));
        } else if (c == '[') {
            STM_TRY(translate_class(t));
        } else if (c == '(') {
            STM_TRY(translate_group(t));
        } else if (c == ')') {
            if (t->depth)
                t->atom = t->groups[--t->depth];
            STM_TRY(copy(t, 1));
        } else if (c == '*' || c == '+' || c == '?' || (c == '{' && interval_length(t))) {
            STM_TRY(translate_quantifier(t));
        } else {
            size_t skip;
            bool cut;
            t->atom = t->out.n;
            if (c == '{' || c == '}')
                STM_TRY(stm_string_add_text(&t->out, "\\"));
            const size_t length = stm_utf8_length(t->pattern + t->i, t->n - t->i, &skip, &cut);
            STM_TRY(copy(t, STM_MAX(length, (size_t)1)));
        }
    }
    return STM_OK;
}

/* Compiling and searching */

static stm_status compile(const char *original, size_t n_original, const stm_string *pattern, pcre2_code **code)
{
    int error;
    PCRE2_SIZE offset;
    *code = pcre2_compile((PCRE2_SPTR)pattern->bytes, pattern->n, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error,
                          &offset, NULL);
    if (!*code) {
        PCRE2_UCHAR why[256];
        pcre2_get_error_message(error, why, sizeof why);
        return stm_fail(STM_ERR_INPUT, "pattern \"%.*s\": %s", (int)n_original, original, (const char *)why);
    }
    pcre2_jit_compile(*code, PCRE2_JIT_COMPLETE); /* where there is no JIT the interpreter runs */
    return STM_OK;
}

stm_status stm_regex_create(const char *pattern, size_t n, stm_regex **out)
{
    stm_status status = STM_OK;
    stm_regex *regex = NULL;
    translation t = {.pattern = pattern, .n = n};
    STM_GOTO_OUT(stm_alloc(1, sizeof *regex, &regex));
    STM_GOTO_OUT(translate(&t));
    STM_GOTO_OUT(stm_string_end(&t.out));
    STM_GOTO_OUT(compile(pattern, n, &t.out, &regex->code));
    *out = regex;
    regex = NULL;
out:
    free(t.out.bytes);
    stm_regex_destroy(regex);
    return status;
}

stm_status stm_regex_create_pcre2(const char *pattern, stm_regex **out)
{
    stm_regex *regex;
    STM_TRY(stm_alloc(1, sizeof *regex, &regex));
    const stm_string text = {.bytes = (char *)pattern, .n = strlen(pattern)};
    const stm_status status = compile(pattern, text.n, &text, &regex->code);
    if (status != STM_OK) {
        stm_regex_destroy(regex);
        return status;
    }
    *out = regex;
    return STM_OK;
}

stm_status stm_regex_create_literal(const char *text, size_t n, stm_regex **out)
{
    stm_regex *regex;
    STM_TRY(stm_alloc(1, sizeof *regex, &regex));
    const stm_status status = stm_string_add(&regex->source, text, n);
    if (status != STM_OK) {
        stm_regex_destroy(regex);
        return status;
    }
    *out = regex;
    return STM_OK;
}

void stm_regex_destroy(stm_regex *regex)
{
    if (!regex)
        return;
    pcre2_code_free(regex->code);
    free(regex->source.bytes);
    free(regex);
}

enum { JIT_STACK_BYTES = 64 << 20 };

typedef struct {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack; /* NULL until a match needs more than the 32 KiB of the machine's own */
} match_state;

stm_status stm_search_begin(stm_search *search, const stm_regex *regex)
{
    *search = (stm_search){.regex = regex};
    if (!regex->code)
        return STM_OK;
    match_state *state;
    STM_TRY(stm_alloc(1, sizeof *state, &state));
    search->state = state;
    state->data = pcre2_match_data_create(1, NULL);
    state->context = pcre2_match_context_create(NULL);
    return state->data && state->context ? STM_OK : stm_fail(STM_ERR_MEMORY, "out of memory");
}

void stm_search_text(stm_search *search, const char *text, size_t n)
{
    search->text = text;
    search->n = n;
    search->at = 0;
}

static int match(const stm_search *search, match_state *state)
{
    const PCRE2_SPTR text = (PCRE2_SPTR)search->text;
    int code =
        pcre2_match(search->regex->code, text, search->n, search->at, PCRE2_NO_UTF_CHECK, state->data, state->context);
    if (code == PCRE2_ERROR_JIT_STACKLIMIT && !state->stack) {
        state->stack = pcre2_jit_stack_create(32 << 10, JIT_STACK_BYTES, NULL);
        pcre2_jit_stack_assign(state->context, NULL, state->stack);
        code = pcre2_match(search->regex->code, text, search->n, search->at, PCRE2_NO_UTF_CHECK, state->data,
                           state->context);
    }
    return code;
}

static bool find_literal(stm_search *search, size_t *start, size_t *end)
{
    const stm_string *source = &search->regex->source;
    if (source->n == 0 || search->at >= search->n)
        return false;
    const char *found = memmem(search->text + search->at, search->n - search->at, source->bytes, source->n);
    if (!found)
        return false;
    *start = (size_t)(found - search->text);
    *end = search->at = *start + source->n;
    return true;
}

stm_status stm_search_next(stm_search *search, bool *found, size_t *start, size_t *end)
{
    if (!search->regex->code) {
        *found = find_literal(search, start, end);
        return STM_OK;
    }
    match_state *state = search->state;
    *found = false;
    if (search->at > search->n)
        return STM_OK;
    const int code = match(search, state);
    if (code == PCRE2_ERROR_NOMATCH)
        return STM_OK;
    if (code < 0)
        return stm_fail(STM_ERR_INPUT, "a pattern needs too much memory or time on this text (PCRE2 error %d)", code);
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(state->data);
    *found = true;
    *start = ends[0];
    *end = search->at = ends[1];
    if (*start == *end) {
        size_t skip;
        bool cut;
        search->at += *end < search->n
                          ? STM_MAX(stm_utf8_length(search->text + *end, search->n - *end, &skip, &cut), (size_t)1)
                          : 1;
    }
    return STM_OK;
}

void stm_search_end(stm_search *search)
{
    match_state *state = search->state;
    if (!state)
        return;
    pcre2_match_data_free(state->data);
    pcre2_match_context_free(state->context);
    pcre2_jit_stack_free(state->stack);
    free(state);
    search->state = NULL;
}
