#include "reward/blocks.h"

/* Bytes of the piece where it stands at the front of the text; 0: it does not. */
static size_t piece_at(stm_span text, const char *piece)
{
    size_t at = 0, step;
    for (; *piece; piece++) {
        if (*piece != '~') {
            if (at >= text.n || text.at[at] != *piece)
                return 0;
            at++;
            continue;
        }
        while ((step = stm_span_space(stm_span_cut(text, at, text.n))) > 0)
            at += step;
    }
    return at;
}

/* The first place of every piece leaves the most to the ones behind it; the last one stands at the end. */
bool stm_blocks_fit(stm_span text, const char *const *pieces, size_t n)
{
    size_t at = piece_at(text, pieces[0]);
    if (at == 0)
        return false;
    for (size_t p = 1; p < n; p++) {
        size_t used;
        for (;; at++) {
            used = piece_at(stm_span_cut(text, at, text.n), pieces[p]);
            if (used > 0 && (p + 1 < n || at + used == text.n))
                break;
            if (at == text.n)
                return false;
        }
        at += used;
    }
    return at == text.n;
}

bool stm_blocks_think_answer(stm_span text)
{
    static const char *const pieces[] = {"<think>", "</think>~<answer>", "</answer>"};
    return stm_blocks_fit(text, pieces, 3);
}

bool stm_blocks_think_action(stm_span text)
{
    static const char *const pieces[] = {"<think>", "</think>~<action>", "</action>"};
    return stm_blocks_fit(text, pieces, 3);
}
