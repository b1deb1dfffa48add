#include "mpi/rounds.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/collectives.h"
#include "mpi/pairwise.h"

enum { SLOTS = 4 }; /* places under way at a time */

static const size_t ENDS = (size_t)-1;

/* A part of one bucket that lies in one layer, or in the ends. */
typedef struct {
    size_t bucket, first, n;
    size_t layer; /* or ENDS */
} piece;

struct stm_rounds {
    stm_rounds_options options;
    int rank;
    size_t *bounds, *packed; /* packed: [buckets], where this rank's range begins among its sums */
    piece *pieces;           /* of a round, in its order; then the ends' */
    size_t n_pieces, n_ends; /* of a round; of the ends */
    size_t *layer_end;       /* [n_layers]: pieces of a round up to the layer's last */
    stm_pairwise *pairwise;
    char *parts; /* [slots, n_ranks + 1, largest share] */
    size_t share_bytes;
    char *sums;
    const char *ends;
    /* Since begin. */
    bool agreed;
    size_t n_rounds, capacity;
    size_t *table;       /* [n_rounds, n_ranks + 2], see row_of */
    size_t round, layer; /* this rank's: the round of its chunk, n_rounds after the last; layers it still has there */
    size_t n_filled;     /* rooms handed out */
    size_t busy_until[STM_ROUNDS_ROOMS]; /* free when so many places are */
};

static size_t n_buckets(const stm_rounds_options *o)
{
    return stm_shards_n_ranges(&o->shards);
}

static size_t share_bytes(const stm_rounds_options *o)
{
    const size_t p = (size_t)o->shards.n_ranks;
    return (STM_MIN(o->shards.bucket_n, o->shards.n) + p - 1) / p * o->real_bytes;
}

size_t stm_rounds_room_reals(const stm_rounds_options *options)
{
    size_t most = 0;
    for (size_t l = 0; l < options->n_layers; l++)
        most = STM_MAX(most, options->bounds[l + 1] - options->bounds[l]);
    return most;
}

/* At most: each bound cuts one bucket in two. */
static size_t most_pieces(const stm_rounds_options *o)
{
    return n_buckets(o) + o->n_layers + 1;
}

size_t stm_rounds_bytes(const stm_rounds_options *options)
{
    return SLOTS * ((size_t)options->shards.n_ranks + 1) * share_bytes(options) + most_pieces(options) * sizeof(piece) +
           n_buckets(options) * sizeof(size_t);
}

/* The part of a piece that a rank owns. */
static void owned(const stm_rounds *r, const piece *of, int rank, size_t *first, size_t *n)
{
    stm_shards_range(&r->options.shards, rank, of->bucket, first, n);
    const size_t begin = STM_MAX(*first, of->first), end = STM_MIN(*first + *n, of->first + of->n);
    *first = begin;
    *n = begin < end ? end - begin : 0;
}

static size_t rounds_end(const stm_rounds *r)
{
    return r->n_rounds * r->n_pieces;
}

static const piece *piece_at(const stm_rounds *r, size_t place)
{
    return place < rounds_end(r) ? &r->pieces[place % r->n_pieces] : &r->pieces[r->n_pieces + place - rounds_end(r)];
}

/* Of a round: for each rank the place of its part among the parts, 0 where it has none; then the number of parts with
 * the sum so far; then how many rounds before this one have a part of this rank. */
static size_t *row_of(const stm_rounds *r, size_t round)
{
    return r->table + round * ((size_t)r->options.shards.n_ranks + 2);
}

/* The place of a rank's part; 0: it has none. rank n_ranks: the number of parts, the sum so far among them. */
static size_t part_of(const stm_rounds *r, size_t place, int rank)
{
    return place >= rounds_end(r) ? (size_t)rank + 1 : row_of(r, place / r->n_pieces)[rank];
}

/* A layer's room: of a round they alternate, but the rounds of a rank go on where the last one ended. */
static char *room_of(const stm_rounds *r, size_t fill)
{
    return (char *)r->options.rooms +
           fill % STM_ROUNDS_ROOMS * stm_rounds_room_reals(&r->options) * r->options.real_bytes;
}

/* This rank's elements from `first` on, of a place it contributes to. */
static char *mine_at(const stm_rounds *r, size_t place, size_t first)
{
    const piece *of = piece_at(r, place);
    if (of->layer == ENDS)
        return (char *)(uintptr_t)r->ends + first * r->options.real_bytes;
    const size_t n_chunks = row_of(r, place / r->n_pieces)[r->options.shards.n_ranks + 1]; /* before */
    const size_t fill = (n_chunks + 1) * r->options.n_layers - 1 - of->layer;
    return room_of(r, fill) + (first - r->bounds[of->layer]) * r->options.real_bytes;
}

/* Parts of a place: this rank's sum, then those of the ranks that contribute. */
static char *part_at(const stm_rounds *r, size_t place, size_t i, size_t n)
{
    char *parts = r->parts + place % SLOTS * ((size_t)r->options.shards.n_ranks + 1) * r->share_bytes;
    return parts + i * n * r->options.real_bytes;
}

static void *find(const void *owner, size_t place, int peer, bool sends, size_t *n)
{
    const stm_rounds *r = owner;
    size_t first;
    *n = 0;
    if (part_of(r, place, sends ? r->rank : peer) == 0)
        return NULL;
    owned(r, piece_at(r, place), sends ? peer : r->rank, &first, n);
    if (*n == 0)
        return NULL;
    return sends ? mine_at(r, place, first) : part_at(r, place, part_of(r, place, peer), *n);
}

static void add_parts(void *owner, size_t place)
{
    const stm_rounds *r = owner;
    const piece *of = piece_at(r, place);
    size_t first, n, range_first, range_n;
    owned(r, of, r->rank, &first, &n);
    if (n == 0)
        return;
    stm_shards_range(&r->options.shards, r->rank, of->bucket, &range_first, &range_n);
    const size_t real_bytes = r->options.real_bytes;
    char *sum = r->sums + (r->packed[of->bucket] + first - range_first) * real_bytes;
    stm_reach_copy(r->options.reach, part_at(r, place, 0, n), sum, n * real_bytes);
    const size_t mine = part_of(r, place, r->rank);
    if (mine > 0)
        stm_reach_copy(r->options.reach, part_at(r, place, mine, n), mine_at(r, place, first), n * real_bytes);
    stm_reach_add_in_order(r->options.reach, part_of(r, place, r->options.shards.n_ranks), n, real_bytes,
                           part_at(r, place, 0, n), sum);
}

/* Creation */

/* Pieces of [begin, end), from its end to its front. */
static size_t add_pieces(stm_rounds *r, size_t at, size_t begin, size_t end, size_t layer)
{
    const stm_shards *s = &r->options.shards;
    while (begin < end) {
        const size_t bucket = (end - 1 - s->first) / s->bucket_n;
        const size_t first = STM_MAX(begin, stm_shards_bucket(s, bucket));
        r->pieces[at++] = (piece){bucket, first, end - first, layer};
        end = first;
    }
    return at;
}

static void cut(stm_rounds *r)
{
    const stm_rounds_options *o = &r->options;
    size_t packed = 0;
    for (size_t l = o->n_layers; l-- > 0;)
        r->layer_end[l] = r->n_pieces = add_pieces(r, r->n_pieces, r->bounds[l], r->bounds[l + 1], l);
    size_t n = add_pieces(r, r->n_pieces, r->bounds[o->n_layers], o->shards.first + o->shards.n, ENDS);
    n = add_pieces(r, n, o->shards.first, r->bounds[0], ENDS);
    r->n_ends = n - r->n_pieces;
    for (size_t i = 0; i < n_buckets(o); i++) {
        size_t first, n_here;
        stm_shards_range(&o->shards, r->rank, i, &first, &n_here);
        r->packed[i] = packed;
        packed += n_here;
    }
}

static stm_status set_up(stm_rounds *r)
{
    const stm_rounds_options *o = &r->options;
    STM_TRY(stm_alloc(o->n_layers + 1, sizeof *r->bounds, &r->bounds));
    memcpy(r->bounds, o->bounds, (o->n_layers + 1) * sizeof *r->bounds);
    r->options.bounds = r->bounds;
    STM_TRY(stm_alloc(n_buckets(o), sizeof *r->packed, &r->packed));
    STM_TRY(stm_alloc(most_pieces(o), sizeof *r->pieces, &r->pieces));
    STM_TRY(stm_alloc(o->n_layers, sizeof *r->layer_end, &r->layer_end));
    STM_TRY(stm_reach_alloc(o->reach, SLOTS * ((size_t)o->shards.n_ranks + 1) * r->share_bytes, &r->parts));
    cut(r);
    const stm_pairwise_options pairwise = {.comm = o->comm,
                                           .tag = STM_TAG_ROUNDS,
                                           .n_slots = SLOTS,
                                           .real_bytes = o->real_bytes,
                                           .reach = o->reach,
                                           .find = find,
                                           .complete = add_parts,
                                           .owner = r};
    return stm_pairwise_create(&pairwise, &r->pairwise);
}

stm_status stm_rounds_create(const stm_rounds_options *options, stm_rounds **out)
{
    stm_rounds *r;
    STM_TRY(stm_alloc(1, sizeof *r, &r));
    *out = r;
    *r = (stm_rounds){.options = *options, .share_bytes = share_bytes(options)};
    STM_MPI(MPI_Comm_rank(options->comm, &r->rank));
    return set_up(r);
}

void stm_rounds_destroy(stm_rounds *rounds)
{
    if (!rounds)
        return;
    stm_pairwise_destroy(rounds->pairwise);
    free(rounds->bounds);
    free(rounds->packed);
    free(rounds->pieces);
    free(rounds->layer_end);
    stm_reach_free(rounds->options.reach, rounds->parts);
    free(rounds->table);
    free(rounds);
}

/* Agreement */

static int compare_keys(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The different keys of all ranks, in order: rounds [*n], which the caller frees. */
static stm_status list_rounds(const uint64_t *all, size_t n_all, uint64_t **rounds, size_t *n)
{
    STM_TRY(stm_alloc(n_all + 1, sizeof **rounds, rounds));
    if (n_all > 0)
        memcpy(*rounds, all, n_all * sizeof *all);
    qsort(*rounds, n_all, sizeof **rounds, compare_keys);
    *n = 0;
    for (size_t i = 0; i < n_all; i++)
        if (i == 0 || (*rounds)[i] != (*rounds)[*n - 1])
            (*rounds)[(*n)++] = (*rounds)[i];
    return STM_OK;
}

static stm_status need_table(stm_rounds *r)
{
    if (r->n_rounds <= r->capacity)
        return STM_OK;
    free(r->table);
    r->table = NULL;
    r->capacity = 0;
    STM_TRY(stm_alloc(r->n_rounds * ((size_t)r->options.shards.n_ranks + 2), sizeof *r->table, &r->table));
    r->capacity = r->n_rounds;
    return STM_OK;
}

/* From who has parts (1) to where they stand. */
static void number_parts(stm_rounds *r)
{
    const size_t n_ranks = (size_t)r->options.shards.n_ranks;
    size_t n_mine = 0;
    for (size_t round = 0; round < r->n_rounds; round++) {
        size_t *row = row_of(r, round), n = 1;
        for (size_t rank = 0; rank < n_ranks; rank++)
            if (row[rank])
                row[rank] = n++;
        row[n_ranks] = n;
        row[n_ranks + 1] = n_mine;
        n_mine += row[r->rank] > 0;
    }
}

/* starts [n_ranks + 1]: bytes, where each rank's keys begin. */
static stm_status take_rounds(stm_rounds *r, const uint64_t *all, const size_t *starts)
{
    const size_t n_ranks = (size_t)r->options.shards.n_ranks;
    uint64_t *rounds = NULL;
    stm_status status;
    STM_GOTO_OUT(list_rounds(all, starts[n_ranks] / sizeof *all, &rounds, &r->n_rounds));
    STM_GOTO_OUT(need_table(r));
    if (r->n_rounds > 0)
        memset(r->table, 0, r->n_rounds * (n_ranks + 2) * sizeof *r->table);
    for (size_t rank = 0; rank < n_ranks; rank++)
        for (size_t i = starts[rank] / sizeof *all; i < starts[rank + 1] / sizeof *all; i++) {
            const uint64_t *at = bsearch(&all[i], rounds, r->n_rounds, sizeof *rounds, compare_keys);
            row_of(r, (size_t)(at - rounds))[rank] = 1;
        }
    number_parts(r);
out:
    free(rounds);
    return status;
}

/* This rank's next chunk is of the first round, from this one on, that it contributes to; it has nothing before. */
static void go_to_round(stm_rounds *r, size_t round)
{
    while (round < r->n_rounds && row_of(r, round)[r->rank] == 0)
        round++;
    r->round = round;
    r->layer = r->options.n_layers;
    stm_pairwise_offer(r->pairwise, round * r->n_pieces);
}

void stm_rounds_begin(stm_rounds *r, void *sums, const void *ends)
{
    r->sums = sums;
    r->ends = ends;
    r->agreed = false;
    r->n_filled = 0;
    for (size_t i = 0; i < STM_ROUNDS_ROOMS; i++)
        r->busy_until[i] = 0;
}

void stm_rounds_agree(stm_rounds *r, const uint64_t *keys, size_t n)
{
    size_t *starts = stm_scratch(((size_t)r->options.shards.n_ranks + 1) * sizeof *starts);
    char *all;
    stm_status status = stm_gather_bytes(r->options.comm, keys, n * sizeof *keys, &all, starts);
    if (status == STM_OK) {
        status = take_rounds(r, (const uint64_t *)(const void *)all, starts);
        free(all);
    }
    if (status != STM_OK)
        stm_abort_in_team(r->options.comm);
    stm_scratch_free(starts);
    r->agreed = true;
    stm_pairwise_begin_places(r->pairwise, rounds_end(r) + r->n_ends);
    go_to_round(r, 0);
}

/* A chunk */

void *stm_rounds_room(stm_rounds *r, size_t layer)
{
    assert(r->agreed && r->round < r->n_rounds && layer + 1 == r->layer);
    (void)layer;
    if (stm_pairwise_n_free(r->pairwise) < r->busy_until[r->n_filled % STM_ROUNDS_ROOMS])
        return NULL;
    return room_of(r, r->n_filled);
}

void stm_rounds_offer(stm_rounds *r)
{
    const size_t end = r->round * r->n_pieces + r->layer_end[--r->layer];
    r->busy_until[r->n_filled++ % STM_ROUNDS_ROOMS] = end;
    stm_pairwise_offer(r->pairwise, end);
    if (r->layer == 0)
        go_to_round(r, r->round + 1);
}

void stm_rounds_drive(stm_rounds *rounds)
{
    if (rounds)
        stm_pairwise_drive(rounds->pairwise);
}

/* The end */

void stm_rounds_end(stm_rounds *r)
{
    r->round = r->n_rounds;
    stm_pairwise_offer(r->pairwise, rounds_end(r));
}

bool stm_rounds_settled(const stm_rounds *r)
{
    return r->agreed && stm_pairwise_n_free(r->pairwise) >= rounds_end(r);
}

void stm_rounds_settle(stm_rounds *r)
{
    if (!r->agreed)
        stm_rounds_agree(r, NULL, 0);
    stm_rounds_end(r);
    stm_pairwise_wait(r->pairwise, rounds_end(r));
    while (!stm_rounds_settled(r))
        stm_pairwise_drive(r->pairwise);
}

void stm_rounds_finish(stm_rounds *r)
{
    stm_rounds_settle(r);
    stm_pairwise_finish(r->pairwise);
}
