#include "group/schedule.h"

#include <stdlib.h>

/* A list that grows. */
#define APPEND(list, n, capacity, ...)                                                                                 \
    do {                                                                                                               \
        STM_TRY(stm_reserve(&(list), &(capacity), (n) + 1, sizeof *(list)));                                           \
        (list)[(n)++] = __VA_ARGS__;                                                                                   \
    } while (0)

typedef struct {
    const stm_forest *forest;
    const stm_placement *placement;
    const stm_model *model;
    const stm_schedule_options *options;
    stm_schedule *out;
    size_t n_segments, n_reads, n_offers; /* in the lists of `out` */
    size_t event_capacity, chunk_capacity, segment_capacity, read_capacity, offer_capacity;
    size_t *shared_of;       /* [forest's n_segments]: the shared chunk that has the segment, or STM_NONE */
    size_t *first_shared;    /* [n_waves + 1]: shared chunks of each wave */
    size_t *seen;            /* [n_shared]: the last chunk that was found to read it, plus 1 */
    size_t slot;             /* of the next forward */
    size_t *opened, *closed; /* [n_shared]: time of these events */
    /* Where a rank's units are only counted, nothing is listed. */
    bool counts;
    size_t n_units;
} planning;

/* Shared chunks */

/* Chunks from as many consecutive segments of an entry as fit. */
static void cut(planning *p, const stm_shared *shared)
{
    const stm_segment *s = p->forest->segments;
    const size_t end = shared->first + shared->n;
    for (size_t at = shared->first; at < end;) {
        stm_shared_chunk *c = &p->out->shared[p->out->n_shared];
        *c = (stm_shared_chunk){.first_segment = at,
                                .owner = shared->everywhere ? p->options->team_rank : shared->owner,
                                .everywhere = shared->everywhere,
                                .chunk = STM_NONE};
        do {
            p->shared_of[p->placement->segments[at]] = p->out->n_shared;
            c->n_rows += s[p->placement->segments[at++]].n_rows;
            c->n++;
        } while (at < end && c->n_rows + s[p->placement->segments[at]].n_rows <= p->options->chunk_rows);
        p->out->n_shared++;
    }
}

static stm_status cut_waves(planning *p)
{
    const stm_placement *placement = p->placement;
    STM_TRY(stm_alloc(p->forest->n_segments, sizeof *p->shared_of, &p->shared_of));
    STM_TRY(stm_alloc(placement->n_waves + 1, sizeof *p->first_shared, &p->first_shared));
    STM_TRY(stm_alloc(placement->n_segments, sizeof *p->out->shared, &p->out->shared));
    for (size_t i = 0; i < p->forest->n_segments; i++)
        p->shared_of[i] = STM_NONE;
    for (size_t w = 0; w < placement->n_waves; w++) {
        const stm_wave *wave = &placement->waves[w];
        p->first_shared[w] = p->out->n_shared;
        for (size_t i = 0; i < wave->n_shared; i++)
            cut(p, &placement->shared[wave->first_shared + i]);
    }
    p->first_shared[placement->n_waves] = p->out->n_shared;
    return stm_alloc(p->out->n_shared, sizeof *p->seen, &p->seen);
}

/* What lies below the segment's ancestors is computed by `rank`. readers: [n_shared, team_size] 0/1. */
static void mark_readers(const planning *p, size_t segment, int rank, uint8_t *readers)
{
    const stm_segment *s = p->forest->segments;
    for (size_t at = s[segment].parent; at != STM_NONE; at = s[at].parent)
        if (p->shared_of[at] != STM_NONE)
            readers[p->shared_of[at] * (size_t)p->options->team_size + (size_t)rank] = 1;
}

static void find_readers(const planning *p, uint8_t *readers)
{
    const size_t team_size = (size_t)p->options->team_size;
    for (size_t u = 0; u < p->placement->n_units; u++)
        mark_readers(p, p->placement->units[u].segment, p->placement->units[u].rank, readers);
    for (size_t i = 0; i < p->out->n_shared; i++) {
        const stm_shared_chunk *c = &p->out->shared[i];
        for (size_t k = 0; k < c->n && !c->everywhere; k++)
            mark_readers(p, p->placement->segments[c->first_segment + k], c->owner, readers);
        if (!c->everywhere)
            readers[i * team_size + (size_t)c->owner] = 1;
        for (size_t r = 0; r < team_size && p->options->kind == STM_PASS_PREFILL; r++)
            readers[i * team_size + r] = 1; /* all sample from it */
    }
}

static stm_status list_members(planning *p)
{
    const size_t team_size = (size_t)p->options->team_size, n = p->out->n_shared;
    uint8_t *readers;
    size_t n_members = 0;
    STM_TRY(stm_alloc(n * team_size, sizeof *p->out->members, &p->out->members));
    STM_TRY(stm_alloc(n * team_size, 1, &readers));
    find_readers(p, readers);
    for (size_t i = 0; i < n; i++) {
        stm_shared_chunk *c = &p->out->shared[i];
        c->first_member = n_members;
        for (size_t k = 0; k < team_size; k++) {
            const size_t rank = ((size_t)c->owner + k) % team_size;
            if (readers[i * team_size + rank] && (!c->everywhere || k == 0))
                p->out->members[n_members++] = (int)rank;
        }
        c->n_members = (int)(n_members - c->first_member);
    }
    free(readers);
    return STM_OK;
}

/* Whether a member before the i-th is on its node. */
static bool follows(const planning *p, const int *members, int i)
{
    for (int k = 0; k < i; k++)
        if (p->options->nodes && p->options->nodes[members[k]] == p->options->nodes[members[i]])
            return true;
    return false;
}

static void list_leaders_of(planning *p, stm_shared_chunk *c, size_t *n_leaders, size_t *n_local)
{
    const int *members = p->out->members + c->first_member, *nodes = p->options->nodes;
    c->first_leader = *n_leaders;
    c->first_local = *n_local;
    for (int i = 0; i < c->n_members; i++) {
        if (!follows(p, members, i))
            p->out->leaders[(*n_leaders)++] = members[i];
        if (nodes && nodes[members[i]] == nodes[p->options->team_rank])
            p->out->local[(*n_local)++] = members[i];
    }
    c->n_leaders = (int)(*n_leaders - c->first_leader);
    c->n_local = (int)(*n_local - c->first_local);
    if (c->n_local == 1 || c->n_rows == 0)
        c->n_local = 0;
}

static stm_status list_leaders(planning *p)
{
    const size_t most = p->out->n_shared * (size_t)p->options->team_size;
    size_t n_leaders = 0, n_local = 0;
    STM_TRY(stm_alloc(most, sizeof *p->out->leaders, &p->out->leaders));
    STM_TRY(stm_alloc(most, sizeof *p->out->local, &p->out->local));
    for (size_t i = 0; i < p->out->n_shared; i++)
        list_leaders_of(p, &p->out->shared[i], &n_leaders, &n_local);
    return STM_OK;
}

static bool is_member(const planning *p, const stm_shared_chunk *c)
{
    for (int i = 0; i < c->n_members; i++)
        if (p->out->members[c->first_member + (size_t)i] == p->options->team_rank)
            return true;
    return false;
}

/* Events of this rank, as if it were alone
 *
 * Times are slots. An event that waits for forwards (BACKWARD, CLOSE) has that of the last of them. */

static stm_status add_event(planning *p, stm_event_kind kind, size_t chunk, size_t time)
{
    APPEND(p->out->events, p->out->n_events, p->event_capacity, (stm_event){kind, chunk, time});
    return STM_OK;
}

/* What the chunk's rows attend to elsewhere. */
static stm_status list_reads(planning *p, size_t chunk)
{
    stm_schedule *out = p->out;
    stm_planned_chunk *c = &out->chunks[chunk];
    const stm_segment *s = p->forest->segments;
    c->first_read = p->n_reads;
    for (size_t k = 0; k < c->n; k++)
        for (size_t at = s[out->segments[c->first_segment + k]].parent; at != STM_NONE; at = s[at].parent) {
            const size_t shared = p->shared_of[at];
            if (shared == STM_NONE || shared == c->shared || p->seen[shared] == chunk + 1)
                continue;
            p->seen[shared] = chunk + 1;
            APPEND(out->reads, p->n_reads, p->read_capacity, shared);
        }
    c->n_reads = p->n_reads - c->first_read;
    return STM_OK;
}

/* The chunk as given, with its segments [c.n]. */
static stm_status add_chunk(planning *p, const size_t *segments, stm_planned_chunk c, size_t *chunk)
{
    stm_schedule *out = p->out;
    c.first_segment = p->n_segments;
    for (size_t i = 0; i < c.n; i++) {
        APPEND(out->segments, p->n_segments, p->segment_capacity, segments[i]);
        c.n_rows += p->forest->segments[segments[i]].n_rows;
    }
    out->largest_rows = STM_MAX(out->largest_rows, c.n_rows);
    *chunk = out->n_chunks;
    APPEND(out->chunks, out->n_chunks, p->chunk_capacity, c);
    return c.computes ? list_reads(p, *chunk) : STM_OK;
}

static bool goes_back(const planning *p)
{
    return p->options->kind == STM_PASS_GRADIENT;
}

/* Segments gathered for a chunk of units. */
typedef struct {
    size_t *segments, n, n_rows;
} packing;

static void add_to_pack(const planning *p, size_t first, size_t last, packing *pack)
{
    for (size_t i = first; i < last; i++) {
        pack->segments[pack->n++] = i;
        pack->n_rows += p->forest->segments[i].n_rows;
    }
}

static stm_status open_units(planning *p, const packing *pack, bool opens, size_t *chunk)
{
    const size_t slot = p->slot++;
    const stm_planned_chunk planned = {.n = pack->n, .shared = STM_NONE, .computes = true, .opens = opens};
    p->n_units++;
    *chunk = STM_NONE;
    if (p->counts)
        return STM_OK;
    STM_TRY(add_chunk(p, pack->segments, planned, chunk));
    STM_TRY(add_event(p, STM_EVENT_OPEN, *chunk, slot));
    return add_event(p, STM_EVENT_FORWARD, *chunk, slot);
}

static stm_status close_units(planning *p, size_t chunk)
{
    if (p->counts)
        return STM_OK;
    if (goes_back(p))
        STM_TRY(add_event(p, STM_EVENT_BACKWARD, chunk, p->slot - 1));
    return p->options->kind == STM_PASS_PREFILL ? STM_OK : add_event(p, STM_EVENT_CLOSE, chunk, p->slot - 1);
}

/* A chunk with nothing below it elsewhere. */
static stm_status run_pack(planning *p, packing *pack)
{
    size_t chunk;
    if (pack->n == 0)
        return STM_OK;
    STM_TRY(open_units(p, pack, false, &chunk));
    pack->n = pack->n_rows = 0;
    return close_units(p, chunk);
}

static stm_status run_subtrees(planning *p, const size_t *roots, size_t n);

/* The root of a prompt of one token has no rows: what is below it waits for nothing, and nothing need stay open. */
static stm_status run_below_bare_root(planning *p, size_t root)
{
    const stm_segment *s = p->forest->segments;
    size_t *children, n = 0;
    STM_TRY(stm_alloc(s[root].last - root, sizeof *children, &children));
    for (size_t child = root + 1; child < s[root].last; child = s[child].last)
        children[n++] = child;
    const stm_status status = run_subtrees(p, children, n);
    free(children);
    return status;
}

static stm_status run_open(planning *p, size_t root)
{
    const stm_segment *s = p->forest->segments;
    const size_t most = s[root].last - root;
    size_t *later, n_later = 0, chunk;
    packing pack = {0};
    STM_TRY(stm_alloc(2 * most, sizeof *later, &later));
    pack.segments = later + most;
    add_to_pack(p, root, root + 1, &pack);
    for (size_t child = root + 1; child < s[root].last; child = s[child].last) {
        if (pack.n_rows + s[child].rows_below <= p->options->chunk_rows)
            add_to_pack(p, child, s[child].last, &pack);
        else
            later[n_later++] = child;
    }
    stm_status status;
    STM_GOTO_OUT(open_units(p, &pack, true, &chunk));
    STM_GOTO_OUT(run_subtrees(p, later, n_later));
    STM_GOTO_OUT(close_units(p, chunk));
out:
    free(later);
    return status;
}

/* Rows to fill each chunk to. A rank of a team overlaps its first chunk's forward and its last chunk's backward with
 * those of what is shared, and stages overlap one another's: so chunks become nearly equal, where a full one would be
 * followed by a small one. */
static size_t fill_of(const planning *p, const size_t *roots, size_t n)
{
    const stm_segment *s = p->forest->segments;
    const size_t chunk_rows = p->options->chunk_rows;
    size_t rows = 0, largest = 1;
    if (p->options->team_size == 1 && p->options->n_stages == 1)
        return chunk_rows;
    for (size_t i = 0; i < n; i++) {
        if (s[roots[i]].rows_below > chunk_rows)
            continue;
        rows += s[roots[i]].rows_below;
        largest = STM_MAX(largest, s[roots[i]].rows_below);
    }
    const size_t n_chunks = STM_MAX((size_t)1, (rows + chunk_rows - 1) / chunk_rows);
    return STM_MIN(chunk_rows, rows / n_chunks + largest);
}

/* roots [n]: of subtrees, in preorder, whose ancestors are open. */
static stm_status run_subtrees(planning *p, const size_t *roots, size_t n)
{
    const stm_segment *s = p->forest->segments;
    const size_t fill = fill_of(p, roots, n);
    size_t most = 0;
    for (size_t i = 0; i < n; i++)
        most += s[roots[i]].last - roots[i];
    packing pack = {0};
    stm_status status;
    STM_GOTO_OUT(stm_alloc(most, sizeof *pack.segments, &pack.segments));
    for (size_t i = 0; i < n; i++) {
        const stm_segment *root = &s[roots[i]];
        if (pack.n_rows + root->rows_below > fill)
            STM_GOTO_OUT(run_pack(p, &pack));
        if (root->rows_below <= p->options->chunk_rows)
            add_to_pack(p, roots[i], root->last, &pack);
        else if (root->n_rows == 0)
            STM_GOTO_OUT(run_below_bare_root(p, roots[i]));
        else
            STM_GOTO_OUT(run_open(p, roots[i]));
    }
    STM_GOTO_OUT(run_pack(p, &pack));
out:
    free(pack.segments);
    return status;
}

static stm_status run_units(planning *p, const stm_wave *wave, int rank)
{
    const stm_unit *units = p->placement->units + wave->first_unit;
    size_t *roots, n = 0;
    STM_TRY(stm_alloc(wave->n_units, sizeof *roots, &roots));
    for (size_t i = 0; i < wave->n_units; i++)
        if (units[i].rank == rank)
            roots[n++] = units[i].segment;
    p->n_units = 0;
    const stm_status status = run_subtrees(p, roots, n);
    free(roots);
    return status;
}

/* The most chunks of units that a rank of the team has in the wave. */
static stm_status count_units(planning *p, const stm_wave *wave, size_t *most)
{
    *most = 0;
    if (p->options->n_stages == 1 && !p->options->one_clock)
        return STM_OK; /* slots matter to nobody */
    p->counts = true;
    for (int rank = 0; rank < p->options->team_size; rank++) {
        const size_t slot = p->slot;
        STM_TRY(run_units(p, wave, rank));
        p->slot = slot;
        *most = STM_MAX(*most, p->n_units);
    }
    p->counts = false;
    return STM_OK;
}

static stm_status open_shared(planning *p, size_t i)
{
    stm_shared_chunk *c = &p->out->shared[i];
    const size_t slot = p->slot++;
    const bool mine = c->owner == p->options->team_rank;
    p->opened[i] = slot;
    const stm_planned_chunk planned = {.n = c->n, .shared = i, .computes = mine, .opens = true};
    if (!is_member(p, c))
        return STM_OK;
    STM_TRY(add_chunk(p, p->placement->segments + c->first_segment, planned, &c->chunk));
    STM_TRY(add_event(p, STM_EVENT_OPEN, c->chunk, slot));
    return mine ? add_event(p, STM_EVENT_FORWARD, c->chunk, slot) : STM_OK;
}

static stm_status close_wave(planning *p, size_t w)
{
    for (size_t i = p->first_shared[w + 1]; i-- > p->first_shared[w] && goes_back(p);)
        if (p->out->shared[i].owner == p->options->team_rank && p->out->shared[i].chunk != STM_NONE)
            STM_TRY(add_event(p, STM_EVENT_BACKWARD, p->out->shared[i].chunk, p->slot - 1));
    for (size_t i = p->first_shared[w + 1]; i-- > p->first_shared[w];)
        if (p->out->shared[i].chunk != STM_NONE)
            STM_TRY(add_event(p, STM_EVENT_CLOSE, p->out->shared[i].chunk, p->slot - 1));
    return STM_OK;
}

static stm_status run_wave(planning *p, size_t w)
{
    const stm_wave *wave = &p->placement->waves[w];
    size_t most;
    for (size_t i = p->first_shared[w]; i < p->first_shared[w + 1]; i++)
        STM_TRY(open_shared(p, i));
    STM_TRY(count_units(p, wave, &most));
    const size_t first_unit = p->slot;
    STM_TRY(run_units(p, wave, p->options->team_rank));
    p->slot = STM_MAX(p->slot, first_unit + most);
    for (size_t i = p->first_shared[w]; i < p->first_shared[w + 1]; i++)
        p->closed[i] = p->options->kind == STM_PASS_PREFILL ? SIZE_MAX : p->slot - 1;
    return p->options->kind == STM_PASS_PREFILL ? STM_OK : close_wave(p, w);
}

/* Order in a pipeline */

static bool waits_for_forwards(const stm_event *event)
{
    return event->kind == STM_EVENT_BACKWARD || event->kind == STM_EVENT_CLOSE;
}

/* Backward, and what follows it, `ahead` slots later. Both kinds keep their order. */
static stm_status run_ahead(planning *p, size_t ahead)
{
    const size_t n = p->out->n_events;
    const stm_event *events = p->out->events;
    stm_event *ordered;
    size_t n_ordered = 0, forward = 0;
    STM_TRY(stm_alloc(n, sizeof *ordered, &ordered));
    for (size_t i = 0; i <= n; i++) {
        if (i < n && !waits_for_forwards(&events[i]))
            continue;
        for (; forward < n &&
               (i == n || events[forward].time <= events[i].time + ahead || waits_for_forwards(&events[forward]));
             forward++)
            if (!waits_for_forwards(&events[forward]))
                ordered[n_ordered++] = events[forward];
        if (i < n) {
            ordered[n_ordered] = events[i];
            ordered[n_ordered++].time += ahead;
        }
    }
    free(p->out->events);
    p->out->events = ordered;
    return STM_OK;
}

/* Which backward is the last to add to a shared chunk. */
static stm_status list_offers(planning *p)
{
    stm_schedule *out = p->out;
    for (size_t i = 0; i < out->n_shared; i++)
        p->seen[i] = 0; /* now: whether its last backward was met */
    for (size_t e = out->n_events; e-- > 0;) {
        if (out->events[e].kind != STM_EVENT_BACKWARD)
            continue;
        stm_planned_chunk *c = &out->chunks[out->events[e].chunk];
        c->first_offer = p->n_offers;
        if (c->shared != STM_NONE && !p->seen[c->shared]++)
            APPEND(out->offers, p->n_offers, p->offer_capacity, c->shared);
        for (size_t i = c->first_read; i < c->first_read + c->n_reads; i++)
            if (!p->seen[out->reads[i]]++)
                APPEND(out->offers, p->n_offers, p->offer_capacity, out->reads[i]);
        c->n_offers = p->n_offers - c->first_offer;
    }
    return STM_OK;
}

/* Memory */

/* A chunk's bank: the first whose newest chunk is closed after it, or that has none. closed_at [n_chunks]: the event,
 * later than all where there is none. newest [n_chunks]: a bank's newest open chunk; below [n_chunks]: the one before.
 */
static void choose_bank(stm_schedule *out, size_t chunk, const size_t *closed_at, size_t *newest, size_t *below)
{
    size_t bank = 0;
    while (bank < out->n_banks && newest[bank] != STM_NONE && closed_at[newest[bank]] < closed_at[chunk])
        bank++;
    if (bank == out->n_banks)
        newest[out->n_banks++] = STM_NONE;
    below[chunk] = newest[bank];
    newest[bank] = chunk;
    out->chunks[chunk].bank = bank;
}

static stm_status choose_banks(planning *p)
{
    stm_schedule *out = p->out;
    size_t *closed_at;
    STM_TRY(stm_alloc(3 * out->n_chunks, sizeof *closed_at, &closed_at));
    size_t *newest = closed_at + out->n_chunks, *below = newest + out->n_chunks;
    for (size_t i = 0; i < out->n_chunks; i++)
        closed_at[i] = out->n_events + out->n_chunks - i;
    for (size_t e = 0; e < out->n_events; e++)
        if (out->events[e].kind == STM_EVENT_CLOSE)
            closed_at[out->events[e].chunk] = e;
    for (size_t e = 0; e < out->n_events; e++) {
        const size_t chunk = out->events[e].chunk;
        if (out->events[e].kind == STM_EVENT_OPEN)
            choose_bank(out, chunk, closed_at, newest, below);
        else if (out->events[e].kind == STM_EVENT_CLOSE)
            newest[out->chunks[chunk].bank] = below[chunk];
    }
    free(closed_at);
    return STM_OK;
}

/* Whether a chunk keeps its activations: one that others run below, while there is room for them and for one more
 * chunk (of each stage from here on). A matter of options and data alone, and the sums are the same either way. */
static bool keeps(const planning *p, const stm_planned_chunk *c, size_t used_bytes)
{
    const stm_schedule_options *o = p->options;
    if (!goes_back(p) || !c->opens)
        return goes_back(p);
    if (o->recompute != STM_RECOMPUTE_AUTO)
        return o->recompute == STM_RECOMPUTE_NEVER;
    const size_t next = (o->n_stages - o->stage) * (stm_chunk_kv_bytes(p->model, o->chunk_rows, true) +
                                                    stm_chunk_kept_bytes(p->model, o->chunk_rows)) +
                        stm_chunk_scratch_bytes(p->model, o->chunk_rows, true);
    return used_bytes + stm_chunk_kept_bytes(p->model, c->n_rows) + next <= o->room_bytes;
}

static void choose_kept(planning *p)
{
    stm_schedule *out = p->out;
    size_t used_bytes = 0;
    for (size_t e = 0; e < out->n_events; e++) {
        stm_planned_chunk *c = &out->chunks[out->events[e].chunk];
        const size_t kv_bytes = stm_chunk_kv_bytes(p->model, c->n_rows, goes_back(p));
        const size_t kept_bytes = stm_chunk_kept_bytes(p->model, c->n_rows);
        switch (out->events[e].kind) {
        case STM_EVENT_OPEN:
            used_bytes += kv_bytes;
            break;
        case STM_EVENT_FORWARD:
            c->keeps = keeps(p, c, used_bytes);
            used_bytes += c->keeps ? kept_bytes : 0;
            break;
        case STM_EVENT_BACKWARD:
            used_bytes -= c->keeps ? kept_bytes : 0;
            break;
        case STM_EVENT_CLOSE:
            used_bytes -= kv_bytes;
            break;
        }
    }
}

/* Places in windows
 *
 * By first fit, in the order of opening; a place is free when its chunk was closed at an earlier time. Where there are
 * no stages ranks count slots differently, but all closings of a wave come before the openings of the next. */

/* A place in a rank's part, taken until a time. */
typedef struct {
    int rank;
    size_t begin, end, until;
} taken_place;

typedef struct {
    taken_place *items; /* by `begin` */
    size_t n, capacity;
} taken_list;

static void free_places(taken_list *list, size_t now)
{
    size_t n = 0;
    for (size_t i = 0; i < list->n; i++)
        if (list->items[i].until >= now)
            list->items[n++] = list->items[i];
    list->n = n;
}

static stm_status take_place(taken_list *list, int rank, size_t bytes, size_t until, size_t *begin)
{
    size_t at = 0;
    *begin = 0;
    for (size_t i = 0; i < list->n; i++) {
        const taken_place *other = &list->items[i];
        if (other->rank != rank)
            continue;
        if (*begin + bytes <= other->begin)
            break;
        *begin = STM_MAX(*begin, other->end);
    }
    STM_TRY(stm_reserve(&list->items, &list->capacity, list->n + 1, sizeof *list->items));
    for (at = list->n++; at > 0 && list->items[at - 1].begin > *begin; at--)
        list->items[at] = list->items[at - 1];
    list->items[at] = (taken_place){rank, *begin, *begin + bytes, until};
    return STM_OK;
}

/* Whether others on its node read the leader's K and V. */
static bool has_guests(const planning *p, const stm_shared_chunk *c, int leader)
{
    const int *members = p->out->members + c->first_member;
    for (int i = 0; i < c->n_members; i++)
        if (members[i] != leader && p->options->nodes[members[i]] == p->options->nodes[leader])
            return true;
    return false;
}

static stm_status place_shared(planning *p, size_t shared, taken_list *taken)
{
    enum { ALIGNMENT = 64 };
    stm_schedule *out = p->out;
    const stm_schedule_options *o = p->options;
    stm_shared_chunk *c = &out->shared[shared];
    const size_t ahead = goes_back(p) ? o->n_stages - 1 - o->stage : 0;
    const size_t until = p->closed[shared] == SIZE_MAX ? SIZE_MAX : p->closed[shared] + ahead;
    const size_t bytes = (stm_chunk_kv_bytes(p->model, c->n_rows, false) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    free_places(taken, p->opened[shared]);
    for (int i = 0; i < c->n_leaders && bytes > 0; i++) {
        const int leader = out->leaders[c->first_leader + (size_t)i];
        size_t begin;
        if (!has_guests(p, c, leader))
            continue;
        STM_TRY(take_place(taken, leader, bytes, until, &begin));
        out->window_bytes[leader] = STM_MAX(out->window_bytes[leader], begin + bytes);
        if (c->n_local > 0 && out->local[c->first_local] == leader)
            c->offset = begin;
    }
    return STM_OK;
}

static stm_status place_all(planning *p)
{
    taken_list taken = {0};
    stm_status status = stm_alloc((size_t)p->options->team_size, sizeof *p->out->window_bytes, &p->out->window_bytes);
    for (size_t i = 0; i < p->out->n_shared && status == STM_OK && p->options->nodes; i++)
        status = place_shared(p, i, &taken);
    free(taken.items);
    return status;
}

static stm_status plan(planning *p)
{
    const stm_schedule_options *o = p->options;
    STM_TRY(cut_waves(p));
    STM_TRY(list_members(p));
    STM_TRY(list_leaders(p));
    STM_TRY(stm_alloc(p->out->n_shared, sizeof *p->opened, &p->opened));
    STM_TRY(stm_alloc(p->out->n_shared, sizeof *p->closed, &p->closed));
    for (size_t w = 0; w < p->placement->n_waves; w++)
        STM_TRY(run_wave(p, w));
    if (goes_back(p) && o->stage + 1 < o->n_stages)
        STM_TRY(run_ahead(p, o->n_stages - 1 - o->stage));
    STM_TRY(place_all(p));
    STM_TRY(list_offers(p));
    STM_TRY(choose_banks(p));
    choose_kept(p);
    return STM_OK;
}

stm_status stm_schedule_create(const stm_forest *forest, const stm_placement *placement, const stm_model *model,
                               const stm_schedule_options *options, stm_schedule *out)
{
    planning p = {.forest = forest, .placement = placement, .model = model, .options = options, .out = out};
    *out = (stm_schedule){0};
    const stm_status status = plan(&p);
    free(p.shared_of);
    free(p.first_shared);
    free(p.seen);
    free(p.opened);
    free(p.closed);
    return status;
}

void stm_schedule_clear(stm_schedule *schedule)
{
    void *memory[] = {schedule->events, schedule->chunks,      schedule->shared,  schedule->segments,
                      schedule->reads,  schedule->offers,      schedule->members, schedule->leaders,
                      schedule->local,  schedule->window_bytes};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        free(memory[i]);
    *schedule = (stm_schedule){0};
}
