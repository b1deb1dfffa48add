#include "text/words.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "text/regex.h"

/* Classes of characters */

enum { OTHER, LETTER, NUMBER, SPACE };
enum { N_POINTS = 0x40000 }; /* in no version of Unicode has a plane above 3 letters, numbers or spaces */

static uint8_t class_of[N_POINTS];

/* Every character below N_POINTS, one after the other. Fails: STM_ERR_MEMORY. */
static stm_status write_all(stm_string *text)
{
    STM_TRY(stm_reserve(&text->bytes, &text->capacity, (size_t)4 * N_POINTS, 1));
    for (uint32_t point = 0; point < N_POINTS; point++)
        if (point < 0xD800 || point > 0xDFFF)
            text->n += stm_utf8_write(point, text->bytes + text->n);
    return STM_OK;
}

/* Marks the characters that runs of the pattern hold. */
static stm_status mark(const stm_string *all, const char *pattern, uint8_t class)
{
    stm_status status = STM_OK;
    stm_regex *regex = NULL;
    stm_search search = {0};
    size_t start, end, length;
    bool found;
    STM_GOTO_OUT(stm_regex_create(pattern, strlen(pattern), &regex));
    STM_GOTO_OUT(stm_search_begin(&search, regex));
    stm_search_text(&search, all->bytes, all->n);
    for (;;) {
        STM_GOTO_OUT(stm_search_next(&search, &found, &start, &end));
        if (!found)
            break;
        for (size_t at = start; at < end; at += length)
            class_of[stm_utf8_point(all->bytes + at, all->n - at, &length)] = class;
    }
out:
    stm_search_end(&search);
    stm_regex_destroy(regex);
    return status;
}

static stm_status classified;

/* The plain twin's own patterns say what is a letter: then both agree, whatever the library's version of Unicode. */
static void classify(void)
{
    stm_string all = {0};
    classified = write_all(&all);
    if (classified == STM_OK)
        classified = mark(&all, "\\p{L}+", LETTER);
    if (classified == STM_OK)
        classified = mark(&all, "\\p{N}+", NUMBER);
    if (classified == STM_OK)
        classified = mark(&all, "\\s+", SPACE);
    free(all.bytes);
}

const char stm_words_gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

#define LLAMA3_LIKE(NUMBERS)                                                                                           \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" NUMBERS                                              \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

stm_status stm_words_find(const char *pattern, size_t n, stm_words *out)
{
    static const char *const patterns[] = {[STM_WORDS_GPT2] = stm_words_gpt2_pattern,
                                           [STM_WORDS_LLAMA3] = LLAMA3_LIKE("\\p{N}{1,3}"),
                                           [STM_WORDS_QWEN2] = LLAMA3_LIKE("\\p{N}")};
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    *out = STM_WORDS_UNKNOWN;
    for (size_t i = 1; i < sizeof patterns / sizeof *patterns; i++)
        if (strlen(patterns[i]) == n && memcmp(patterns[i], pattern, n) == 0)
            *out = (stm_words)i;
    if (*out == STM_WORDS_UNKNOWN)
        return STM_OK;
    pthread_once(&once, classify);
    return classified == STM_OK ? STM_OK : stm_fail(classified, "out of memory: the table of letters");
}

/* Matching */

typedef struct {
    const char *text;
    size_t n;
} span;

/* The class of the character at `at` < n, and its length. */
static inline unsigned class_at(span s, size_t at, size_t *length)
{
    const uint8_t byte = (uint8_t)s.text[at];
    if (byte < 0x80) {
        *length = 1;
        return class_of[byte];
    }
    const uint32_t point = stm_utf8_point(s.text + at, s.n - at, length);
    return point < N_POINTS ? class_of[point] : OTHER;
}

/* Where the run of a class that goes on at `at` ends. */
static inline size_t run_end(span s, size_t at, unsigned class)
{
    size_t length;
    while (at < s.n && class_at(s, at, &length) == class)
        at += length;
    return at;
}

static inline bool is_line_end(char c)
{
    return c == '\r' || c == '\n';
}

/* \s+(?!\S)|\s+ : a run of spaces leaves its last one to the word behind it, unless it is the only one. */
static size_t spaces_end(span s, size_t at, size_t first_length)
{
    size_t last = at, length = first_length, end = at + first_length;
    while (end < s.n && class_at(s, end, &length) == SPACE) {
        last = end;
        end += length;
    }
    return end == s.n || last == at ? end : last;
}

/* 's|'t|'re|'ve|'m|'ll|'d : the length at `at`, where an apostrophe is; 0: none of them. */
static size_t contraction_length(span s, size_t at)
{
    const char a = at + 1 < s.n ? s.text[at + 1] : 0, b = at + 2 < s.n ? s.text[at + 2] : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 2;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/* The same in either case; U+017F is an s, too. */
static size_t any_case_contraction_length(span s, size_t at)
{
    char lower[3] = "'";
    for (size_t i = 1; i < 3 && at + i < s.n; i++)
        lower[i] = s.text[at + i] >= 'A' && s.text[at + i] <= 'Z' ? (char)(s.text[at + i] | 0x20) : s.text[at + i];
    if (at + 2 < s.n && memcmp(s.text + at + 1, "\xC5\xBF", 2) == 0)
        return 3;
    return contraction_length((span){lower, STM_MIN(s.n - at, (size_t)3)}, 0);
}

static size_t gpt2_end(span s, size_t at)
{
    size_t length, next_length, contraction;
    if (s.text[at] == '\'' && (contraction = contraction_length(s, at)) > 0)
        return at + contraction;
    unsigned class = class_at(s, at, &length);
    if (s.text[at] == ' ' && at + 1 < s.n) {
        const unsigned next = class_at(s, at + 1, &next_length);
        if (next != SPACE)
            return run_end(s, at + 1 + next_length, next);
    }
    return class == SPACE ? spaces_end(s, at, length) : run_end(s, at + length, class);
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ : as far as the last line end of the run, if there is one. */
static size_t lines_end(span s, size_t at, size_t first_length)
{
    size_t line_end = 0, length;
    for (size_t end = at; end < s.n && class_at(s, end, &length) == SPACE; end += length)
        if (is_line_end(s.text[end]))
            line_end = end + 1;
    return line_end ? line_end : spaces_end(s, at, first_length);
}

/*  ?[^\s\p{L}\p{N}]+[\r\n]* from the second character of the run on. */
static size_t others_end(span s, size_t at)
{
    at = run_end(s, at, OTHER);
    while (at < s.n && is_line_end(s.text[at]))
        at++;
    return at;
}

static size_t numbers_end(span s, size_t at, size_t most)
{
    size_t length;
    for (; most > 0 && at < s.n && class_at(s, at, &length) == NUMBER; most--)
        at += length;
    return at;
}

static size_t llama3_end(span s, size_t at, size_t most_numbers)
{
    size_t length, next_length, contraction;
    if (s.text[at] == '\'' && (contraction = any_case_contraction_length(s, at)) > 0)
        return at + contraction;
    const unsigned class = class_at(s, at, &length);
    if (class == LETTER)
        return run_end(s, at + length, LETTER);
    if (class == NUMBER)
        return numbers_end(s, at, most_numbers);
    if (at + length < s.n && !is_line_end(s.text[at])) {
        const unsigned next = class_at(s, at + length, &next_length);
        if (next == LETTER)
            return run_end(s, at + length + next_length, LETTER);
        if (next == OTHER && s.text[at] == ' ')
            return others_end(s, at + length + next_length);
    }
    return class == OTHER ? others_end(s, at + length) : lines_end(s, at, length);
}

size_t stm_words_end(stm_words words, const char *text, size_t n, size_t at)
{
    const span s = {text, n};
    switch (words) {
    case STM_WORDS_LLAMA3:
        return llama3_end(s, at, 3);
    case STM_WORDS_QWEN2:
        return llama3_end(s, at, 1);
    default:
        return gpt2_end(s, at);
    }
}
