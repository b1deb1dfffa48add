/* src/group/forest.h: the trees of a batch: which tokens its sequences share, and where each is computed.
 *
 * Sequences (a prompt and, mostly, one of its responses) are put into a trie. A segment is a stretch of tokens that is
 * computed once for all sequences through it; a root begins at position 0.
 *
 *      positions   0 ......... 16 ......... 30
 *                  [ prompt      )[ response 0  )
 *                                 [ common )[ response 1 )
 *                                           [ response 2     )
 *
 * A segment covers token positions [start, end). Its rows are positions start-1 .. end-2, each predicting one of its
 * own tokens (the root's: 0 .. end-2, for nothing predicts the first token of all). Segments stand in preorder: a
 * subtree is a range. Local, and the same on every rank that has the same sequences. */
#ifndef STM_GROUP_FOREST_H
#define STM_GROUP_FOREST_H

#include "config/options.h"
#include "data/groups.h"

#define STM_NONE ((size_t)-1)

/* The first n tokens of a prompt followed by a response (STM_NONE: the prompt alone). */
typedef struct {
    size_t group, response, n;
} stm_sequence;

/* Tokens [first_token, first_token + n) of a sequence's response are predicted by rows [first_row, first_row + n) of
 * the segment. */
typedef struct {
    size_t sequence, first_token, first_row, n;
} stm_use;

typedef struct {
    size_t parent; /* STM_NONE: a root */
    size_t depth;  /* 0: a root */
    size_t start, end;
    size_t sequence;           /* one that runs through it: its tokens are the segment's */
    size_t last;               /* the subtree is segments [self, last) */
    size_t n_rows, rows_below; /* its own rows; those of the subtree, itself included */
    size_t first_use, n_uses;
} stm_segment;

typedef struct {
    const stm_batch *batch; /* not owned; must outlive the forest */
    size_t n_sequences;
    stm_sequence *sequences; /* sorted: those that share stand together */
    size_t *ends;            /* [n_sequences]: the segment that holds the sequence's last token */
    size_t n_segments;
    stm_segment *segments;
    size_t n_uses;
    stm_use *uses;
} stm_forest;

typedef struct {
    stm_forward_mode mode;
    size_t min_shared_tokens; /* a split below the prompt must be worth so many tokens */
    bool across_groups;
    size_t max_segment_tokens; /* longer ones become chains; 0: no limit */
} stm_forest_options;

/* sequences [n], each of at least one token, those of a group side by side; copied, in another order. The caller clears
 * *out, also after a failure. Fails: STM_ERR_MEMORY. */
stm_status stm_forest_create(const stm_batch *batch, const stm_sequence *sequences, size_t n,
                             const stm_forest_options *options, stm_forest *out);
void stm_forest_clear(stm_forest *forest);

/* What the token at a position of a sequence is. */
static inline int32_t stm_sequence_token(const stm_batch *batch, const stm_sequence *sequence, size_t position)
{
    const stm_group *group = &batch->groups[sequence->group];
    return position < group->n_prompt ? group->prompt[position]
                                      : group->responses[sequence->response].ids[position - group->n_prompt];
}

/* Position of a segment's first row. */
static inline size_t stm_segment_first_position(const stm_segment *segment)
{
    return segment->start == 0 ? 0 : segment->start - 1;
}

#endif
