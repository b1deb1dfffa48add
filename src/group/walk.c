#include "group/walk.h"

#include <string.h>

#include "group/profile.h"
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

/* A chunk with nothing below it elsewhere. */
static stm_status run_pack(stm_walk *walk, pack *p)
{
    if (p->n == 0)
        return STM_OK;
    stm_pass *pass = walk->pass;
    const bool gradient = pass->kind == STM_PASS_GRADIENT;
    const stm_mark device = stm_arena_mark(pass->device), host = stm_arena_mark(pass->host);
    stm_chunk *chunk;
    STM_TRY(stm_chunk_create(pass, p->segments, p->n, true, &chunk));
    STM_TRY(stm_chunk_forward(pass, chunk, gradient));
    if (gradient)
        STM_TRY(stm_chunk_backward(pass, chunk));
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

static stm_status run_subtrees(stm_walk *walk, const size_t *roots, size_t n);

static stm_status run_open(stm_walk *walk, size_t root)
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
    STM_TRY(stm_chunk_forward(pass, chunk, keeps(walk, p.n_rows)));
    STM_TRY(run_subtrees(walk, later, n_later));
    if (pass->kind == STM_PASS_GRADIENT)
        STM_TRY(stm_chunk_backward(pass, chunk));
    stm_arena_reset(pass->device, device);
    stm_arena_reset(pass->host, host);
    return STM_OK;
}

/* roots [n]: of subtrees, in preorder, whose ancestors are open. */
static stm_status run_subtrees(stm_walk *walk, const size_t *roots, size_t n)
{
    const stm_segment *s = walk->pass->forest->segments;
    const stm_mark host = stm_arena_mark(walk->pass->host);
    size_t most = 0;
    for (size_t i = 0; i < n; i++)
        most += s[roots[i]].last - roots[i];
    pack p;
    STM_TRY(begin_pack(walk, most, &p));
    for (size_t i = 0; i < n; i++) {
        const stm_segment *root = &s[roots[i]];
        if (p.n_rows + root->rows_below > walk->chunk_rows)
            STM_TRY(run_pack(walk, &p));
        if (root->rows_below <= walk->chunk_rows)
            add_to_pack(walk, roots[i], root->last, &p);
        else
            STM_TRY(run_open(walk, roots[i]));
    }
    STM_TRY(run_pack(walk, &p));
    stm_arena_reset(walk->pass->host, host);
    return STM_OK;
}

/* Shared segments */

typedef struct {
    stm_chunk *chunk;
    int owner;
} shared_chunk;

/* One chunk from as many of the entry's segments [*at, n) as fit. */
static stm_status open_shared(stm_walk *walk, const stm_shared *shared, size_t *at, shared_chunk *out)
{
    const stm_segment *s = walk->pass->forest->segments;
    const size_t *segments = walk->placement->segments + shared->first;
    const size_t first = *at;
    size_t n_rows = 0;
    do
        n_rows += s[segments[(*at)++]].n_rows;
    while (*at < shared->n && n_rows + s[segments[*at]].n_rows <= walk->chunk_rows);
    const bool mine = shared->owner == walk->team_rank;
    out->owner = shared->owner;
    STM_TRY(stm_chunk_create(walk->pass, segments + first, *at - first, mine, &out->chunk));
    return mine ? stm_chunk_forward(walk->pass, out->chunk, keeps(walk, n_rows)) : STM_OK;
}

static void broadcast_kv(const stm_walk *walk, const shared_chunk *shared)
{
    const stm_pass *pass = walk->pass;
    const size_t bytes = stm_chunk_kv_reals(pass, shared->chunk) * pass->model->backend->real_bytes;
    for (size_t l = 0; l < pass->model->config.n_layers; l++)
        stm_broadcast(walk->team, shared->owner, stm_chunk_kv(pass, shared->chunk, l), bytes);
}

static void reduce_dkv(const stm_walk *walk, const shared_chunk *shared)
{
    const stm_pass *pass = walk->pass;
    for (size_t l = pass->model->config.n_layers; l-- > 0;)
        stm_reduce_to(walk->team, shared->owner, stm_chunk_dkv(pass, shared->chunk, l),
                      stm_chunk_kv_reals(pass, shared->chunk), pass->model->backend->real_bytes);
}

static stm_status run_shared(stm_walk *walk, const stm_wave *wave, shared_chunk *chunks, size_t *n_chunks)
{
    *n_chunks = 0;
    for (size_t i = 0; i < wave->n_shared; i++) {
        const stm_shared *shared = &walk->placement->shared[wave->first_shared + i];
        for (size_t at = 0; at < shared->n;)
            STM_TRY(open_shared(walk, shared, &at, &chunks[(*n_chunks)++]));
    }
    STM_TRY(walk->pass->model->backend->synchronize(walk->pass->model->stream));
    stm_timers_push(walk->timers, STM_PHASE_KV);
    stm_profile_start(walk->pass);
    for (size_t i = 0; i < *n_chunks; i++)
        broadcast_kv(walk, &chunks[i]);
    stm_profile_lap(walk->pass, STM_STAGE_EXCHANGE);
    stm_timers_pop(walk->timers, STM_PHASE_KV);
    return STM_OK;
}

static stm_status shared_backward(stm_walk *walk, const shared_chunk *chunks, size_t n_chunks)
{
    STM_TRY(walk->pass->model->backend->synchronize(walk->pass->model->stream));
    for (size_t i = n_chunks; i-- > 0;) {
        stm_timers_push(walk->timers, STM_PHASE_KV);
        stm_profile_start(walk->pass);
        reduce_dkv(walk, &chunks[i]);
        stm_profile_lap(walk->pass, STM_STAGE_EXCHANGE);
        stm_timers_pop(walk->timers, STM_PHASE_KV);
        if (chunks[i].owner == walk->team_rank)
            STM_TRY(stm_chunk_backward(walk->pass, chunks[i].chunk));
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
    return run_subtrees(walk, roots, n);
}

static stm_status run_wave(stm_walk *walk, const stm_wave *wave)
{
    size_t most = 0, n_chunks;
    for (size_t i = 0; i < wave->n_shared; i++)
        most += walk->placement->shared[wave->first_shared + i].n;
    shared_chunk *chunks;
    STM_TRY(stm_arena_take(walk->pass->host, most * sizeof *chunks, &chunks));
    STM_TRY(run_shared(walk, wave, chunks, &n_chunks));
    STM_TRY(run_units(walk, wave));
    return walk->pass->kind == STM_PASS_GRADIENT ? shared_backward(walk, chunks, n_chunks) : STM_OK;
}

stm_status stm_walk_run(stm_walk *walk)
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
