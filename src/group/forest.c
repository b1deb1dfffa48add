#include "group/forest.h"

#include <stdlib.h>
#include <string.h>

/* A node of the trie while it grows: it ends at `depth` tokens and begins where its parent ends. */
typedef struct {
    size_t parent, depth;
    size_t first;             /* the first sequence, in their order, that runs through it */
    size_t n_children, child; /* child: one of them */
    size_t segment;           /* its last segment, once they are numbered; STM_NONE: joined with its only child */
} trie_node;

typedef struct {
    const stm_batch *batch;
    const stm_forest_options *options;
    stm_sequence *sequences;
    size_t n_sequences;
    trie_node *nodes;
    size_t n_nodes;
    size_t *end; /* [n_sequences]: the node under which each sequence ends */
} trie;

/* Sharing */

static bool may_share(const stm_batch *batch, const stm_forest_options *options, const stm_sequence *a,
                      const stm_sequence *b)
{
    if (options->mode == STM_FORWARD_REPEATED)
        return false;
    if (a->group == b->group)
        return true;
    return options->mode == STM_FORWARD_TREE && options->across_groups &&
           batch->groups[a->group].temperature == batch->groups[b->group].temperature;
}

/* How many tokens two sequences have in common, compared from `from` on. */
static size_t common_from(const stm_batch *batch, const stm_sequence *a, const stm_sequence *b, size_t from)
{
    const size_t n = STM_MIN(a->n, b->n);
    while (from < n && stm_sequence_token(batch, a, from) == stm_sequence_token(batch, b, from))
        from++;
    return from;
}

static size_t shared_tokens(const stm_batch *batch, const stm_forest_options *options, const stm_sequence *a,
                            const stm_sequence *b)
{
    if (!may_share(batch, options, a, b))
        return 0;
    const size_t prompt = a->group == b->group ? batch->groups[a->group].n_prompt : 0;
    const size_t known = STM_MIN(prompt, STM_MIN(a->n, b->n));
    return options->mode == STM_FORWARD_PROMPT ? known : common_from(batch, a, b, known);
}

/* By temperature (other heads, nothing shared), then by tokens, a beginning before what goes on, then as given. */
static int compare_sequences(const void *left, const void *right, void *context)
{
    const stm_batch *batch = context;
    const stm_sequence *a = left, *b = right;
    const double ta = batch->groups[a->group].temperature, tb = batch->groups[b->group].temperature;
    if (ta != tb)
        return ta < tb ? -1 : 1;
    const size_t known = a->group == b->group ? batch->groups[a->group].n_prompt : 0;
    const size_t common = common_from(batch, a, b, STM_MIN(known, STM_MIN(a->n, b->n)));
    if (common < a->n && common < b->n)
        return stm_sequence_token(batch, a, common) < stm_sequence_token(batch, b, common) ? -1 : 1;
    if (a->n != b->n)
        return a->n < b->n ? -1 : 1;
    if (a->group != b->group)
        return a->group < b->group ? -1 : 1;
    return (a->response > b->response) - (a->response < b->response);
}

/* The trie */

static size_t add_node(trie *t, size_t parent, size_t depth, size_t first)
{
    t->nodes[t->n_nodes] = (trie_node){.parent = parent, .depth = depth, .first = first, .segment = STM_NONE};
    return t->n_nodes++;
}

static size_t depth_of(const trie *t, size_t node)
{
    return node == STM_NONE ? 0 : t->nodes[node].depth;
}

/* A split pays if it shares enough tokens; where it shares the end of a prompt it always does: every prompt is computed
 * once. */
static bool worth_splitting(const trie *t, size_t parent_depth, size_t depth, size_t prompt)
{
    return depth - parent_depth >= t->options->min_shared_tokens || (parent_depth < prompt && prompt <= depth);
}

/* Sequence i joins the path of its predecessor; `top` is the end of that path. Sequences are in order, so nothing hangs
 * on what is left of the path: the trie's rightmost branch. */
static void add_sequence(trie *t, size_t i, size_t *top)
{
    const stm_sequence *s = &t->sequences[i];
    const size_t shared = i == 0 ? 0 : shared_tokens(t->batch, t->options, &t->sequences[i - 1], s);
    size_t below = STM_NONE;
    while (*top != STM_NONE && t->nodes[*top].depth > shared) {
        below = *top;
        *top = t->nodes[*top].parent;
    }
    if (below != STM_NONE && depth_of(t, *top) < shared &&
        worth_splitting(t, depth_of(t, *top), shared, t->batch->groups[s->group].n_prompt)) {
        const size_t middle = add_node(t, *top, shared, t->nodes[below].first);
        t->nodes[below].parent = middle;
        *top = middle;
    }
    if (s->n > depth_of(t, *top))
        *top = add_node(t, *top, s->n, i);
    t->end[i] = *top;
}

static void count_children(trie *t)
{
    for (size_t i = 0; i < t->n_nodes; i++) {
        if (t->nodes[i].parent == STM_NONE)
            continue;
        trie_node *parent = &t->nodes[t->nodes[i].parent];
        parent->n_children++;
        parent->child = i;
    }
}

static int compare_preorder(const void *left, const void *right, void *context)
{
    const trie_node *nodes = context, *a = &nodes[*(const size_t *)left], *b = &nodes[*(const size_t *)right];
    if (a->first != b->first)
        return a->first < b->first ? -1 : 1;
    return (a->depth > b->depth) - (a->depth < b->depth);
}

/* Segments */

static bool is_joined(const trie_node *node)
{
    return node->n_children == 1;
}

/* The nearest node above that stays. */
static size_t kept_parent(const trie *t, size_t node)
{
    size_t parent = t->nodes[node].parent;
    while (parent != STM_NONE && is_joined(&t->nodes[parent]))
        parent = t->nodes[parent].parent;
    return parent;
}

static size_t n_pieces(size_t n_tokens, size_t limit)
{
    return limit == 0 || n_tokens <= limit ? 1 : (n_tokens + limit - 1) / limit;
}

/* One node becomes one segment, or a chain of nearly equal ones. */
static void add_segments(trie *t, size_t node, stm_forest *forest)
{
    const size_t above = kept_parent(t, node), start = depth_of(t, above), end = t->nodes[node].depth;
    const size_t pieces = n_pieces(end - start, t->options->max_segment_tokens);
    size_t parent = above == STM_NONE ? STM_NONE : t->nodes[above].segment;
    for (size_t i = 0; i < pieces; i++) {
        stm_segment *segment = &forest->segments[forest->n_segments];
        *segment = (stm_segment){.parent = parent,
                                 .depth = parent == STM_NONE ? 0 : forest->segments[parent].depth + 1,
                                 .start = start + (end - start) * i / pieces,
                                 .end = start + (end - start) * (i + 1) / pieces,
                                 .sequence = t->nodes[node].first};
        segment->n_rows = segment->end - 1 - stm_segment_first_position(segment);
        parent = forest->n_segments++;
    }
    t->nodes[node].segment = parent;
}

static stm_status number_segments(trie *t, stm_forest *forest)
{
    size_t *order, n = 0, n_segments = 0;
    STM_TRY(stm_alloc(t->n_nodes, sizeof *order, &order));
    for (size_t i = 0; i < t->n_nodes; i++) {
        if (is_joined(&t->nodes[i]))
            continue;
        order[n++] = i;
        n_segments += n_pieces(t->nodes[i].depth - depth_of(t, kept_parent(t, i)), t->options->max_segment_tokens);
    }
    qsort_r(order, n, sizeof *order, compare_preorder, t->nodes);
    const stm_status status = stm_alloc(n_segments, sizeof *forest->segments, &forest->segments);
    for (size_t i = 0; status == STM_OK && i < n; i++)
        add_segments(t, order[i], forest);
    free(order);
    return status;
}

/* Ends and totals of subtrees, from the last segment up. */
static void sum_subtrees(stm_forest *forest)
{
    for (size_t i = 0; i < forest->n_segments; i++)
        forest->segments[i].last = i + 1;
    for (size_t i = forest->n_segments; i-- > 0;) {
        stm_segment *segment = &forest->segments[i];
        segment->rows_below += segment->n_rows;
        if (segment->parent == STM_NONE)
            continue;
        stm_segment *parent = &forest->segments[segment->parent];
        parent->rows_below += segment->rows_below;
        parent->last = STM_MAX(parent->last, segment->last);
    }
}

/* The segment with a sequence's last token: on the way up from where it was hung in the trie. */
static void find_ends(const trie *t, stm_forest *forest)
{
    for (size_t i = 0; i < t->n_sequences; i++) {
        size_t node = t->end[i];
        while (is_joined(&t->nodes[node]))
            node = t->nodes[node].child;
        size_t segment = t->nodes[node].segment;
        while (forest->segments[segment].start >= t->sequences[i].n)
            segment = forest->segments[segment].parent;
        forest->ends[i] = segment;
    }
}

/* Response tokens of sequence i that lie in a segment; false when there are none. */
static bool use_of(const stm_forest *forest, size_t i, const stm_segment *segment, stm_use *use)
{
    const stm_sequence *s = &forest->sequences[i];
    const size_t prompt = forest->batch->groups[s->group].n_prompt;
    const size_t first = STM_MAX(segment->start, prompt), last = STM_MIN(segment->end, s->n);
    if (first >= last)
        return false;
    *use = (stm_use){.sequence = i,
                     .first_token = first - prompt,
                     .first_row = first - 1 - stm_segment_first_position(segment),
                     .n = last - first};
    return true;
}

/* Two passes over every sequence's path: count, then fill. */
static stm_status list_uses(stm_forest *forest)
{
    stm_use use;
    for (size_t i = 0; i < forest->n_sequences; i++)
        for (size_t at = forest->ends[i]; at != STM_NONE && use_of(forest, i, &forest->segments[at], &use);
             at = forest->segments[at].parent)
            forest->segments[at].n_uses++;
    for (size_t at = 0; at < forest->n_segments; at++) {
        forest->segments[at].first_use = forest->n_uses;
        forest->n_uses += forest->segments[at].n_uses;
        forest->segments[at].n_uses = 0;
    }
    STM_TRY(stm_alloc(forest->n_uses, sizeof *forest->uses, &forest->uses));
    for (size_t i = 0; i < forest->n_sequences; i++)
        for (size_t at = forest->ends[i]; at != STM_NONE && use_of(forest, i, &forest->segments[at], &use);
             at = forest->segments[at].parent) {
            stm_segment *segment = &forest->segments[at];
            forest->uses[segment->first_use + segment->n_uses++] = use;
        }
    return STM_OK;
}

stm_status stm_forest_create(const stm_batch *batch, const stm_sequence *sequences, size_t n,
                             const stm_forest_options *options, stm_forest *out)
{
    *out = (stm_forest){.batch = batch, .n_sequences = n};
    trie t = {.batch = batch, .options = options, .n_sequences = n};
    stm_status status;
    STM_GOTO_OUT(stm_alloc(n, sizeof *out->sequences, &out->sequences));
    STM_GOTO_OUT(stm_alloc(n, sizeof *out->ends, &out->ends));
    STM_GOTO_OUT(stm_alloc(2 * n, sizeof *t.nodes, &t.nodes)); /* a leaf each, and an inner node for each split */
    STM_GOTO_OUT(stm_alloc(n, sizeof *t.end, &t.end));
    if (n > 0)
        memcpy(out->sequences, sequences, n * sizeof *sequences);
    if (options->mode == STM_FORWARD_TREE)
        qsort_r(out->sequences, n, sizeof *sequences, compare_sequences, (void *)batch);
    t.sequences = out->sequences;
    size_t top = STM_NONE;
    for (size_t i = 0; i < n; i++)
        add_sequence(&t, i, &top);
    count_children(&t);
    STM_GOTO_OUT(number_segments(&t, out));
    sum_subtrees(out);
    find_ends(&t, out);
    STM_GOTO_OUT(list_uses(out));
out:
    free(t.nodes);
    free(t.end);
    return status;
}

void stm_forest_clear(stm_forest *forest)
{
    free(forest->sequences);
    free(forest->ends);
    free(forest->segments);
    free(forest->uses);
    *forest = (stm_forest){0};
}
