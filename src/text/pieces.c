#include "text/pieces.h"

#include <stdlib.h>

void stm_pieces_free(stm_pieces *pieces)
{
    free(pieces->text.bytes);
    free(pieces->items);
    *pieces = (stm_pieces){0};
}

void stm_pieces_swap(stm_pieces *a, stm_pieces *b)
{
    const stm_pieces c = *a;
    *a = *b;
    *b = c;
}

void stm_pieces_reset(stm_pieces *pieces)
{
    pieces->n = 0;
    pieces->text.n = 0;
}

stm_status stm_pieces_add(stm_pieces *pieces, stm_piece piece)
{
    STM_TRY(stm_reserve(&pieces->items, &pieces->capacity, pieces->n + 1, sizeof *pieces->items));
    pieces->items[pieces->n++] = piece;
    return STM_OK;
}

stm_status stm_pieces_add_text(stm_pieces *pieces, const char *bytes, size_t n, int32_t id, bool first)
{
    const stm_piece piece = {.start = pieces->text.n, .n = n, .id = id, .first = first};
    STM_TRY(stm_string_add(&pieces->text, bytes, n));
    return stm_pieces_add(pieces, piece);
}

stm_status stm_stretches_add(stm_stretches *stretches, size_t start, size_t end, bool match)
{
    STM_TRY(stm_reserve(&stretches->items, &stretches->capacity, stretches->n + 1, sizeof *stretches->items));
    stretches->items[stretches->n++] = (stm_stretch){.start = start, .end = end, .match = match};
    return STM_OK;
}

stm_status stm_stretches_find(stm_stretches *stretches, stm_search *search, const char *text, size_t n)
{
    size_t before = 0, start, end;
    bool found;
    stretches->n = 0;
    stm_search_text(search, text, n);
    for (;;) {
        STM_TRY(stm_search_next(search, &found, &start, &end));
        if (!found)
            break;
        if (before < start)
            STM_TRY(stm_stretches_add(stretches, before, start, false));
        STM_TRY(stm_stretches_add(stretches, start, end, true));
        before = end;
    }
    return before < n ? stm_stretches_add(stretches, before, n, false) : STM_OK;
}

/* Joins a delimiter with the stretch before it, unless that is a delimiter too; of several in a row only the first is
 * joined. */
static void merge_with_previous(stm_stretches *s)
{
    size_t kept = 0;
    bool previous = false;
    for (size_t i = 0; i < s->n; i++) {
        const stm_stretch stretch = s->items[i];
        if (stretch.match && !previous && kept)
            s->items[kept - 1].end = stretch.end;
        else
            s->items[kept++] = stretch;
        previous = stretch.match;
    }
    s->n = kept;
}

static void merge_with_next(stm_stretches *s)
{
    size_t kept = s->n;
    bool previous = false;
    for (size_t i = s->n; i-- > 0;) {
        const stm_stretch stretch = s->items[i];
        if (stretch.match && !previous && kept < s->n)
            s->items[kept].start = stretch.start;
        else
            s->items[--kept] = stretch;
        previous = stretch.match;
    }
    for (size_t i = kept; i < s->n; i++)
        s->items[i - kept] = s->items[i];
    s->n -= kept;
}

static void merge_alike(stm_stretches *s)
{
    size_t kept = 0;
    for (size_t i = 0; i < s->n; i++) {
        if (kept && s->items[kept - 1].match == s->items[i].match)
            s->items[kept - 1].end = s->items[i].end;
        else
            s->items[kept++] = s->items[i];
    }
    s->n = kept;
}

stm_status stm_pieces_split(stm_pieces *out, stm_piece piece, stm_stretches *stretches, stm_split_behavior behavior)
{
    if (behavior == STM_SPLIT_MERGED_WITH_PREVIOUS)
        merge_with_previous(stretches);
    else if (behavior == STM_SPLIT_MERGED_WITH_NEXT)
        merge_with_next(stretches);
    else if (behavior == STM_SPLIT_CONTIGUOUS)
        merge_alike(stretches);
    for (size_t i = 0; i < stretches->n; i++) {
        const stm_stretch s = stretches->items[i];
        if (s.start == s.end || (s.match && behavior == STM_SPLIT_REMOVED))
            continue;
        STM_TRY(stm_pieces_add(out, (stm_piece){.start = piece.start + s.start,
                                                .n = s.end - s.start,
                                                .id = -1,
                                                .first = piece.first && s.start == 0}));
    }
    return STM_OK;
}
