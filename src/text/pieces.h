/* src/text/pieces.h: a text cut into pieces, what the stages of a tokenizer hand on.
 *
 *     text   | H e l l o   < s >   w o r l d |
 *     items  [0,6) id -1   [6,9) id 1   [9,15) id -1
 *
 * A piece with an id is an added token, which later stages leave alone. A stage reads one stm_pieces and fills another.
 * Local, all of it. */
#ifndef STM_TEXT_PIECES_H
#define STM_TEXT_PIECES_H

#include "text/regex.h"

typedef struct {
    size_t start, n; /* bytes of the text */
    int32_t id;      /* of an added token; -1: text */
    bool first;      /* begins where the original text begins */
} stm_piece;

typedef struct {
    stm_string text;
    stm_piece *items; /* [n] */
    size_t n, capacity;
} stm_pieces;

void stm_pieces_free(stm_pieces *pieces);
void stm_pieces_swap(stm_pieces *a, stm_pieces *b);
void stm_pieces_reset(stm_pieces *pieces); /* empty, memory kept */

stm_status stm_pieces_add(stm_pieces *pieces, stm_piece piece);
/* Appends bytes to the text and a piece for them. */
stm_status stm_pieces_add_text(stm_pieces *pieces, const char *bytes, size_t n, int32_t id, bool first);

/* How the delimiters that a pattern finds are treated. */
typedef enum {
    STM_SPLIT_REMOVED,
    STM_SPLIT_ISOLATED,
    STM_SPLIT_MERGED_WITH_PREVIOUS,
    STM_SPLIT_MERGED_WITH_NEXT,
    STM_SPLIT_CONTIGUOUS
} stm_split_behavior;

/* A stretch of a piece, delimiter or not; stretches cover the piece in order. */
typedef struct {
    size_t start, end;
    bool match;
} stm_stretch;

typedef struct {
    stm_stretch *items;
    size_t n, capacity;
} stm_stretches;

stm_status stm_stretches_add(stm_stretches *stretches, size_t start, size_t end, bool match);

/* All matches in text[0..n) and what lies between them. */
stm_status stm_stretches_find(stm_stretches *stretches, stm_search *search, const char *text, size_t n);

/* Cuts `piece` at the stretches (relative to its start; changed by this) and adds what is not empty to `out`. */
stm_status stm_pieces_split(stm_pieces *out, stm_piece piece, stm_stretches *stretches, stm_split_behavior behavior);

#endif
