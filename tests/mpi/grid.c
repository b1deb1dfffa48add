/* The process grid and its collectives, at any number of ranks. */
#include "mpi/grid.h"
#include "mpi/banner.h"
#include "support/mpi.h"

static int world_rank(void)
{
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}

static int world_size(void)
{
    int n;
    MPI_Comm_size(MPI_COMM_WORLD, &n);
    return n;
}

static void teams_are_consecutive_and_differ_by_one_at_most(void **state)
{
    (void)state;
    const int n = world_size();
    for (int64_t replica = 1; replica <= n; replica++) {
        stm_grid grid;
        assert_ok(stm_grid_create(MPI_COMM_WORLD, &(stm_axes){1, -1, replica}, 3, &grid));
        assert_int_equal(grid.n_teams, replica);
        assert_int_equal(grid.team_first[0], 0);
        assert_int_equal(grid.team_first[grid.n_teams], n);
        for (int t = 0; t + 1 < grid.n_teams; t++) {
            const int here = grid.team_first[t + 1] - grid.team_first[t];
            const int next = grid.team_first[t + 2] - grid.team_first[t + 1];
            assert_true(here == next || here == next + 1);
        }
        assert_int_equal(grid.rank, grid.team_first[grid.team] + grid.team_rank);
        assert_int_equal(grid.team_size, grid.team_first[grid.team + 1] - grid.team_first[grid.team]);
        assert_true(grid.node_rank < grid.node_size && grid.node_size <= n);
        stm_grid_destroy(&grid);
    }
}

/* Columns are the ranks of one place in each stage; stages are alike. */
static void stages_are_consecutive_and_alike(void **state)
{
    (void)state;
    const int n = world_size();
    for (int n_stages = 1; n_stages <= n; n_stages++) {
        stm_grid grid;
        if (n % n_stages != 0) {
            assert_fails(stm_grid_create(MPI_COMM_WORLD, &(stm_axes){n_stages, -1, -1}, 3, &grid), STM_ERR_INPUT,
                         "expected a divisor of the");
            continue;
        }
        const int size = n / n_stages;
        assert_ok(stm_grid_create(MPI_COMM_WORLD, &(stm_axes){n_stages, -1, -1}, 2, &grid));
        assert_int_equal(grid.n_stages, n_stages);
        assert_int_equal(grid.stage, grid.rank / size);
        assert_int_equal(grid.stage_rank, grid.rank % size);
        assert_int_equal(grid.stage_size, size);
        assert_int_equal(grid.n_teams, STM_MIN(size, 2));
        assert_int_equal(grid.team_first[grid.n_teams], size);
        assert_int_equal(grid.stage_rank, grid.team_first[grid.team] + grid.team_rank);
        int column_rank, column_size, team_size;
        MPI_Comm_rank(grid.column_comm, &column_rank);
        MPI_Comm_size(grid.column_comm, &column_size);
        MPI_Comm_size(grid.team_comm, &team_size);
        assert_true(column_rank == grid.stage && column_size == n_stages && team_size == grid.team_size);
        int places[] = {grid.team, -grid.team, grid.team_rank, -grid.team_rank}; /* the same in all of a column */
        const int mine[] = {grid.team, -grid.team, grid.team_rank, -grid.team_rank};
        MPI_Allreduce(MPI_IN_PLACE, places, 4, MPI_INT, MPI_MAX, grid.column_comm);
        assert_memory_equal(places, mine, sizeof mine);
        stm_grid_destroy(&grid);
    }
}

static void number_of_teams_follows_the_options(void **state)
{
    (void)state;
    const int n = world_size();
    stm_grid grid;
    for (size_t n_groups = 0; n_groups < 8; n_groups++) {
        assert_ok(stm_grid_create(MPI_COMM_WORLD, &(stm_axes){1, -1, -1}, n_groups, &grid));
        assert_int_equal(grid.n_teams, STM_MAX((size_t)1, STM_MIN((size_t)n, n_groups)));
        stm_grid_destroy(&grid);
    }
    /* teams for parallel.suffix 1 .. n at each number of ranks: sizes as near as can be, larger ones on a tie */
    const int expected[6][6] = {{0}, {0, 1}, {0, 2, 1}, {0, 3, 1, 1}, {0, 4, 2, 1, 1}, {0, 5, 2, 2, 1, 1}};
    for (int suffix = 1; suffix <= STM_MIN(n, 5); suffix++) {
        assert_ok(stm_grid_create(MPI_COMM_WORLD, &(stm_axes){1, suffix, -1}, 4, &grid));
        if (n <= 5)
            assert_int_equal(grid.n_teams, expected[n][suffix]);
        stm_grid_destroy(&grid);
    }
    assert_ok(stm_grid_create(MPI_COMM_WORLD, &(stm_axes){1, n, 1}, 4, &grid));
    stm_grid_destroy(&grid);
}

static void layouts_that_do_not_fit_are_refused_on_every_rank(void **state)
{
    (void)state;
    const int n = world_size();
    stm_grid grid;
    assert_fails(stm_grid_create(MPI_COMM_WORLD, &(stm_axes){1, n + 1, -1}, 4, &grid), STM_ERR_INPUT,
                 "parallel.suffix");
    assert_fails(stm_grid_create(MPI_COMM_WORLD, &(stm_axes){1, -1, n + 1}, 4, &grid), STM_ERR_INPUT,
                 "parallel.replica");
    assert_fails(stm_grid_create(MPI_COMM_WORLD, &(stm_axes){1, 0, -1}, 4, &grid), STM_ERR_INPUT, "found 0");
    if (n >= 3)
        assert_fails(stm_grid_create(MPI_COMM_WORLD, &(stm_axes){1, n, n}, 4, &grid), STM_ERR_INPUT,
                     "x parallel.replica");
}

static void worst_status_reaches_every_rank_with_the_lowest_ranks_message(void **state)
{
    (void)state;
    const int rank = world_rank(), n = world_size();
    stm_grid grid;
    assert_ok(stm_grid_create(MPI_COMM_WORLD, &(stm_axes){1, -1, -1}, 4, &grid));
    assert_ok(stm_agree(&grid, STM_OK));
    /* input trouble on rank 0, worse trouble on the last two */
    stm_status mine = STM_OK;
    if (rank == 0)
        mine = stm_fail(STM_ERR_INPUT, "a bad line");
    if (n > 1 && rank >= STM_MAX(1, n - 2))
        mine = stm_fail(STM_ERR_IO, "disk of %d is full", rank);
    char words[64];
    snprintf(words, sizeof words, n > 1 ? "rank %d: disk of %d is full" : "a bad line", STM_MAX(1, n - 2),
             STM_MAX(1, n - 2));
    assert_fails(stm_agree(&grid, mine), n > 1 ? STM_ERR_IO : STM_ERR_INPUT, words);
    stm_grid_destroy(&grid);
}

/* Values whose sum depends on its order, so that a sum in another order than that of ranks is seen. */
static double value_of(int rank, size_t i)
{
    const double scale[] = {1.0, 3e-5, -7e4, 11.0, -2e-3};
    return scale[rank % 5] * (1.0 + (double)(i % 97) / 97.0) / (3.0 + (double)rank);
}

static double sum_of(int n_ranks, size_t i, size_t real_bytes)
{
    double sum = 0;
    for (int r = 0; r < n_ranks; r++)
        sum += real_bytes == 4 ? (double)(float)value_of(r, i) : value_of(r, i);
    return real_bytes == 4 ? (double)(float)sum : sum;
}

static double get(const void *reals, size_t i, size_t real_bytes)
{
    return real_bytes == 4 ? (double)((const float *)reals)[i] : ((const double *)reals)[i];
}

static void *values(int rank, size_t n, size_t real_bytes)
{
    void *reals = malloc(n * real_bytes + 1);
    for (size_t i = 0; i < n; i++) {
        if (real_bytes == 4)
            ((float *)reals)[i] = (float)value_of(rank, i);
        else
            ((double *)reals)[i] = value_of(rank, i);
    }
    return reals;
}

static const size_t lengths[] = {0, 1, 3, 1001, 100003, (1 << 22) + 5};

static void sums_are_taken_in_rank_order_to_the_last_bit(void **state)
{
    (void)state;
    const int rank = world_rank(), n_ranks = world_size();
    for (size_t real_bytes = 4; real_bytes <= 8; real_bytes += 4)
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
            const size_t n = lengths[l];
            const int root = n_ranks - 1;
            void *to_all = values(rank, n, real_bytes), *to_one = values(rank, n, real_bytes);
            stm_all_reduce(MPI_COMM_WORLD, to_all, n, real_bytes);
            stm_reduce_to(MPI_COMM_WORLD, root, to_one, n, real_bytes);
            size_t n_wrong = 0;
            for (size_t i = 0; i < n; i++) {
                const double sum = sum_of(n_ranks, i, real_bytes);
                const double mine = real_bytes == 4 ? (double)(float)value_of(rank, i) : value_of(rank, i);
                n_wrong += get(to_all, i, real_bytes) != sum;
                n_wrong += get(to_one, i, real_bytes) != (rank == root ? sum : mine);
            }
            assert_int_equal(n_wrong, 0);
            free(to_all);
            free(to_one);
        }
}

static void extremes_are_taken_over_all_ranks(void **state)
{
    (void)state;
    const int rank = world_rank(), n = world_size();
    double high[2] = {rank, -rank}, low[2] = {rank, -rank};
    stm_all_reduce_max(MPI_COMM_WORLD, high, 2);
    stm_all_reduce_min(MPI_COMM_WORLD, low, 2);
    assert_true(high[0] == n - 1 && high[1] == 0 && low[0] == 0 && low[1] == -(n - 1));
}

static void every_element_has_one_owner(void **state)
{
    (void)state;
    for (size_t n = 0; n < 40; n++)
        for (size_t bucket_n = 1; bucket_n < 20; bucket_n += 3)
            for (int n_ranks = 1; n_ranks <= 7; n_ranks++) {
                const stm_shards shards = {.n = n, .bucket_n = bucket_n, .n_ranks = n_ranks};
                int owners[40] = {0};
                size_t total = 0;
                for (int r = 0; r < n_ranks; r++) {
                    size_t end = 0, count = 0;
                    for (size_t i = 0; i < stm_shards_n_ranges(&shards); i++) {
                        size_t first, length;
                        stm_shards_range(&shards, r, i, &first, &length);
                        assert_true(first >= end);
                        end = first + length;
                        assert_true(end <= n);
                        count += length;
                        for (size_t k = first; k < end; k++)
                            owners[k]++;
                    }
                    assert_int_equal(count, stm_shards_count(&shards, r));
                    total += count;
                }
                assert_int_equal(total, n);
                for (size_t k = 0; k < n; k++)
                    assert_int_equal(owners[k], 1);
            }
}

static void reduce_scatter_then_all_gather_is_the_sum(void **state)
{
    (void)state;
    const int rank = world_rank(), n_ranks = world_size();
    for (size_t real_bytes = 4; real_bytes <= 8; real_bytes += 4)
        for (size_t n = 1; n < 5000; n = 3 * n + 1) {
            const stm_shards shards = {.n = n, .bucket_n = 700, .n_ranks = n_ranks};
            void *reals = values(rank, n, real_bytes);
            stm_reduce_scatter(MPI_COMM_WORLD, &shards, reals, real_bytes);
            size_t n_wrong = 0;
            for (size_t i = 0; i < stm_shards_n_ranges(&shards); i++) {
                size_t first, length;
                stm_shards_range(&shards, rank, i, &first, &length);
                for (size_t k = first; k < first + length; k++)
                    n_wrong += get(reals, k, real_bytes) != sum_of(n_ranks, k, real_bytes);
            }
            assert_int_equal(n_wrong, 0);
            stm_all_gather_shards(MPI_COMM_WORLD, &shards, reals, real_bytes);
            for (size_t k = 0; k < n; k++)
                n_wrong += get(reals, k, real_bytes) != sum_of(n_ranks, k, real_bytes);
            assert_int_equal(n_wrong, 0);
            free(reals);
        }
}

static void bytes_of_all_ranks_come_in_rank_order(void **state)
{
    (void)state;
    const int rank = world_rank(), n_ranks = world_size();
    char mine[16], *all = NULL;
    size_t starts[64];
    memset(mine, 'a' + rank, sizeof mine);
    assert_ok(stm_gather_bytes(MPI_COMM_WORLD, mine, (size_t)rank, &all, starts)); /* rank 0 sends nothing */
    size_t at = 0;
    for (int r = 0; r < n_ranks; r++) {
        assert_int_equal(starts[r], at);
        for (int k = 0; k < r; k++)
            assert_int_equal(all[at++], 'a' + r);
    }
    assert_int_equal(starts[n_ranks], at);
    free(all);
}

static void a_file_is_read_by_rank_0_and_known_to_all(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder(), path[4200], *text = NULL;
    size_t n = 0;
    snprintf(path, sizeof path, "%s/text", folder);
    if (world_rank() == 0) {
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fputs("twelve bytes", file);
        fclose(file);
    }
    assert_ok(stm_broadcast_file(MPI_COMM_WORLD, path, &text, &n));
    assert_int_equal(n, 12);
    assert_string_equal(text, "twelve bytes");
    free(text);
    snprintf(path, sizeof path, "%s/absent", folder);
    assert_fails(stm_broadcast_file(MPI_COMM_WORLD, path, &text, &n), STM_ERR_INPUT, "/absent");
    stm_mpi_remove_folder(folder);
}

static void banner_counts_ranks_and_warns_of_shared_cores(void **state)
{
    (void)state;
    stm_grid grid;
    char *text = NULL;
    assert_ok(stm_grid_create(MPI_COMM_WORLD, &(stm_axes){1, -1, 1}, 4, &grid));
    assert_ok(stm_banner(&grid, 100000, "", "", &text));
    if (grid.rank == 0) {
        char words[64];
        snprintf(words, sizeof words, "%d rank%s", grid.n_ranks, grid.n_ranks == 1 ? "" : "s");
        assert_non_null(strstr(text, words));
        assert_non_null(strstr(text, "warning"));
    } else {
        assert_null(text);
    }
    free(text);
    stm_grid_destroy(&grid);
}

static void banner_folds_equal_nodes(void **state)
{
    (void)state;
    const stm_banner_rank ranks[] = {{"a1", 4, 2, "", ""}, {"a1", 4, 2, "", ""}, {"a2", 4, 2, "", ""},
                                     {"a2", 4, 2, "", ""}, {"b1", 8, 8, "", ""}, {"a3", 4, 2, "", ""},
                                     {"a3", 4, 2, "", ""}};
    char *text = NULL;
    const stm_banner_layout layout = {.n_stages = 1, .n_teams = 3, .smallest = 2, .largest = 3};
    assert_ok(stm_banner_text(ranks, 7, &layout, &text));
    assert_non_null(strstr(text, "7 ranks on 4 nodes"));
    assert_non_null(strstr(text, "nodes 1-2 (a1 .. a2): 2 ranks x 2 threads on 4 cores"));
    assert_non_null(strstr(text, "node 3 (b1): 1 rank x 8 threads on 8 cores"));
    assert_non_null(strstr(text, "node 4 (a3): 2 ranks x 2 threads on 4 cores"));
    assert_non_null(strstr(text, "nodes, 3 teams of 2 to 3 ranks\n"));
    assert_null(strstr(text, "warning"));
    free(text);
}

static void banner_names_stages_and_idle_ranks(void **state)
{
    (void)state;
    const stm_banner_rank ranks[] = {
        {"a1", 4, 2, "", ""}, {"a1", 4, 2, "", ""}, {"a2", 4, 2, "", ""}, {"a2", 4, 2, "", ""}};
    stm_banner_layout layout = {.n_stages = 2, .n_teams = 1, .smallest = 2, .largest = 2, .n_idle = 1};
    char *text = NULL;
    assert_ok(stm_banner_text(ranks, 4, &layout, &text));
    assert_non_null(strstr(text, "4 ranks on 2 nodes, 2 stages of 1 team of 2 ranks; 1 more rank is idle\n"));
    free(text);
    layout.n_idle = 2;
    assert_ok(stm_banner_text(ranks, 4, &layout, &text));
    assert_non_null(strstr(text, "; 2 more ranks are idle\n"));
    free(text);
}

static void banner_names_devices_and_warns_of_shared_ones(void **state)
{
    (void)state;
    const stm_banner_rank ranks[] = {{"a1", 8, 2, "H100", "01"}, {"a1", 8, 2, "H100", "02"},
                                     {"a2", 8, 2, "H100", "01"}, {"a2", 8, 2, "H100", "02"},
                                     {"a3", 8, 2, "H100", "02"}, {"a3", 8, 2, "H100", "02"}};
    stm_banner_layout layout = {.n_stages = 1, .n_teams = 1, .smallest = 6, .largest = 6};
    char *text = NULL;
    assert_ok(stm_banner_text(ranks, 4, &layout, &text));
    assert_null(strstr(text, "gradients"));
    assert_non_null(strstr(text, "nodes 1-2 (a1 .. a2): 2 ranks x 2 threads on 8 cores\n    2 GPUs: H100\n"));
    assert_null(strstr(text, "warning"));
    free(text);
    layout.carrier = "NCCL 2.28.9";
    assert_ok(stm_banner_text(ranks, 6, &layout, &text));
    assert_non_null(strstr(text, "\n  gradients and new weights go by NCCL 2.28.9\n"));
    assert_non_null(
        strstr(text, "node 3 (a3): 2 ranks x 2 threads on 8 cores\n    1 GPU: H100\n  warning: 2 ranks share 1 GPU"));
    free(text);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(teams_are_consecutive_and_differ_by_one_at_most),
        cmocka_unit_test(stages_are_consecutive_and_alike),
        cmocka_unit_test(number_of_teams_follows_the_options),
        cmocka_unit_test(layouts_that_do_not_fit_are_refused_on_every_rank),
        cmocka_unit_test(worst_status_reaches_every_rank_with_the_lowest_ranks_message),
        cmocka_unit_test(sums_are_taken_in_rank_order_to_the_last_bit),
        cmocka_unit_test(extremes_are_taken_over_all_ranks),
        cmocka_unit_test(every_element_has_one_owner),
        cmocka_unit_test(reduce_scatter_then_all_gather_is_the_sum),
        cmocka_unit_test(bytes_of_all_ranks_come_in_rank_order),
        cmocka_unit_test(a_file_is_read_by_rank_0_and_known_to_all),
        cmocka_unit_test(banner_counts_ranks_and_warns_of_shared_cores),
        cmocka_unit_test(banner_folds_equal_nodes),
        cmocka_unit_test(banner_names_stages_and_idle_ranks),
        cmocka_unit_test(banner_names_devices_and_warns_of_shared_ones),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
