/* The sum of a gradient while ranks compute it, and the way back: the bits are those of stm_reduce_scatter and
 * stm_all_gather_shards, whatever the order in which elements become final, whoever is late, whatever MPI buffers,
 * and wherever the vector is (support/far.h). */
#include "mpi/reduction.h"

#include <unistd.h>

#include "base/random.h"
#include "mpi/gathering.h"
#include "support/far.h"
#include "support/mpi.h"

static int rank, n_ranks;
static bool synchronous; /* no send ends before its receive has begun */

int MPI_Isend(const void *reals, int n, MPI_Datatype type, int to, int tag, MPI_Comm comm, MPI_Request *request)
{
    return synchronous ? PMPI_Issend(reals, n, type, to, tag, comm, request)
                       : PMPI_Isend(reals, n, type, to, tag, comm, request);
}

static void find_ranks(void)
{
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
}

static double draw(uint64_t seed, size_t which, size_t i)
{
    const stm_random_key key = {.seed = seed, .use = STM_RANDOM_SHUFFLE, .slot = (uint32_t)which, .token = (uint32_t)i};
    return stm_random_uniform(&key) - 0.5;
}

/* Every rank is late now and then, each at its own times. */
static void dawdle(uint64_t seed, size_t i)
{
    const double x = draw(seed + 1000, (size_t)rank, i);
    if (x > 0)
        usleep((useconds_t)(x * 2000));
}

typedef struct {
    size_t first, n, bucket_n, n_behind; /* n_behind: elements after the cut */
} test_cut;

static const test_cut cuts[] = {
    {0, 1000, 64, 0},                            /* a last bucket that is shorter */
    {0, 64, 64, 0},                              /* one bucket */
    {7, 501, 100, 13},                           /* not from the start, not to the end */
    {0, 3, 64, 2},                               /* fewer elements than ranks */
    {5, 43, 2, 0},                               /* buckets with fewer elements than ranks */
    {4, 0, 64, 5},                               /* none */
    {3, 70000, 16384, 1}, {0, 240000, 60000, 0}, /* messages that MPI does not buffer */
};
enum { N_CUTS = sizeof cuts / sizeof *cuts };

static stm_shards shards_of(const test_cut *cut)
{
    return (stm_shards){.first = cut->first, .n = cut->n, .bucket_n = cut->bucket_n, .n_ranks = n_ranks};
}

static void *at(void *reals, size_t i, size_t real_bytes)
{
    return (char *)reals + i * real_bytes;
}

/* A number in (-0.5, 0.5) for element i, without the price of a random one. */
static double scramble(uint64_t seed, size_t i)
{
    const uint64_t x = (seed * 64 + (uint64_t)rank + 1) * 0x9e3779b97f4a7c15u ^ (i + 1) * 0xd1342543de82ef95u;
    return (double)((x ^ x >> 29) * 0xbf58476d1ce4e5b9u >> 11) * 0x1p-53 - 0.5;
}

/* What a rank has before the sum: numbers of very different size, so that each order of adding has its own bits. */
static void *vector_of(const test_cut *cut, uint64_t seed, size_t real_bytes)
{
    const size_t n = cut->first + cut->n + cut->n_behind;
    void *reals;
    assert_ok(stm_alloc(n + 1, real_bytes, &reals));
    for (size_t i = 0; i < n; i++) {
        const double x = scramble(seed, i) * (i % 3 == 0 ? 1e9 : 1);
        if (real_bytes == sizeof(float))
            ((float *)reals)[i] = (float)x;
        else
            ((double *)reals)[i] = x;
    }
    return reals;
}

static void assert_owned_equal(const stm_shards *shards, void *a, void *b, size_t real_bytes)
{
    for (size_t i = 0; i < stm_shards_n_ranges(shards); i++) {
        size_t first, n;
        stm_shards_range(shards, rank, i, &first, &n);
        assert_memory_equal(at(a, first, real_bytes), at(b, first, real_bytes), n * real_bytes);
    }
}

/* Writes the vector piece by piece, and says that each is final: from the end to the front, or in an order of this rank
 * alone; sometimes the rest is left to finish. Elements before and behind the cut are among them. */
static void write_pieces(stm_reduction *reduction, const test_cut *cut, const stm_reach *reach, uint64_t seed,
                         size_t real_bytes, void *from, void *to)
{
    const size_t n = cut->first + cut->n + cut->n_behind, n_pieces = 1 + seed % 7;
    size_t order[8];
    for (size_t i = 0; i < n_pieces; i++)
        order[i] = n_pieces - 1 - i;
    for (size_t i = n_pieces - 1; seed % 2 == 0 && i > 0; i--) {
        const size_t j = (size_t)((draw(seed, (size_t)rank + 77, i) + 0.5) * (double)(i + 1)), moved = order[j];
        order[j] = order[i];
        order[i] = moved;
    }
    for (size_t k = 0; k < n_pieces; k++) {
        const size_t begin = order[k] * n / n_pieces, end = (order[k] + 1) * n / n_pieces;
        dawdle(seed, k);
        far_write(reach, at(to, begin, real_bytes), at(from, begin, real_bytes), (end - begin) * real_bytes);
        if (k + 1 < n_pieces || seed % 3 > 0)
            stm_reduction_ready(reduction, begin, end - begin);
        stm_reduction_drive(reduction);
    }
}

static void reduce_like_the_collective(const test_cut *cut, const stm_reach *reach, size_t real_bytes)
{
    const size_t bytes = (cut->first + cut->n + cut->n_behind) * real_bytes;
    const stm_shards shards = shards_of(cut);
    stm_reduction *reduction;
    assert_ok(stm_reduction_create(MPI_COMM_WORLD, &shards, real_bytes, reach, &reduction));
    stm_reduction_drive(reduction); /* nothing was begun */
    for (uint64_t seed = 0; seed < (reach ? 3 : 8); seed++) {
        void *together = vector_of(cut, seed, real_bytes), *before = vector_of(cut, seed, real_bytes), *meanwhile;
        void *vector;
        assert_ok(stm_alloc(bytes + 1, 1, &meanwhile));
        assert_ok(stm_reach_alloc(reach, bytes, &vector));
        stm_reduction_begin(reduction, vector);
        write_pieces(reduction, cut, reach, seed, real_bytes, before, vector);
        stm_reduction_finish(reduction);
        assert_true(far_is_idle());
        far_read(reach, meanwhile, vector, bytes);
        stm_reach_free(reach, vector);
        assert_int_equal(stm_reduction_n_done(reduction), stm_shards_n_ranges(&shards));
        stm_reduce_scatter(MPI_COMM_WORLD, &shards, together, real_bytes);
        assert_owned_equal(&shards, together, meanwhile, real_bytes);
        assert_memory_equal(before, meanwhile, cut->first * real_bytes);
        assert_memory_equal(at(before, cut->first + cut->n, real_bytes), at(meanwhile, cut->first + cut->n, real_bytes),
                            cut->n_behind * real_bytes);
        free(before);
        free(together);
        free(meanwhile);
    }
    stm_reduction_destroy(reduction);
}

static void sums_have_the_bits_of_the_collective(void **state)
{
    (void)state;
    find_ranks();
    for (size_t i = 0; i < N_CUTS * FAR_KINDS; i++) {
        reduce_like_the_collective(&cuts[i / FAR_KINDS], far_reach((int)(i % FAR_KINDS)), sizeof(float));
        reduce_like_the_collective(&cuts[i / FAR_KINDS], far_reach((int)(i % FAR_KINDS)), sizeof(double));
    }
}

static void sums_do_not_rely_on_buffers(void **state)
{
    find_ranks();
    synchronous = true;
    sums_have_the_bits_of_the_collective(state);
    synchronous = false;
}

/* In float32 and rank by rank in double, as collectives.h promises; said here once more, for both are ours. */
static void sums_are_in_rank_order(void **state)
{
    (void)state;
    find_ranks();
    const test_cut *cut = &cuts[0];
    const stm_shards shards = shards_of(cut);
    stm_reduction *reduction;
    float *mine = vector_of(cut, 5, sizeof *mine), *all;
    assert_ok(stm_alloc(cut->n * (size_t)n_ranks, sizeof *all, &all));
    MPI_Allgather(mine, (int)cut->n, MPI_FLOAT, all, (int)cut->n, MPI_FLOAT, MPI_COMM_WORLD);
    assert_ok(stm_reduction_create(MPI_COMM_WORLD, &shards, sizeof *mine, NULL, &reduction));
    stm_reduction_begin(reduction, mine);
    stm_reduction_finish(reduction);
    for (size_t b = 0; b < stm_shards_n_ranges(&shards); b++) {
        size_t first, n;
        stm_shards_range(&shards, rank, b, &first, &n);
        for (size_t i = first; i < first + n; i++) {
            double sum = 0;
            for (int r = 0; r < n_ranks; r++)
                sum += all[(size_t)r * cut->n + i];
            assert_true(mine[i] == (float)sum);
        }
    }
    stm_reduction_destroy(reduction);
    free(mine);
    free(all);
}

static void gather_like_the_collective(const test_cut *cut, const stm_reach *reach, size_t real_bytes)
{
    const stm_shards shards = shards_of(cut);
    const size_t n_buckets = stm_shards_n_ranges(&shards), n = cut->first + cut->n + cut->n_behind;
    stm_gathering *gathering;
    assert_ok(stm_gathering_create(MPI_COMM_WORLD, &shards, real_bytes, reach, &gathering));
    stm_gathering_drive(gathering);
    for (uint64_t seed = 0; seed < (reach ? 2 : 6); seed++) {
        void *together = vector_of(cut, seed, real_bytes), *meanwhile = vector_of(cut, seed, real_bytes), *vector;
        stm_all_gather_shards(MPI_COMM_WORLD, &shards, together, real_bytes);
        memset(at(meanwhile, cut->first, real_bytes), 0, cut->n * real_bytes);
        assert_ok(stm_reach_alloc(reach, n * real_bytes, &vector));
        far_write(reach, vector, meanwhile, n * real_bytes);
        stm_gathering_begin(gathering, vector);
        for (size_t i = 0; i < n_buckets; i++) {
            size_t first, owned;
            if (i % (n_buckets / 8 + 1) == 0)
                dawdle(seed, i);
            stm_shards_range(&shards, rank, i, &first, &owned);
            far_write(reach, at(vector, first, real_bytes), at(together, first, real_bytes), owned * real_bytes);
            if (i + 1 < n_buckets || seed % 2 == 0)
                stm_gathering_offer(gathering, i + 1);
            stm_gathering_drive(gathering);
        }
        if (seed % 2 == 0) { /* a part of it, before the whole */
            stm_gathering_wait(gathering, 0, n / 2);
            far_read(reach, meanwhile, vector, n / 2 * real_bytes);
            assert_memory_equal(together, meanwhile, n / 2 * real_bytes);
        }
        stm_gathering_finish(gathering);
        assert_true(far_is_idle());
        far_read(reach, meanwhile, vector, n * real_bytes);
        stm_reach_free(reach, vector);
        assert_memory_equal(together, meanwhile, n * real_bytes);
        free(together);
        free(meanwhile);
    }
    stm_gathering_destroy(gathering);
}

static void owned_ranges_reach_all(void **state)
{
    (void)state;
    find_ranks();
    for (size_t i = 0; i < N_CUTS * FAR_KINDS; i++) {
        gather_like_the_collective(&cuts[i / FAR_KINDS], far_reach((int)(i % FAR_KINDS)), sizeof(float));
        gather_like_the_collective(&cuts[i / FAR_KINDS], far_reach((int)(i % FAR_KINDS)), sizeof(double));
    }
}

static void gathering_does_not_rely_on_buffers(void **state)
{
    find_ranks();
    synchronous = true;
    owned_ranges_reach_all(state);
    synchronous = false;
}

/* A rank that goes on with the next step, and one that gathers while another still reduces. */
static void steps_follow_each_other_without_a_barrier(void **state)
{
    (void)state;
    find_ranks();
    const test_cut *cut = &cuts[2];
    const stm_shards shards = shards_of(cut);
    stm_reduction *reduction;
    stm_gathering *gathering;
    assert_ok(stm_reduction_create(MPI_COMM_WORLD, &shards, sizeof(float), NULL, &reduction));
    assert_ok(stm_gathering_create(MPI_COMM_WORLD, &shards, sizeof(float), NULL, &gathering));
    float *expected[20], *seen[20];
    for (uint64_t step = 0; step < 20; step++) {
        seen[step] = vector_of(cut, step, sizeof(float));
        stm_reduction_begin(reduction, seen[step]);
        dawdle(step, 9);
        stm_reduction_finish(reduction);
        stm_gathering_begin(gathering, seen[step]);
        dawdle(step, 10);
        stm_gathering_finish(gathering);
    }
    for (uint64_t step = 0; step < 20; step++) {
        expected[step] = vector_of(cut, step, sizeof(float));
        stm_reduce_scatter(MPI_COMM_WORLD, &shards, expected[step], sizeof(float));
        stm_all_gather_shards(MPI_COMM_WORLD, &shards, expected[step], sizeof(float));
        assert_memory_equal(seen[step] + cut->first, expected[step] + cut->first, cut->n * sizeof(float));
        free(seen[step]);
        free(expected[step]);
    }
    stm_reduction_destroy(reduction);
    stm_gathering_destroy(gathering);
}

/* Messages of those that are late must go on. */
static void drive_until_all_are_here(stm_reduction *reduction)
{
    int all_are_here = 0;
    MPI_Request barrier;
    MPI_Ibarrier(MPI_COMM_WORLD, &barrier);
    while (!all_are_here) {
        stm_reduction_drive(reduction);
        MPI_Test(&barrier, &all_are_here, MPI_STATUS_IGNORE);
    }
}

/* What is ready early is summed before the rest is: the last buckets' sums stand before the first elements are final.
 */
static void buckets_are_summed_before_the_last_is_ready(void **state)
{
    (void)state;
    find_ranks();
    const test_cut *cut = &cuts[7]; /* 4 buckets */
    const stm_shards shards = shards_of(cut);
    stm_reduction *reduction;
    assert_ok(stm_reduction_create(MPI_COMM_WORLD, &shards, sizeof(float), NULL, &reduction));
    float *together = vector_of(cut, 1, sizeof(float)), *meanwhile = vector_of(cut, 1, sizeof(float));
    stm_reduce_scatter(MPI_COMM_WORLD, &shards, together, sizeof(float));
    stm_reduction_begin(reduction, meanwhile);
    stm_reduction_ready(reduction, cut->bucket_n, 3 * cut->bucket_n);
    while (n_ranks > 1 && stm_reduction_n_done(reduction) < 3) {
        usleep(100);
        stm_reduction_drive(reduction);
    }
    size_t first, n;
    stm_shards_range(&shards, rank, 1, &first, &n);
    assert_true(n_ranks == 1 || memcmp(together + first, meanwhile + first, n * sizeof(float)) == 0);
    drive_until_all_are_here(reduction); /* before any says that the rest is ready */
    stm_reduction_finish(reduction);
    assert_owned_equal(&shards, together, meanwhile, sizeof(float));
    stm_reduction_destroy(reduction);
    free(together);
    free(meanwhile);
}

/* Where the device carries messages, none of it waits for a rank that still computes: no group is begun before all
 * ranks have offered its place. */
static void groups_are_begun_when_all_have_offered(void **state)
{
    (void)state;
    find_ranks();
    const test_cut *cut = &cuts[7]; /* 4 buckets */
    const stm_shards shards = shards_of(cut);
    const stm_reach *reach = far_reach(FAR_GROUPS);
    const size_t n_before = far_n_groups();
    stm_reduction *reduction;
    void *vector, *mine = vector_of(cut, 3, sizeof(float));
    assert_ok(stm_reduction_create(MPI_COMM_WORLD, &shards, sizeof(float), reach, &reduction));
    assert_ok(stm_reach_alloc(reach, cut->n * sizeof(float), &vector));
    far_write(reach, vector, mine, cut->n * sizeof(float));
    stm_reduction_begin(reduction, vector);
    stm_reduction_ready(reduction, rank == 0 ? 2 * cut->bucket_n : 0, rank == 0 ? 2 * cut->bucket_n : cut->n);
    while (n_ranks > 1 && far_n_groups() < n_before + 2) {
        usleep(100);
        stm_reduction_drive(reduction);
    }
    drive_until_all_are_here(reduction);
    usleep(1000);
    stm_reduction_drive(reduction);
    assert_int_equal(far_n_groups() - n_before, n_ranks > 1 ? 2 : 0);
    drive_until_all_are_here(reduction); /* before rank 0 goes on */
    stm_reduction_finish(reduction);
    assert_int_equal(far_n_groups() - n_before, n_ranks > 1 ? 4 : 0);
    stm_reach_free(reach, vector);
    stm_reduction_destroy(reduction);
    free(mine);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_have_the_bits_of_the_collective),
        cmocka_unit_test(sums_do_not_rely_on_buffers),
        cmocka_unit_test(sums_are_in_rank_order),
        cmocka_unit_test(owned_ranges_reach_all),
        cmocka_unit_test(gathering_does_not_rely_on_buffers),
        cmocka_unit_test(steps_follow_each_other_without_a_barrier),
        cmocka_unit_test(buckets_are_summed_before_the_last_is_ready),
        cmocka_unit_test(groups_are_begun_when_all_have_offered),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
