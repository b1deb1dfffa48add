#include "group/walk.h"

#include <string.h>

#include "group/exchange.h"
#include "mpi/grid.h"

/* Units
 *
 * Depth first, with a stack of open chunks. Subtrees that fit a chunk are packed, several to one, and are done with
 * when it has run. A larger one opens a chunk: its root, filled up with those of its children's subtrees that fit; the
 * other children run while it is open, and it goes back last. */

/* Segments gathered for a chunk. */
typedef struct {
    size_t *segments, n, n_rows;
} pack;

static stm_status begin_pack(stm_walk *walk, size_t most, pack *p)
{
    *p = (pack){0};
    return stm_arena_take(walk->pass->host, most * sizeof *p->segments, &p->segments);
}

static void add_to_pack(const stm_walk *walk, size_t first, size_t last, pack *p)
{
    for (size_t i = first; i < last; i++) {
        p->segments[p->n++] = i;
        p->n_rows += walk->pass->forest->segments[i].n_rows;
    }
}

static stm_status units_forward(stm_walk *walk, const pack *p, stm_chunk *chunk, bool keep)
{
    stm_exchange_forward(walk->exchange, STM_UNITS, p->segments, p->n);
    return stm_chunk_forward(walk->pass, chunk, keep);
}

static stm_status units_backward(stm_walk *walk, stm_chunk *chunk, bool last)
{
    stm_exchange_backward(walk->exchange, STM_UNITS, last);
    return stm_chunk_backward(walk->pass, chunk);
}

/* A chunk with nothing below it elsewhere. last: no other chunk of units goes back after it. */
static stm_status run_pack(stm_walk *walk, pack *p, bool last)
{
    if (p->n == 0)
        return STM_OK;
    stm_pass *pass = walk->pass;
    const bool gradient = pass->kind == STM_PASS_GRADIENT;
    const stm_mark device = stm_arena_mark(pass->device), host = stm_arena_mark(pass->host);
    stm_chunk *chunk;
    STM_TRY(stm_chunk_create(pass, p->segments, p->n, true, &chunk));
    STM_TRY(units_forward(walk, p, chunk, gradient));
    if (gradient)
        STM_TRY(units_backward(walk, chunk, last));
    stm_arena_reset(pass->device, device);
    stm_arena_reset(pass->host, host);
    p->n = p->n_rows = 0;
    return STM_OK;
}

/* Whether an open chunk keeps its activations: while there is room for them and for one more chunk. A matter of options
 * and data alone, and the sums are the same either way. */
static bool keeps(const stm_walk *walk, size_t n_rows)
{
    const stm_pass *pass = walk->pass;
    if (pass->kind != STM_PASS_GRADIENT || walk->recompute == STM_RECOMPUTE_ALWAYS)
        return false;
    if (walk->recompute == STM_RECOMPUTE_NEVER)
        return true;
    const size_t next = stm_chunk_kv_bytes(pass->model, walk->chunk_rows, true) +
                        stm_chunk_kept_bytes(pass->model, walk->chunk_rows) +
                        stm_chunk_scratch_bytes(pass->model, walk->chunk_rows, true);
    return stm_arena_used_bytes(pass->device) + stm_chunk_kept_bytes(pass->model, n_rows) + next <= walk->room_bytes;
}

static stm_status run_subtrees(stm_walk *walk, const size_t *roots, size_t n, bool last);

/* The root of a prompt of one token has no rows: what is below it waits for nothing, and nothing need stay open. */
static stm_status run_below_bare_root(stm_walk *walk, size_t root, bool last)
{
    const stm_segment *s = walk->pass->forest->segments;
    const stm_mark host = stm_arena_mark(walk->pass->host);
    size_t *children, n = 0;
    STM_TRY(stm_arena_take(walk->pass->host, (s[root].last - root) * sizeof *children, &children));
    for (size_t child = root + 1; child < s[root].last; child = s[child].last)
        children[n++] = child;
    STM_TRY(run_subtrees(walk, children, n, last));
    stm_arena_reset(walk->pass->host, host);
    return STM_OK;
}

static stm_status run_open(stm_walk *walk, size_t root, bool last)
{
    stm_pass *pass = walk->pass;
    const stm_segment *s = pass->forest->segments;
    const stm_mark device = stm_arena_mark(pass->device), host = stm_arena_mark(pass->host);
    size_t *later, n_later = 0;
    pack p;
    STM_TRY(begin_pack(walk, s[root].last - root, &p));
    STM_TRY(stm_arena_take(pass->host, (s[root].last - root) * sizeof *later, &later));
    add_to_pack(walk, root, root + 1, &p);
    for (size_t child = root + 1; child < s[root].last; child = s[child].last) {
        if (p.n_rows + s[child].rows_below <= walk->chunk_rows)
            add_to_pack(walk, child, s[child].last, &p);
        else
            later[n_later++] = child;
    }
    stm_chunk *chunk;
    STM_TRY(stm_chunk_create(pass, p.segments, p.n, true, &chunk));
    STM_TRY(units_forward(walk, &p, chunk, keeps(walk, p.n_rows)));
    STM_TRY(run_subtrees(walk, later, n_later, false));
    if (pass->kind == STM_PASS_GRADIENT)
        STM_TRY(units_backward(walk, chunk, last));
    stm_arena_reset(pass->device, device);
    stm_arena_reset(pass->host, host);
    return STM_OK;
}

/* Rows to fill each chunk to. A rank of a team overlaps its first chunk's forward and its last chunk's backward with
 * those of what is shared: so chunks become nearly equal, where a full one would be followed by a small one. */
static size_t fill_of(const stm_walk *walk, const size_t *roots, size_t n)
{
    const stm_segment *s = walk->pass->forest->segments;
    size_t rows = 0, largest = 1;
    if (stm_exchange_team_size(walk->exchange) == 1)
        return walk->chunk_rows;
    for (size_t i = 0; i < n; i++) {
        if (s[roots[i]].rows_below > walk->chunk_rows)
            continue;
        rows += s[roots[i]].rows_below;
        largest = STM_MAX(largest, s[roots[i]].rows_below);
    }
    const size_t n_chunks = STM_MAX((size_t)1, (rows + walk->chunk_rows - 1) / walk->chunk_rows);
    return STM_MIN(walk->chunk_rows, rows / n_chunks + largest);
}

/* roots [n]: of subtrees, in preorder, whose ancestors are open. last: no other units go back after them. */
static stm_status run_subtrees(stm_walk *walk, const size_t *roots, size_t n, bool last)
{
    const stm_segment *s = walk->pass->forest->segments;
    const stm_mark host = stm_arena_mark(walk->pass->host);
    const size_t fill = fill_of(walk, roots, n);
    size_t most = 0;
    for (size_t i = 0; i < n; i++)
        most += s[roots[i]].last - roots[i];
    pack p;
    STM_TRY(begin_pack(walk, most, &p));
    for (size_t i = 0; i < n; i++) {
        const stm_segment *root = &s[roots[i]];
        if (p.n_rows + root->rows_below > fill)
            STM_TRY(run_pack(walk, &p, false));
        if (root->rows_below <= walk->chunk_rows)
            add_to_pack(walk, roots[i], root->last, &p);
        else if (root->n_rows == 0)
            STM_TRY(run_below_bare_root(walk, roots[i], last && i + 1 == n));
        else
            STM_TRY(run_open(walk, roots[i], last && i + 1 == n));
    }
    STM_TRY(run_pack(walk, &p, last));
    stm_arena_reset(walk->pass->host, host);
    return STM_OK;
}

/* Waves */

static stm_status run_shared(stm_walk *walk)
{
    stm_exchange *exchange = walk->exchange;
    for (int i = 0; i < stm_exchange_n_chunks(exchange); i++) {
        const stm_shared_chunk *shared = stm_exchange_chunk(exchange, i);
        STM_TRY(stm_exchange_open(exchange, i));
        if (!stm_exchange_is_mine(exchange, i))
            continue;
        stm_exchange_forward(exchange, i, shared->segments, shared->n);
        STM_TRY(stm_chunk_forward(walk->pass, shared->chunk, keeps(walk, shared->n_rows)));
    }
    return STM_OK;
}

static stm_status run_units(stm_walk *walk, const stm_wave *wave)
{
    const stm_unit *units = walk->placement->units + wave->first_unit;
    size_t *roots, n = 0;
    STM_TRY(stm_arena_take(walk->pass->host, wave->n_units * sizeof *roots, &roots));
    for (size_t i = 0; i < wave->n_units; i++)
        if (units[i].rank == walk->team_rank)
            roots[n++] = units[i].segment;
    return run_subtrees(walk, roots, n, true);
}

static stm_status shared_backward(stm_walk *walk)
{
    stm_exchange *exchange = walk->exchange;
    stm_exchange_complete(exchange, STM_UNITS);
    for (int i = stm_exchange_n_chunks(exchange); i-- > 0;) {
        if (!stm_exchange_is_mine(exchange, i))
            continue;
        stm_exchange_backward(exchange, i, false);
        STM_TRY(stm_chunk_backward(walk->pass, stm_exchange_chunk(exchange, i)->chunk));
        stm_exchange_complete(exchange, i);
    }
    return STM_OK;
}

static stm_status run_wave(stm_walk *walk, const stm_wave *wave)
{
    STM_TRY(stm_exchange_begin(walk->exchange, walk->placement, wave, walk->chunk_rows));
    STM_TRY(run_shared(walk));
    STM_TRY(run_units(walk, wave));
    if (walk->pass->kind == STM_PASS_GRADIENT)
        STM_TRY(shared_backward(walk));
    stm_exchange_finish(walk->exchange);
    return STM_OK;
}

static stm_status run_waves(stm_walk *walk)
{
    for (size_t w = 0; w < walk->placement->n_waves; w++) {
        const stm_mark device = stm_arena_mark(walk->pass->device), host = stm_arena_mark(walk->pass->host);
        STM_TRY(run_wave(walk, &walk->placement->waves[w]));
        if (walk->pass->kind == STM_PASS_PREFILL)
            continue;
        stm_arena_reset(walk->pass->device, device);
        stm_arena_reset(walk->pass->host, host);
    }
    return STM_OK;
}

stm_status stm_walk_run(stm_walk *walk)
{
    const stm_mark host = stm_arena_mark(walk->pass->host);
    stm_status status = stm_exchange_create(walk->pass, walk->team, walk->timers, &walk->exchange);
    if (status == STM_OK)
        status = run_waves(walk);
    if (status != STM_OK)
        stm_abort_in_team(walk->team);
    stm_exchange_destroy(walk->exchange);
    walk->exchange = NULL;
    if (walk->pass->kind != STM_PASS_PREFILL)
        stm_arena_reset(walk->pass->host, host);
    return status;
}
