/* mpi/rounds_traffic.c: what the messages of mpi/rounds.h are, without sending them: for who plans. */
#include "mpi/collectives.h"
#include "mpi/rounds.h"

/* Who owns an element of a bucket. */
static size_t owner_of(const stm_shards *s, size_t bucket, size_t element)
{
    const size_t p = (size_t)s->n_ranks, n = STM_MIN(s->bucket_n, s->n - bucket * s->bucket_n);
    const size_t at = element - stm_shards_bucket(s, bucket), share = n / p, n_larger = n % p;
    return at < n_larger * (share + 1) ? at / (share + 1) : n_larger + (at - n_larger * (share + 1)) / share;
}

/* Of [begin, end), which lies in one bucket, what the ranks [first, last] own. */
static void cut_to(const stm_shards *s, size_t bucket, int first, int last, size_t *begin, size_t *end)
{
    size_t start, last_start, n;
    stm_shards_range(s, first, bucket, &start, &n);
    stm_shards_range(s, last, bucket, &last_start, &n);
    *begin = STM_MAX(*begin, start);
    *end = STM_MAX(STM_MIN(*end, last_start + n), *begin);
}

static void add_piece(const stm_shards *s, int rank, size_t begin, size_t end, int first, int last,
                      stm_rounds_traffic *out)
{
    const size_t bucket = (begin - s->first) / s->bucket_n;
    cut_to(s, bucket, first, last, &begin, &end);
    if (begin == end)
        return;
    size_t mine = begin, mine_end = end;
    cut_to(s, bucket, rank, rank, &mine, &mine_end);
    const size_t n_mine = mine_end - mine;
    out->n_messages += owner_of(s, bucket, end - 1) - owner_of(s, bucket, begin) + 1 - (n_mine > 0);
    out->n_reals += end - begin - n_mine;
}

static void add_pieces(const stm_shards *s, int rank, size_t begin, size_t end, int first, int last,
                       stm_rounds_traffic *out)
{
    while (begin < end) {
        const size_t bucket = (begin - s->first) / s->bucket_n;
        const size_t piece_end = STM_MIN(end, stm_shards_bucket(s, bucket) + s->bucket_n);
        add_piece(s, rank, begin, piece_end, first, last, out);
        begin = piece_end;
    }
}

stm_rounds_traffic stm_rounds_sent(const stm_rounds_options *o, int rank, size_t layer, int first, int last)
{
    stm_rounds_traffic sent = {0};
    if (layer < o->n_layers) {
        add_pieces(&o->shards, rank, o->bounds[layer], o->bounds[layer + 1], first, last, &sent);
        return sent;
    }
    add_pieces(&o->shards, rank, o->shards.first, o->bounds[0], first, last, &sent);
    add_pieces(&o->shards, rank, o->bounds[o->n_layers], o->shards.first + o->shards.n, first, last, &sent);
    return sent;
}
