/* The closing table over ranks, and a log that only rank 0 writes. */
#include "metrics/timers.h"

#include "metrics/log.h"
#include "metrics/waits.h"
#include "support/mpi.h"

static int world_rank(void)
{
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}

static void table_holds_the_extremes_and_the_mean_over_ranks(void **state)
{
    (void)state;
    int n_ranks;
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    stm_timers timers;
    stm_timers_init(&timers);
    timers.self_s[STM_PHASE_UPDATE] = 10.0 * (world_rank() + 1); /* 10 .. 10 n: mean 5 (n + 1) */
    timers.begin_s -= 1000;
    timers.self_s[STM_PHASE_OTHER] = 1000 - timers.self_s[STM_PHASE_UPDATE];
    char *text;
    assert_ok(stm_timers_table(MPI_COMM_WORLD, &timers, &text));
    if (world_rank() != 0) {
        assert_null(text);
        return;
    }
    char expected[128];
    snprintf(expected, sizeof expected, "\n%-18s %10.2f %10.2f %10.2f ", "update", 10.0, 5.0 * (n_ranks + 1),
             10.0 * n_ranks);
    assert_non_null(strstr(text, expected));
    assert_non_null(strstr(text, "\nwall "));
    assert_null(strstr(text, "rollout")); /* took no time */
    free(text);
}

/* Each phase goes to its own two fields. */
static void record_holds_how_long_ranks_waited_for_what(void **state)
{
    (void)state;
    static const stm_phase phases[STM_N_WAITS] = {STM_PHASE_KV,        STM_PHASE_DKV,    STM_PHASE_STAGE,
                                                  STM_PHASE_GRADIENTS, STM_PHASE_GATHER, STM_PHASE_WAIT};
    int n_ranks;
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    stm_timers timers;
    stm_timers_init(&timers);
    for (int i = 0; i < STM_N_WAITS; i++)
        timers.self_s[phases[i]] = 100 * (i + 1) + world_rank(); /* mean: 100 (i + 1) + (n - 1) / 2 */
    const stm_waits waits = stm_waits_of(&timers);
    stm_record record;
    stm_record_init(&record);
    stm_waits_report(MPI_COMM_WORLD, &waits, &record);
    const double mean = (n_ranks - 1) / 2.0, most = n_ranks - 1;
    const double found[STM_N_WAITS][2] = {
        {record.wait_kv_s, record.wait_kv_max_s},
        {record.wait_dkv_s, record.wait_dkv_max_s},
        {record.wait_stages_s, record.wait_stages_max_s},
        {record.wait_gradients_s, record.wait_gradients_max_s},
        {record.wait_parameters_s, record.wait_parameters_max_s},
        {record.wait_ranks_s, record.wait_ranks_max_s},
    };
    for (int i = 0; i < STM_N_WAITS; i++) {
        assert_near(found[i][0], 100 * (i + 1) + mean, 1e-14);
        assert_near(found[i][1], 100 * (i + 1) + most, 1e-14);
    }
}

static void only_rank_0_writes_the_log(void **state)
{
    (void)state;
    char *folder = stm_mpi_make_folder(), path[4200], *text;
    size_t n;
    snprintf(path, sizeof path, "%s/log.txt", folder);
    if (world_rank() == 0)
        assert_ok(stm_log_to(path));
    MPI_Barrier(MPI_COMM_WORLD);
    if (world_rank() != 0)
        assert_ok(stm_log_to(path));
    stm_log("rank %d", world_rank());
    assert_ok(stm_log_to(NULL));
    MPI_Barrier(MPI_COMM_WORLD);
    assert_ok(stm_read_file(path, &text, &n));
    assert_string_equal(text, "rank 0\n");
    free(text);
    stm_mpi_remove_folder(folder);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_holds_the_extremes_and_the_mean_over_ranks),
        cmocka_unit_test(record_holds_how_long_ranks_waited_for_what),
        cmocka_unit_test(only_rank_0_writes_the_log),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
