#include "text/normalize.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "text/unicode.h"

typedef struct stage stage;

struct stage {
    stm_status (*apply)(const stage *step, const stm_string *text, stm_string *out);
    int form;           /* utf8proc options */
    bool left, right;   /* Strip */
    stm_regex *regex;   /* Replace */
    stm_string content; /* Replace, Prepend */
};

struct stm_normalizer {
    stage *steps;
    size_t n, capacity;
};

/* The steps */

static bool is_ascii(const stm_string *text)
{
    uint8_t all = 0;
    for (size_t i = 0; i < text->n; i++)
        all |= (uint8_t)text->bytes[i];
    return all < 0x80;
}

static stm_status add_form(const stage *step, const char *text, size_t n, stm_string *out)
{
    utf8proc_uint8_t *mapped = NULL;
    const utf8proc_ssize_t length = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &mapped,
                                                 (utf8proc_option_t)(UTF8PROC_STABLE | step->form));
    if (length < 0)
        return stm_fail(STM_ERR_MEMORY, "Unicode normalization failed: %s", utf8proc_errmsg(length));
    const stm_status status = stm_string_add(out, (const char *)mapped, (size_t)length);
    free(mapped);
    return status;
}

/* NFC of texts that are nearly in that form, as most are.
 *
 * A character STAYS when it composes with none before it, does not change places (combining class 0), and composed
 * again is what it was: text can be cut before it. One that the table of reference does not know is a WALL. So only the
 * stretches from the last character that stays before one that MOVES to the next one that does not are given to the
 * library. */

enum { STAYS, MOVES, WALL };
enum { N_POINTS = 0x30000 }; /* all above stay */

static uint8_t form_c[N_POINTS];

static void classify_point(int32_t point)
{
    utf8proc_int32_t parts[16];
    int last_class = 0;
    const utf8proc_ssize_t n =
        utf8proc_decompose_char(point, parts, 16, UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &last_class);
    if (utf8proc_get_property(point)->combining_class != 0 || n > 16)
        form_c[point] = MOVES;
    if ((n == 1 && parts[0] == point) || n > 16)
        return;
    for (utf8proc_ssize_t i = 1; i < n; i++)
        form_c[parts[i]] = MOVES;
    const utf8proc_ssize_t composed = utf8proc_normalize_utf32(parts, n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    if (composed != 1 || parts[0] != point)
        form_c[point] = MOVES;
}

static void classify_points(void)
{
    for (int32_t point = 0; point < N_POINTS; point++)
        classify_point(point);
    for (uint32_t point = 0; point < N_POINTS; point++)
        if (stm_is_after_unicode_9(point))
            form_c[point] = WALL;
}

static stm_status add_form_c(const stage *step, const stm_string *text, stm_string *out)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    size_t done = 0, start = 0; /* text[start..) is to be composed once something in it moves */
    bool moves = false;
    pthread_once(&once, classify_points);
    for (size_t at = 0, length; at < text->n; at += length) {
        const uint32_t point = stm_utf8_point(text->bytes + at, text->n - at, &length);
        const uint8_t kind = point < N_POINTS ? form_c[point] : STAYS;
        if (kind == MOVES) {
            moves = true;
            continue;
        }
        if (moves) {
            STM_TRY(stm_string_add(out, text->bytes + done, start - done));
            STM_TRY(add_form(step, text->bytes + start, at - start, out));
            done = at;
            moves = false;
        }
        start = kind == WALL ? at + length : at;
    }
    STM_TRY(stm_string_add(out, text->bytes + done, (moves ? start : text->n) - done));
    return moves ? add_form(step, text->bytes + start, text->n - start, out) : STM_OK;
}

/* Characters that the table of reference does not know stand still, and what surrounds them does not pass them. */
static stm_status apply_form(const stage *step, const stm_string *text, stm_string *out)
{
    size_t start = 0;
    if (is_ascii(text))
        return stm_string_add(out, text->bytes, text->n);
    if (step->form == UTF8PROC_COMPOSE)
        return add_form_c(step, text, out);
    for (size_t at = 0, length; at < text->n; at += length) {
        if (!stm_is_after_unicode_9(stm_utf8_point(text->bytes + at, text->n - at, &length)))
            continue;
        STM_TRY(add_form(step, text->bytes + start, at - start, out));
        STM_TRY(stm_string_add(out, text->bytes + at, length));
        start = at + length;
    }
    return add_form(step, text->bytes + start, text->n - start, out);
}

typedef stm_status (*map_point)(stm_string *out, uint32_t point);

static stm_status map_points(const stm_string *text, stm_string *out, map_point map)
{
    for (size_t at = 0, length; at < text->n; at += length)
        STM_TRY(map(out, stm_utf8_point(text->bytes + at, text->n - at, &length)));
    return STM_OK;
}

static stm_status lower_point(stm_string *out, uint32_t point)
{
    if (point == 0x130) /* the only letter whose lower case is two characters */
        return stm_string_add_text(out, "i\xCC\x87");
    return stm_string_add_point(out, stm_lower_case(point));
}

static stm_status drop_mark(stm_string *out, uint32_t point)
{
    const bool mark =
        point == 0x1CF2 || point == 0x1CF3 || (stm_is_combining_mark(point) && !stm_is_after_unicode_9(point));
    return mark ? STM_OK : stm_string_add_point(out, point);
}

/* Controls go, many spaces become one kind: the normalization that sentencepiece calls nmt. */
static stm_status nmt_point(stm_string *out, uint32_t c)
{
    if ((c >= 1 && c <= 8) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F)
        return STM_OK;
    const bool space = c == 9 || c == 10 || c == 12 || c == 13 || c == 0x1680 || (c >= 0x200B && c <= 0x200F) ||
                       c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
    return stm_string_add_point(out, space ? ' ' : c);
}

static stm_status apply_lowercase(const stage *step, const stm_string *text, stm_string *out)
{
    (void)step;
    return map_points(text, out, lower_point);
}

static stm_status apply_strip_accents(const stage *step, const stm_string *text, stm_string *out)
{
    (void)step;
    return map_points(text, out, drop_mark);
}

static stm_status apply_nmt(const stage *step, const stm_string *text, stm_string *out)
{
    (void)step;
    return map_points(text, out, nmt_point);
}

static stm_status apply_strip(const stage *step, const stm_string *text, stm_string *out)
{
    size_t start = 0, end = text->n, length;
    while (step->left && start < end && stm_is_space(stm_utf8_point(text->bytes + start, text->n - start, &length)))
        start += length;
    while (step->right && end > start) {
        size_t last = end - 1;
        while (last > start && ((uint8_t)text->bytes[last] & 0xC0) == 0x80)
            last--;
        if (!stm_is_space(stm_utf8_point(text->bytes + last, end - last, &length)))
            break;
        end = last;
    }
    return stm_string_add(out, text->bytes + start, end - start);
}

static stm_status apply_prepend(const stage *step, const stm_string *text, stm_string *out)
{
    if (text->n)
        STM_TRY(stm_string_add(out, step->content.bytes, step->content.n));
    return stm_string_add(out, text->bytes, text->n);
}

static stm_status apply_replace(const stage *step, const stm_string *text, stm_string *out)
{
    return stm_replace_matches(step->regex, &step->content, text->bytes, text->n, out);
}

static stm_status apply_byte_level(const stage *step, const stm_string *text, stm_string *out)
{
    (void)step;
    return stm_add_byte_level(out, text->bytes, text->n);
}

stm_status stm_replace_matches(const stm_regex *regex, const stm_string *content, const char *text, size_t n,
                               stm_string *out)
{
    stm_status status = STM_OK;
    stm_search search;
    size_t before = 0, start, end;
    bool found;
    STM_GOTO_OUT(stm_search_begin(&search, regex));
    stm_search_text(&search, text, n);
    for (;;) {
        STM_GOTO_OUT(stm_search_next(&search, &found, &start, &end));
        if (!found)
            break;
        STM_GOTO_OUT(stm_string_add(out, text + before, start - before));
        STM_GOTO_OUT(stm_string_add(out, content->bytes, content->n));
        before = end;
    }
    STM_GOTO_OUT(stm_string_add(out, text + before, n - before));
out:
    stm_search_end(&search);
    return status;
}

stm_status stm_add_byte_level(stm_string *out, const char *text, size_t n)
{
    STM_TRY(stm_reserve(&out->bytes, &out->capacity, out->n + 2 * n + 1, 1));
    for (size_t i = 0; i < n; i++)
        out->n += stm_utf8_write(stm_byte_to_point((uint8_t)text[i]), out->bytes + out->n);
    return STM_OK;
}

/* Reading them */

stm_status stm_pattern_of(const json_t *object, stm_regex **out)
{
    const json_t *pattern = json_object_get(object, "pattern"), *value = pattern;
    if (json_is_object(pattern) && (value = json_object_get(pattern, "Regex")) && json_is_string(value))
        return stm_regex_create(json_string_value(value), json_string_length(value), out);
    if (json_is_object(pattern))
        value = json_object_get(pattern, "String");
    if (!json_is_string(value))
        return stm_fail(STM_ERR_INPUT, "pattern: found %s, expected {\"String\": ..} or {\"Regex\": ..}",
                        stm_json_kind(pattern));
    return stm_regex_create_literal(json_string_value(value), json_string_length(value), out);
}

static stm_status read_content(const json_t *json, const char *key, stm_string *content)
{
    const char *text;
    size_t n;
    STM_TRY(stm_json_string(json, key, "", &text, &n));
    return stm_string_add(content, text, n);
}

static stm_status read_strip(const json_t *json, stage *step)
{
    STM_TRY(stm_json_bool(json, "strip_left", true, &step->left));
    return stm_json_bool(json, "strip_right", true, &step->right);
}

static stm_status read_prepend(const json_t *json, stage *step)
{
    return read_content(json, "prepend", &step->content);
}

static stm_status read_replace(const json_t *json, stage *step)
{
    STM_TRY(read_content(json, "content", &step->content));
    return stm_pattern_of(json, &step->regex);
}

static const struct {
    const char *type;
    stage step;
    stm_status (*read)(const json_t *json, stage *step);
} kinds[] = {
    {"NFC", {.apply = apply_form, .form = UTF8PROC_COMPOSE}, NULL},
    {"NFD", {.apply = apply_form, .form = UTF8PROC_DECOMPOSE}, NULL},
    {"NFKC", {.apply = apply_form, .form = UTF8PROC_COMPOSE | UTF8PROC_COMPAT}, NULL},
    {"NFKD", {.apply = apply_form, .form = UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT}, NULL},
    {"Lowercase", {.apply = apply_lowercase}, NULL},
    {"Strip", {.apply = apply_strip}, read_strip},
    {"StripAccents", {.apply = apply_strip_accents}, NULL},
    {"Nmt", {.apply = apply_nmt}, NULL},
    {"Prepend", {.apply = apply_prepend}, read_prepend},
    {"Replace", {.apply = apply_replace}, read_replace},
    {"ByteLevel", {.apply = apply_byte_level}, NULL},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static stm_status add_steps(stm_normalizer *normalizer, const json_t *json)
{
    const char *type;
    STM_TRY(stm_json_type(json, &type));
    if (strcmp(type, "Sequence") == 0) {
        json_t *list;
        STM_TRY(stm_json_array(json, "normalizers", &list));
        for (size_t i = 0; i < json_array_size(list); i++)
            STM_TRY(add_steps(normalizer, json_array_get(list, i)));
        return STM_OK;
    }
    for (size_t k = 0; k < N_KINDS; k++) {
        if (strcmp(type, kinds[k].type) != 0)
            continue;
        STM_TRY(stm_reserve(&normalizer->steps, &normalizer->capacity, normalizer->n + 1, sizeof *normalizer->steps));
        stage *added = &normalizer->steps[normalizer->n++];
        *added = kinds[k].step;
        return kinds[k].read ? kinds[k].read(json, added) : STM_OK;
    }
    return stm_fail(STM_ERR_INPUT, "type: found \"%s\", which is not supported", type);
}

stm_status stm_normalizer_create(const json_t *json, stm_normalizer **out)
{
    stm_normalizer *normalizer;
    STM_TRY(stm_alloc(1, sizeof *normalizer, &normalizer));
    if (json && !json_is_null(json)) {
        const stm_status status = add_steps(normalizer, json);
        if (status != STM_OK) {
            stm_normalizer_destroy(normalizer);
            return stm_fail_context(status, "normalizer");
        }
    }
    *out = normalizer;
    return STM_OK;
}

void stm_normalizer_destroy(stm_normalizer *normalizer)
{
    if (!normalizer)
        return;
    for (size_t i = 0; i < normalizer->n; i++) {
        stm_regex_destroy(normalizer->steps[i].regex);
        free(normalizer->steps[i].content.bytes);
    }
    free(normalizer->steps);
    free(normalizer);
}

bool stm_normalizer_is_empty(const stm_normalizer *normalizer)
{
    return normalizer->n == 0;
}

/* How much longer a text may become: the longest decomposition (NFKD) makes 18 bytes of each, and steps that insert
 * something between all characters, one after the other, would fill any memory. */
enum { MOST_GROWTH = 256, ALWAYS_ALLOWED_BYTES = 64 << 10 };

stm_status stm_normalizer_apply(const stm_normalizer *normalizer, stm_string *text)
{
    stm_status status = STM_OK;
    stm_string next = {0};
    const size_t before = text->n;
    for (size_t i = 0; i < normalizer->n; i++) {
        next.n = 0;
        STM_GOTO_OUT(normalizer->steps[i].apply(&normalizer->steps[i], text, &next));
        if (next.n > ALWAYS_ALLOWED_BYTES && next.n / MOST_GROWTH > before) {
            status = stm_fail(STM_ERR_INPUT,
                              "normalizer: step %zu made %zu bytes of a text of %zu, expected at most "
                              "%d times as many",
                              i + 1, next.n, before, MOST_GROWTH);
            goto out;
        }
        const stm_string old = *text;
        *text = next;
        next = old;
    }
out:
    free(next.bytes);
    return status;
}
