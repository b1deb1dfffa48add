#include "reward/span.h"

#include <string.h>

stm_span stm_span_of(const char *text)
{
    return (stm_span){text, strlen(text)};
}

stm_span stm_span_cut(stm_span text, size_t first, size_t end)
{
    return (stm_span){text.at + first, end - first};
}

bool stm_span_same(stm_span a, stm_span b)
{
    return a.n == b.n && memcmp(a.at, b.at, a.n) == 0;
}

bool stm_span_is(stm_span text, const char *word)
{
    return stm_span_same(text, stm_span_of(word));
}

bool stm_span_starts(stm_span text, const char *word)
{
    if (text.n == 0 || *text.at != *word) /* nearly always */
        return *word == 0;
    const size_t n = strlen(word);
    return text.n >= n && memcmp(text.at, word, n) == 0;
}

size_t stm_span_find(stm_span text, const char *word, size_t from)
{
    for (; from < text.n; from++)
        if (stm_span_starts(stm_span_cut(text, from, text.n), word))
            return from;
    return STM_NOWHERE;
}

size_t stm_span_count(stm_span text, const char *word)
{
    size_t count = 0, at = 0;
    while ((at = stm_span_find(text, word, at)) != STM_NOWHERE) {
        at += strlen(word);
        count++;
    }
    return count;
}

bool stm_span_between(stm_span text, const char *open, const char *close, stm_span *inside)
{
    size_t first = stm_span_find(text, open, 0);
    if (first == STM_NOWHERE)
        return false;
    first += strlen(open);
    const size_t end = stm_span_find(text, close, first);
    if (end == STM_NOWHERE)
        return false;
    *inside = stm_span_cut(text, first, end);
    return true;
}

size_t stm_span_space(stm_span text)
{
    if (text.n == 0)
        return 0;
    const unsigned char c = (unsigned char)*text.at;
    if (c < 0x80)
        return (c == 0x20 || (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F)) ? 1 : 0;
    if (c != 0xC2 && c != 0xE1 && c != 0xE2 && c != 0xE3)
        return 0;
    static const char *const wide[] = {"\xC2\x85", "\u00A0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003",
                                       "\u2004",   "\u2005", "\u2006", "\u2007", "\u2008", "\u2009", "\u200A",
                                       "\u2028",   "\u2029", "\u202F", "\u205F", "\u3000"};
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
        if (stm_span_starts(text, wide[i]))
            return strlen(wide[i]);
    return 0;
}

bool stm_span_word(stm_span *rest, stm_span *word)
{
    size_t first = 0, step;
    while ((step = stm_span_space(stm_span_cut(*rest, first, rest->n))) > 0)
        first += step;
    size_t end = first;
    while (end < rest->n && stm_span_space(stm_span_cut(*rest, end, rest->n)) == 0)
        end++;
    *word = stm_span_cut(*rest, first, end);
    *rest = stm_span_cut(*rest, end, rest->n);
    return word->n > 0;
}

stm_span stm_span_strip(stm_span text)
{
    stm_span word, rest = text;
    size_t first = text.n, end = text.n;
    while (stm_span_word(&rest, &word)) {
        if (first == text.n)
            first = (size_t)(word.at - text.at);
        end = (size_t)(word.at - text.at) + word.n;
    }
    return stm_span_cut(text, first, end);
}
