/* Memory that ranks of a team on one node see alike. */
#include "mpi/window.h"

#include <stdlib.h>

#include "support/mpi.h"
#include "support/support.h"

enum { BYTES = 10000, PLACE = 64 };

/* A team of all ranks, dealt out to nodes. */
static void set_up(int n_nodes, stm_grid *grid, stm_window **window)
{
    int n_ranks;
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    assert_ok(stm_grid_create(MPI_COMM_WORLD, &(stm_axes){1, n_ranks, 1}, 1, grid));
    for (int i = 0; i < grid->team_size; i++)
        grid->team_nodes[i] = i % n_nodes;
    assert_ok(stm_window_create(grid, window));
}

static void tear_down(stm_grid *grid, stm_window *window)
{
    stm_window_destroy(window);
    stm_grid_destroy(grid);
}

/* Part r has (r + 1) * BYTES. */
static bool reserve(const stm_grid *grid, stm_window *window, size_t scale)
{
    size_t *bytes;
    assert_ok(stm_alloc((size_t)grid->team_size, sizeof *bytes, &bytes));
    for (int i = 0; i < grid->team_size; i++)
        bytes[i] = scale * (size_t)(i + 1) * BYTES;
    const bool reserved = stm_window_reserve(window, bytes);
    free(bytes);
    return reserved;
}

static void write_own(const stm_grid *grid, stm_window *window, char content)
{
    memset(stm_window_at(window, grid->team_rank, PLACE), content + grid->team_rank, BYTES - PLACE);
    stm_window_synchronize(window);
    stm_window_barrier(window);
    stm_window_synchronize(window);
}

static void every_part_is_seen_on_its_node(void **state)
{
    (void)state;
    for (int n_nodes = 1; n_nodes <= 3; n_nodes++) {
        stm_grid grid;
        stm_window *window;
        set_up(n_nodes, &grid, &window);
        assert_true((window != NULL) == (grid.team_size > n_nodes));
        for (size_t scale = 1; window && scale <= 3; scale++) { /* it grows */
            assert_true(reserve(&grid, window, scale));
            assert_true(stm_window_bytes(window) >= scale * (size_t)(grid.team_rank + 1) * BYTES ||
                        stm_window_bytes(window) == 0);
            if (stm_window_bytes(window) > 0)
                write_own(&grid, window, (char)scale);
            for (int i = 0; i < grid.team_size && stm_window_bytes(window) > 0; i++) {
                const char *part =
                    grid.team_nodes[i] == grid.team_nodes[grid.team_rank] ? stm_window_at(window, i, 0) : NULL;
                for (size_t k = PLACE; part && k < BYTES; k++)
                    assert_int_equal(part[k], (char)scale + i);
            }
            if (stm_window_bytes(window) > 0)
                stm_window_barrier(window);
        }
        tear_down(&grid, window);
    }
}

static void what_is_large_enough_keeps_its_content(void **state)
{
    (void)state;
    stm_grid grid;
    stm_window *window;
    set_up(1, &grid, &window);
    if (window) {
        assert_true(reserve(&grid, window, 2));
        write_own(&grid, window, 5);
        assert_true(reserve(&grid, window, 1));
        assert_int_equal(((char *)stm_window_at(window, 0, 0))[PLACE], 5);
        stm_window_barrier(window);
    }
    tear_down(&grid, window);
}

static void where_there_is_no_memory_all_ranks_are_told(void **state)
{
    (void)state;
    stm_grid grid;
    stm_window *window;
    set_up(1, &grid, &window);
    if (window) {
        assert_false(reserve(&grid, window, (size_t)1 << 40));
        assert_int_equal(stm_window_bytes(window), 0);
        assert_true(reserve(&grid, window, 1));
    }
    tear_down(&grid, window);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_part_is_seen_on_its_node),
        cmocka_unit_test(what_is_large_enough_keeps_its_content),
        cmocka_unit_test(where_there_is_no_memory_all_ranks_are_told),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
