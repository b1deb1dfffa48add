#include "text/pretokenize.h"

#include <stdlib.h>
#include <string.h>

#include "text/normalize.h"
#include "text/unicode.h"

typedef struct stage stage;

struct stage {
    stm_status (*apply)(const stage *step, stm_pieces *in, stm_pieces *out);
    stm_regex *regex; /* NULL: nothing is cut */
    stm_words words;  /* the same pattern, if it is one that is matched by hand */
    stm_split_behavior behavior;
    bool invert;            /* the matches are what is kept */
    bool add_prefix_space;  /* ByteLevel */
    stm_string replacement; /* Metaspace */
    stm_prepend_scheme scheme;
};

struct stm_pretokenizer {
    stage *steps;
    size_t n, capacity;
};

/* The steps */

static stm_status cut_words(const stage *step, const stm_pieces *in, stm_piece piece, stm_pieces *out)
{
    const char *text = in->text.bytes + piece.start;
    for (size_t at = 0, end; at < piece.n; at = end) {
        end = stm_words_end(step->words, text, piece.n, at);
        STM_TRY(stm_pieces_add(out, (stm_piece){piece.start + at, end - at, -1, piece.first && at == 0}));
    }
    return STM_OK;
}

/* Every cut is of a piece of `in`, whose text `out` takes over. */
static stm_status apply_split(const stage *step, stm_pieces *in, stm_pieces *out)
{
    stm_status status = STM_OK;
    stm_stretches stretches = {0};
    stm_search search;
    STM_GOTO_OUT(stm_search_begin(&search, step->regex));
    for (size_t i = 0; i < in->n; i++) {
        const stm_piece piece = in->items[i];
        if (piece.id >= 0) {
            STM_GOTO_OUT(stm_pieces_add(out, piece));
            continue;
        }
        if (step->words) {
            STM_GOTO_OUT(cut_words(step, in, piece, out));
            continue;
        }
        STM_GOTO_OUT(stm_stretches_find(&stretches, &search, in->text.bytes + piece.start, piece.n));
        for (size_t k = 0; k < stretches.n && step->invert; k++)
            stretches.items[k].match = !stretches.items[k].match;
        STM_GOTO_OUT(stm_pieces_split(out, piece, &stretches, step->behavior));
    }
    const stm_string text = in->text;
    in->text = out->text;
    out->text = text;
out:
    stm_search_end(&search);
    free(stretches.items);
    return status;
}

/* Rewrites the text of each piece, then lets apply_split cut it. */
static stm_status apply_metaspace(const stage *step, stm_pieces *in, stm_pieces *out)
{
    stm_status status = STM_OK;
    stm_pieces spelled = {0};
    const stm_string *mark = &step->replacement;
    for (size_t i = 0; i < in->n; i++) {
        stm_piece piece = in->items[i];
        const char *text = in->text.bytes + piece.start;
        const size_t n = piece.n;
        piece.start = spelled.text.n;
        const bool wanted = step->scheme == STM_PREPEND_ALWAYS || (step->scheme == STM_PREPEND_FIRST && piece.first);
        const bool there = n && (text[0] == ' ' || (n >= mark->n && memcmp(text, mark->bytes, mark->n) == 0));
        if (piece.id < 0 && n && wanted && !there)
            STM_GOTO_OUT(stm_string_add(&spelled.text, mark->bytes, mark->n));
        for (size_t k = 0; piece.id < 0 && k < n;) {
            const char *space = memchr(text + k, ' ', n - k);
            const size_t end = space ? (size_t)(space - text) : n;
            STM_GOTO_OUT(stm_string_add(&spelled.text, text + k, end - k));
            if (space)
                STM_GOTO_OUT(stm_string_add(&spelled.text, mark->bytes, mark->n));
            k = end + 1;
        }
        piece.n = spelled.text.n - piece.start;
        STM_GOTO_OUT(stm_pieces_add(&spelled, piece));
    }
    if (step->regex)
        STM_GOTO_OUT(apply_split(step, &spelled, out));
    else
        stm_pieces_swap(&spelled, out);
out:
    stm_pieces_free(&spelled);
    return status;
}

static stm_status add_space(stm_pieces *in, stm_pieces *out)
{
    for (size_t i = 0; i < in->n; i++) {
        const stm_piece piece = in->items[i];
        const char *text = in->text.bytes + piece.start;
        const bool add = piece.id < 0 && piece.n && text[0] != ' ';
        const size_t start = out->text.n;
        if (add)
            STM_TRY(stm_string_add_text(&out->text, " "));
        STM_TRY(stm_string_add(&out->text, text, piece.n));
        STM_TRY(stm_pieces_add(out, (stm_piece){start, out->text.n - start, piece.id, piece.first}));
    }
    return STM_OK;
}

static stm_status spell_bytes(const stm_pieces *in, stm_pieces *out)
{
    for (size_t i = 0; i < in->n; i++) {
        const stm_piece piece = in->items[i];
        const size_t start = out->text.n;
        if (piece.id < 0)
            STM_TRY(stm_add_byte_level(&out->text, in->text.bytes + piece.start, piece.n));
        STM_TRY(stm_pieces_add(out, (stm_piece){start, out->text.n - start, piece.id, piece.first}));
    }
    return STM_OK;
}

static stm_status apply_byte_level(const stage *step, stm_pieces *in, stm_pieces *out)
{
    stm_status status = STM_OK;
    stm_pieces spaced = {0}, cut = {0};
    stm_pieces_swap(in, &spaced);
    if (step->add_prefix_space) {
        stm_pieces_swap(in, &spaced);
        STM_GOTO_OUT(add_space(in, &spaced));
    }
    if (step->regex)
        STM_GOTO_OUT(apply_split(step, &spaced, &cut));
    else
        stm_pieces_swap(&spaced, &cut);
    STM_GOTO_OUT(spell_bytes(&cut, out));
out:
    stm_pieces_free(&spaced);
    stm_pieces_free(&cut);
    return status;
}

/* Reading them */

static stm_status regex_of(const char *pattern, stage *step)
{
    return stm_regex_create(pattern, strlen(pattern), &step->regex);
}

static stm_status read_byte_level(const json_t *json, stage *step)
{
    bool use_regex;
    STM_TRY(stm_json_bool(json, "add_prefix_space", true, &step->add_prefix_space));
    STM_TRY(stm_json_bool(json, "use_regex", true, &use_regex));
    if (!use_regex)
        return STM_OK;
    STM_TRY(stm_words_find(stm_words_gpt2_pattern, strlen(stm_words_gpt2_pattern), &step->words));
    return regex_of(stm_words_gpt2_pattern, step);
}

static stm_status read_behavior(const json_t *json, stage *step)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name;
    size_t n;
    STM_TRY(stm_json_string(json, "behavior", "Isolated", &name, &n));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) {
            step->behavior = (stm_split_behavior)i;
            return STM_OK;
        }
    return stm_fail(
        STM_ERR_INPUT,
        "behavior: found \"%s\", expected Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous", name);
}

static stm_status read_split(const json_t *json, stage *step)
{
    STM_TRY(read_behavior(json, step));
    STM_TRY(stm_json_bool(json, "invert", false, &step->invert));
    STM_TRY(stm_pattern_of(json, &step->regex));
    /* Where everything matches, these two behaviours keep the matches, whole. */
    const json_t *pattern = json_object_get(json_object_get(json, "pattern"), "Regex");
    const bool matches = step->invert ? step->behavior == STM_SPLIT_REMOVED : step->behavior == STM_SPLIT_ISOLATED;
    return pattern && matches ? stm_words_find(json_string_value(pattern), json_string_length(pattern), &step->words)
                              : STM_OK;
}

stm_status stm_metaspace_read(const json_t *json, stm_string *replacement, stm_prepend_scheme *scheme)
{
    static const char *const names[] = {"always", "first", "never"};
    const char *text, *name;
    size_t n, length;
    bool space;
    STM_TRY(stm_json_string(json, "replacement", "\xE2\x96\x81", &text, &n));
    if (n == 0 || (stm_utf8_point(text, n, &length), length != n))
        return stm_fail(STM_ERR_INPUT, "replacement: found \"%s\", expected one character", text);
    STM_TRY(stm_string_add(replacement, text, n));
    STM_TRY(stm_json_bool(json, "add_prefix_space", true, &space));
    STM_TRY(stm_json_string(json, "prepend_scheme", space ? "always" : "never", &name, &n));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) {
            *scheme = (stm_prepend_scheme)i;
            return STM_OK;
        }
    return stm_fail(STM_ERR_INPUT, "prepend_scheme: found \"%s\", expected always, first or never", name);
}

static stm_status read_metaspace(const json_t *json, stage *step)
{
    bool split;
    STM_TRY(stm_metaspace_read(json, &step->replacement, &step->scheme));
    STM_TRY(stm_json_bool(json, "split", true, &split));
    return split ? stm_regex_create_literal(step->replacement.bytes, step->replacement.n, &step->regex) : STM_OK;
}

/* A pattern in which each @ is replaced. */
static stm_status regex_with(const char *pattern, const char *members, stage *step)
{
    stm_string text = {0};
    stm_status status = STM_OK;
    for (const char *c = pattern; *c && status == STM_OK; c++)
        status = *c == '@' ? stm_string_add_text(&text, members) : stm_string_add(&text, c, 1);
    if (status == STM_OK && (status = stm_string_end(&text)) == STM_OK)
        status = stm_regex_create_pcre2(text.bytes, &step->regex);
    free(text.bytes);
    return status;
}

/* Word characters as UTS 18 has them: Alphabetic, marks, decimal digits, connectors, joiners. */
#define WORD                                                                                                           \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}"                   \
    "\\x{1f170}-\\x{1f189}\\x{200c}\\x{200d}@"

#define SPACE "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

static stm_status read_whitespace(const json_t *json, stage *step)
{
    (void)json;
    return regex_with("[" WORD "]+|[^" WORD SPACE "]+", stm_unicode_new_word, step);
}

static stm_status read_whitespace_split(const json_t *json, stage *step)
{
    (void)json;
    return regex_of("\\s", step);
}

static stm_status read_digits(const json_t *json, stage *step)
{
    bool individual;
    STM_TRY(stm_json_bool(json, "individual_digits", false, &individual));
    step->behavior = individual ? STM_SPLIT_ISOLATED : STM_SPLIT_CONTIGUOUS;
    return regex_with("[\\p{N}@]", stm_unicode_new_number, step);
}

static const char PUNCTUATION[] = "(?![@])[!-/:-\\x40\\[-`{-~\\p{P}\\x{166d}\\x{111c9}]";

static stm_status read_punctuation(const json_t *json, stage *step)
{
    STM_TRY(read_behavior(json, step));
    return regex_with(PUNCTUATION, stm_unicode_new_punctuation, step);
}

static stm_status read_bert_punctuation(const json_t *json, stage *step)
{
    (void)json;
    return regex_with(PUNCTUATION, stm_unicode_new_punctuation, step);
}

static stm_status read_delimiter(const json_t *json, stage *step)
{
    const char *text;
    size_t n;
    STM_TRY(stm_json_string(json, "delimiter", NULL, &text, &n));
    return n ? stm_regex_create_literal(text, n, &step->regex)
             : stm_fail(STM_ERR_INPUT, "delimiter: found nothing, expected a character");
}

static const struct {
    const char *type;
    stage step;
    stm_status (*read)(const json_t *json, stage *step);
} kinds[] = {
    {"ByteLevel", {.apply = apply_byte_level, .behavior = STM_SPLIT_ISOLATED}, read_byte_level},
    {"Split", {.apply = apply_split}, read_split},
    {"Metaspace", {.apply = apply_metaspace, .behavior = STM_SPLIT_MERGED_WITH_NEXT}, read_metaspace},
    {"Whitespace", {.apply = apply_split, .behavior = STM_SPLIT_REMOVED, .invert = true}, read_whitespace},
    {"WhitespaceSplit", {.apply = apply_split, .behavior = STM_SPLIT_REMOVED}, read_whitespace_split},
    {"BertPreTokenizer", {.apply = apply_split, .behavior = STM_SPLIT_REMOVED}, read_whitespace_split}, /* two steps */
    {"BertPreTokenizer", {.apply = apply_split, .behavior = STM_SPLIT_ISOLATED}, read_bert_punctuation},
    {"Digits", {.apply = apply_split}, read_digits},
    {"Punctuation", {.apply = apply_split}, read_punctuation},
    {"CharDelimiterSplit", {.apply = apply_split, .behavior = STM_SPLIT_REMOVED}, read_delimiter},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static stm_status add_steps(stm_pretokenizer *pretokenizer, const json_t *json)
{
    const char *type;
    bool known = false;
    STM_TRY(stm_json_type(json, &type));
    if (strcmp(type, "Sequence") == 0) {
        json_t *list;
        STM_TRY(stm_json_array(json, "pretokenizers", &list));
        for (size_t i = 0; i < json_array_size(list); i++)
            STM_TRY(add_steps(pretokenizer, json_array_get(list, i)));
        return STM_OK;
    }
    for (size_t k = 0; k < N_KINDS; k++) {
        if (strcmp(type, kinds[k].type) != 0)
            continue;
        known = true;
        STM_TRY(stm_reserve(&pretokenizer->steps, &pretokenizer->capacity, pretokenizer->n + 1,
                            sizeof *pretokenizer->steps));
        stage *added = &pretokenizer->steps[pretokenizer->n++];
        *added = kinds[k].step;
        STM_TRY(kinds[k].read(json, added));
    }
    return known ? STM_OK : stm_fail(STM_ERR_INPUT, "type: found \"%s\", which is not supported", type);
}

stm_status stm_pretokenizer_create(const json_t *json, stm_pretokenizer **out)
{
    stm_pretokenizer *pretokenizer;
    STM_TRY(stm_alloc(1, sizeof *pretokenizer, &pretokenizer));
    if (json && !json_is_null(json)) {
        const stm_status status = add_steps(pretokenizer, json);
        if (status != STM_OK) {
            stm_pretokenizer_destroy(pretokenizer);
            return stm_fail_context(status, "pre_tokenizer");
        }
    }
    *out = pretokenizer;
    return STM_OK;
}

void stm_pretokenizer_destroy(stm_pretokenizer *pretokenizer)
{
    if (!pretokenizer)
        return;
    for (size_t i = 0; i < pretokenizer->n; i++) {
        stm_regex_destroy(pretokenizer->steps[i].regex);
        free(pretokenizer->steps[i].replacement.bytes);
    }
    free(pretokenizer->steps);
    free(pretokenizer);
}

bool stm_pretokenizer_is_words(const stm_pretokenizer *pretokenizer, stm_words *words, bool *bytes)
{
    if (pretokenizer->n == 0 || pretokenizer->n > 2)
        return false;
    const stage *first = pretokenizer->steps, *last = first + pretokenizer->n - 1;
    if (!first->words || first->add_prefix_space)
        return false;
    if (first != last && (last->apply != apply_byte_level || last->regex || last->add_prefix_space))
        return false;
    *words = first->words;
    *bytes = last->apply == apply_byte_level;
    return true;
}

stm_status stm_pretokenizer_apply(const stm_pretokenizer *pretokenizer, bool plain, stm_pieces *pieces)
{
    stm_status status = STM_OK;
    stm_pieces next = {0};
    for (size_t i = 0; i < pretokenizer->n; i++) {
        stage step = pretokenizer->steps[i];
        if (plain)
            step.words = STM_WORDS_UNKNOWN;
        stm_pieces_reset(&next);
        STM_GOTO_OUT(step.apply(&step, pieces, &next));
        stm_pieces_swap(pieces, &next);
    }
out:
    stm_pieces_free(&next);
    return status;
}
