#include "reward/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

struct stm_pattern {
    pcre2_code *code;
    pcre2_match_data *match;
    pcre2_match_context *context;
};

enum { MATCH_LIMIT = 2000000 }; /* about a second; patterns that backtrack without end stop here */

static stm_status create(const char *text, size_t n, uint32_t options, stm_pattern **out)
{
    stm_status status = STM_OK;
    stm_pattern *pattern;
    int code;
    PCRE2_SIZE offset;
    STM_TRY(stm_alloc(1, sizeof *pattern, &pattern));
    pattern->code = pcre2_compile((PCRE2_SPTR)text, n, options | PCRE2_UTF, &code, &offset, NULL);
    if (!pattern->code) {
        PCRE2_UCHAR why[256];
        pcre2_get_error_message(code, why, sizeof why);
        status = stm_fail(STM_ERR_INPUT, "found \"%s\", expected a PCRE2 pattern: %s at character %zu", text,
                          (const char *)why, (size_t)offset + 1);
        goto out;
    }
    pattern->match = pcre2_match_data_create_from_pattern(pattern->code, NULL);
    pattern->context = pcre2_match_context_create(NULL);
    if (!pattern->match || !pattern->context) {
        status = stm_fail(STM_ERR_MEMORY, "out of memory");
        goto out;
    }
    pcre2_set_match_limit(pattern->context, MATCH_LIMIT);
    *out = pattern;
    pattern = NULL;
out:
    stm_pattern_destroy(pattern);
    return status;
}

stm_status stm_pattern_create(const char *pattern, stm_pattern **out)
{
    return create(pattern, strlen(pattern), PCRE2_DOTALL | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF, out);
}

stm_status stm_pattern_create_caseless(const char *text, size_t n, bool whole, stm_pattern **out)
{
    const uint32_t ends = whole ? PCRE2_ANCHORED | PCRE2_ENDANCHORED : 0;
    return create(text, n, PCRE2_LITERAL | PCRE2_CASELESS | PCRE2_MATCH_INVALID_UTF | ends, out);
}

void stm_pattern_destroy(stm_pattern *pattern)
{
    if (!pattern)
        return;
    pcre2_match_context_free(pattern->context);
    pcre2_match_data_free(pattern->match);
    pcre2_code_free(pattern->code);
    free(pattern);
}

static stm_status search_from(const stm_pattern *pattern, const char *text, size_t n, size_t from, uint32_t options,
                              bool *found)
{
    const int code = pcre2_match(pattern->code, (PCRE2_SPTR)text, n, from, options, pattern->match, pattern->context);
    *found = code >= 0;
    if (code >= 0 || code == PCRE2_ERROR_NOMATCH)
        return STM_OK;
    PCRE2_UCHAR why[256];
    pcre2_get_error_message(code, why, sizeof why);
    return stm_fail(STM_ERR_NUMERIC, "the search in a response of %zu bytes failed: %s", n, (const char *)why);
}

stm_status stm_pattern_search(const stm_pattern *pattern, const char *text, size_t n, bool *found)
{
    return search_from(pattern, text, n, 0, 0, found);
}

stm_status stm_pattern_last(const stm_pattern *pattern, const char *text, size_t n, bool *found, size_t *start,
                            size_t *length)
{
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(pattern->match);
    size_t from = 0;
    uint32_t options = 0;
    bool more = true;
    *found = false;
    while (from <= n) {
        STM_TRY(search_from(pattern, text, n, from, options, &more));
        if (!more && options == 0)
            return STM_OK;
        if (more) {
            const bool group = pcre2_get_ovector_count(pattern->match) > 1 && ends[2] != PCRE2_UNSET;
            *found = true;
            *start = ends[group ? 2 : 0];
            *length = ends[group ? 3 : 1] - *start;
            /* \K inside a lookahead can put a match's start behind its end: go on from the later one. */
            from = STM_MAX(STM_MAX(ends[0], ends[1]), from);
            /* After an empty match look for one that is not, at the same place. */
            options = ends[0] == ends[1] ? PCRE2_NOTEMPTY_ATSTART | PCRE2_ANCHORED : 0;
        } else {
            options = 0; /* none there: one character on, whole characters only */
            from++;
            while (from < n && ((unsigned char)text[from] & 0xC0) == 0x80)
                from++;
        }
    }
    return STM_OK;
}
