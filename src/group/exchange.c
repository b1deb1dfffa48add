#include "group/exchange.h"

#include "group/profile.h"
#include "mpi/relay.h"

typedef struct {
    stm_shared_chunk shared;
    int *members, n_members; /* ranks that read it, the owner first */
    int last_reader;         /* the last on this rank to add to its dK, dV: a shared chunk, or STM_UNITS */
    bool read_now;           /* by the chunk that runs forward */
    size_t kv, dkv;          /* routes, where `travels` */
    bool travels;
} planned_chunk;

struct stm_exchange {
    stm_pass *pass;
    MPI_Comm team;
    int team_size, team_rank;
    stm_timers *timers;
    stm_relay *relay;
    stm_layer_hooks hooks;
    int n_chunks;
    planned_chunk *chunks;
    int *chunk_of; /* [n_segments]: which shared chunk of the wave, or -1 */
    /* What runs. */
    int running;
    bool backward, last;
};

/* Waiting is what the team costs: it counts as such wherever it happens. */
static double begin_wait(stm_exchange *e)
{
    stm_timers_push(e->timers, STM_PHASE_KV);
    return stm_now_s();
}

static void end_wait(stm_exchange *e, double begin_s)
{
    stm_profile_exclude(e->pass, STM_STAGE_EXCHANGE, stm_now_s() - begin_s);
    stm_timers_pop(e->timers, STM_PHASE_KV);
}

static void wait_for(stm_exchange *e, size_t route, size_t layer)
{
    if (stm_relay_has(e->relay, route, layer))
        return;
    const double begin_s = begin_wait(e);
    stm_relay_wait(e->relay, route, layer);
    end_wait(e, begin_s);
}

/* Hooks */

static void meet_forward(stm_exchange *e, size_t layer)
{
    if (e->running != STM_UNITS && e->chunks[e->running].travels)
        stm_relay_offer(e->relay, e->chunks[e->running].kv, layer);
    for (int i = 0; i < e->n_chunks; i++)
        if (e->chunks[i].read_now && e->chunks[i].travels)
            wait_for(e, e->chunks[i].kv, layer);
}

/* Offers what the chunk that runs is the last to add to. */
static void offer_sums(stm_exchange *e, int reader, size_t layer)
{
    for (int i = 0; i < e->n_chunks; i++)
        if (e->chunks[i].travels && e->chunks[i].last_reader == reader)
            stm_relay_offer(e->relay, e->chunks[i].dkv, layer);
}

static void meet_backward(stm_exchange *e, size_t layer)
{
    if (e->running != STM_UNITS || e->last)
        offer_sums(e, e->running, layer);
    if (e->running != STM_UNITS && e->chunks[e->running].travels)
        wait_for(e, e->chunks[e->running].dkv, layer);
}

static stm_status meet(void *context, size_t layer, bool backward)
{
    stm_exchange *e = context;
    const stm_model *model = e->pass->model;
    if (backward != e->backward || e->n_chunks == 0)
        return STM_OK; /* forward before backward: again, for activations, and nobody waits for it */
    STM_TRY(model->backend->synchronize(model->stream));
    if (backward)
        meet_backward(e, layer);
    else
        meet_forward(e, layer);
    return STM_OK;
}

static void drive(void *context)
{
    stm_relay_drive(((stm_exchange *)context)->relay);
}

/* Plan */

stm_status stm_exchange_create(stm_pass *pass, MPI_Comm team, stm_timers *timers, stm_exchange **out)
{
    stm_exchange *e;
    const size_t n = pass->forest->n_segments;
    STM_TRY(stm_arena_take(pass->host, sizeof *e, &e));
    *e = (stm_exchange){.pass = pass, .team = team, .timers = timers};
    STM_MPI(MPI_Comm_size(team, &e->team_size));
    STM_MPI(MPI_Comm_rank(team, &e->team_rank));
    STM_TRY(stm_arena_take(pass->host, n * sizeof *e->chunk_of, &e->chunk_of));
    for (size_t i = 0; i < n; i++)
        e->chunk_of[i] = -1;
    e->relay = stm_relay_create(team);
    e->hooks = (stm_layer_hooks){.meet = meet, .drive = drive, .context = e};
    pass->hooks = e->team_size > 1 ? &e->hooks : NULL;
    *out = e;
    return STM_OK;
}

void stm_exchange_destroy(stm_exchange *exchange)
{
    if (!exchange)
        return;
    exchange->pass->hooks = NULL;
    stm_relay_destroy(exchange->relay);
}

int stm_exchange_team_size(const stm_exchange *exchange)
{
    return exchange->team_size;
}

int stm_exchange_n_chunks(const stm_exchange *exchange)
{
    return exchange->n_chunks;
}

const stm_shared_chunk *stm_exchange_chunk(const stm_exchange *exchange, int i)
{
    return &exchange->chunks[i].shared;
}

bool stm_exchange_is_mine(const stm_exchange *exchange, int i)
{
    return exchange->chunks[i].shared.owner == exchange->team_rank;
}

/* Chunks from as many consecutive segments of an entry as fit. */
static void cut(stm_exchange *e, const stm_shared *shared, const size_t *segments, size_t chunk_rows)
{
    const stm_segment *s = e->pass->forest->segments;
    for (size_t at = 0; at < shared->n;) {
        planned_chunk *c = &e->chunks[e->n_chunks];
        *c = (planned_chunk){.shared = {.segments = segments + at, .owner = shared->owner}, .last_reader = STM_UNITS};
        do {
            e->chunk_of[segments[at]] = e->n_chunks;
            c->shared.n_rows += s[segments[at++]].n_rows;
            c->shared.n++;
        } while (at < shared->n && c->shared.n_rows + s[segments[at]].n_rows <= chunk_rows);
        e->n_chunks++;
    }
}

/* Something that `rank` computes lies below the segment's ancestors. of: the shared chunk that it is in, or
 * STM_UNITS. */
static void mark_readers(stm_exchange *e, size_t segment, int of, int rank, uint8_t *readers)
{
    const stm_segment *s = e->pass->forest->segments;
    for (size_t at = s[segment].parent; at != STM_NONE; at = s[at].parent) {
        const int i = e->chunk_of[at];
        if (i < 0 || i == of)
            continue;
        readers[i * e->team_size + rank] = 1;
        if (of != STM_UNITS && rank == e->team_rank &&
            (e->chunks[i].last_reader == STM_UNITS || of < e->chunks[i].last_reader))
            e->chunks[i].last_reader = of;
    }
}

/* readers: [n_chunks, team_size] 0/1. */
static void find_readers(stm_exchange *e, const stm_placement *placement, const stm_wave *wave, uint8_t *readers)
{
    for (size_t u = wave->first_unit; u < wave->first_unit + wave->n_units; u++)
        mark_readers(e, placement->units[u].segment, STM_UNITS, placement->units[u].rank, readers);
    for (int i = 0; i < e->n_chunks; i++) {
        const stm_shared_chunk *c = &e->chunks[i].shared;
        readers[i * e->team_size + c->owner] = 1;
        for (size_t k = 0; k < c->n; k++)
            mark_readers(e, c->segments[k], i, c->owner, readers);
        for (int r = 0; r < e->team_size && e->pass->kind == STM_PASS_PREFILL; r++)
            readers[i * e->team_size + r] = 1; /* all sample from it */
    }
}

/* The owner, then the others in order of rank from there on. */
static void list_members(stm_exchange *e, const uint8_t *readers, int i)
{
    planned_chunk *c = &e->chunks[i];
    for (int k = 0; k < e->team_size; k++) {
        const int rank = (c->shared.owner + k) % e->team_size;
        if (readers[rank])
            c->members[c->n_members++] = rank;
    }
    c->shared.reads = readers[e->team_rank];
    if (stm_exchange_is_mine(e, i))
        c->last_reader = i; /* its rows read one another */
    c->travels = c->shared.reads && c->n_members > 1 && c->shared.n_rows > 0;
}

stm_status stm_exchange_begin(stm_exchange *e, const stm_placement *placement, const stm_wave *wave, size_t chunk_rows)
{
    stm_arena *host = e->pass->host;
    const size_t n_ranks = (size_t)e->team_size;
    size_t most = 0;
    for (size_t i = 0; i < wave->n_shared; i++)
        most += placement->shared[wave->first_shared + i].n;
    e->n_chunks = 0;
    STM_TRY(stm_arena_take(host, most * sizeof *e->chunks, &e->chunks));
    for (size_t i = 0; i < wave->n_shared; i++) {
        const stm_shared *shared = &placement->shared[wave->first_shared + i];
        cut(e, shared, placement->segments + shared->first, chunk_rows);
    }
    const size_t n = (size_t)e->n_chunks * n_ranks;
    uint8_t *readers;
    int *members;
    STM_TRY(stm_arena_take(host, n, &readers));
    STM_TRY(stm_arena_take(host, n * sizeof *members, &members));
    for (size_t i = 0; i < n; i++)
        readers[i] = 0;
    find_readers(e, placement, wave, readers);
    for (int i = 0; i < e->n_chunks; i++) {
        e->chunks[i].members = members + (size_t)i * n_ranks;
        list_members(e, readers + (size_t)i * n_ranks, i);
    }
    return STM_OK;
}

/* Chunks */

stm_status stm_exchange_open(stm_exchange *e, int i)
{
    planned_chunk *c = &e->chunks[i];
    stm_pass *pass = e->pass;
    const size_t real_bytes = pass->model->backend->real_bytes;
    if (!c->shared.reads)
        return STM_OK;
    STM_TRY(stm_chunk_create(pass, c->shared.segments, c->shared.n, stm_exchange_is_mine(e, i), &c->shared.chunk));
    if (!c->travels)
        return STM_OK;
    stm_route route = {.kind = STM_RELAY_SPREAD,
                       .members = c->members,
                       .n_members = c->n_members,
                       .id = (size_t)i,
                       .n_steps = pass->model->config.n_layers,
                       .n = stm_chunk_kv_reals(pass, c->shared.chunk),
                       .real_bytes = real_bytes,
                       .reals = stm_chunk_kv(pass, c->shared.chunk, 0)};
    c->kv = stm_relay_open(e->relay, &route);
    if (pass->kind != STM_PASS_GRADIENT)
        return STM_OK;
    route.kind = STM_RELAY_SUM;
    route.reals = stm_chunk_dkv(pass, c->shared.chunk, 0);
    if (stm_relay_n_children(c->members, c->n_members, e->team_rank) > 0)
        STM_TRY(stm_arena_take(pass->device, route.n * real_bytes, &route.room));
    c->dkv = stm_relay_open(e->relay, &route);
    return STM_OK;
}

void stm_exchange_forward(stm_exchange *e, int i, const size_t *segments, size_t n)
{
    const stm_segment *s = e->pass->forest->segments;
    e->running = i;
    e->backward = false;
    for (int k = 0; k < e->n_chunks; k++)
        e->chunks[k].read_now = false;
    for (size_t k = 0; k < n && e->n_chunks > 0; k++)
        for (size_t at = s[segments[k]].parent; at != STM_NONE; at = s[at].parent)
            if (e->chunk_of[at] >= 0 && e->chunk_of[at] != i)
                e->chunks[e->chunk_of[at]].read_now = true;
}

void stm_exchange_backward(stm_exchange *e, int i, bool last)
{
    e->running = i;
    e->backward = true;
    e->last = last;
    if (i == STM_UNITS || !e->chunks[i].travels)
        return;
    stm_profile_start(e->pass);
    const double begin_s = begin_wait(e);
    stm_relay_settle(e->relay, e->chunks[i].kv);
    end_wait(e, begin_s);
}

void stm_exchange_complete(stm_exchange *e, int i)
{
    offer_sums(e, i, 0);
}

void stm_exchange_finish(stm_exchange *e)
{
    stm_profile_start(e->pass);
    const double begin_s = begin_wait(e);
    stm_relay_finish(e->relay);
    end_wait(e, begin_s);
    for (int i = 0; i < e->n_chunks; i++)
        for (size_t k = 0; k < e->chunks[i].shared.n; k++)
            e->chunk_of[e->chunks[i].shared.segments[k]] = -1;
    e->n_chunks = 0;
}
