/* Rollouts where the host runs ahead of the device that draws (rollout/ahead.h): the tokens of rounds that are awaited,
 * whatever ends, begins and must not end yet meanwhile. Of a backend under test; one that does not run ahead has
 * nothing to change. */
#include "support/device.h"
#include "support/rollouts.h"

static void set_up(rollout_fixture *f)
{
    const stm_backend *backend;
    assert_ok(stm_backend_find(backend_under_test(), STM_FLOAT64, &backend));
    rollout_set_up(f, STM_TEST_QWEN3, backend);
    rollout_end_often(f);
}

static void rounds_that_run_ahead_change_no_token(void **state)
{
    (void)state;
    int n_ranks;
    char team[64];
    rollout_fixture f;
    static const char *const runs[][2] = {{"rollout.rounds_ahead=1", "rollout.slots=64"},
                                          {"rollout.rounds_ahead=1", "rollout.slots=3"},
                                          {"rollout.rounds_ahead=4", "rollout.slots=5"},
                                          {"rollout.rounds_ahead=2", "rollout.slots=1"}};
    static const char *const early[] = {"rollout.min_new_tokens=0", "rollout.min_new_tokens=3"};
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    snprintf(team, sizeof team, "parallel.suffix=%d", n_ranks);
    set_up(&f);
    for (size_t i = 0; i < sizeof early / sizeof *early; i++) {
        const char *const awaited[] = {"rollout.group_size=4", "rollout.max_new_tokens=17", early[i],
                                       "rollout.rounds_ahead=0"};
        stm_batch expected;
        assert_ok(rollout_try(MPI_COMM_SELF, &f, awaited, 4, &expected, NULL));
        for (size_t k = 0; k < sizeof runs / sizeof *runs; k++) {
            const char *const ahead[] = {awaited[0], awaited[1], early[i], runs[k][0], runs[k][1], team};
            stm_batch found;
            assert_ok(rollout_try(MPI_COMM_WORLD, &f, ahead, 6, &found, NULL));
            rollout_assert_same(&expected, &found);
            stm_batch_clear(&found);
        }
        stm_batch_clear(&expected);
    }
    rollout_tear_down(&f);
}

static void what_is_not_a_number_ends_all_and_is_said(void **state)
{
    (void)state;
    rollout_fixture f;
    set_up(&f);
    const char *const overrides[] = {"rollout.slots=2", "rollout.rounds_ahead=3"};
    rollout_assert_nan_is_said(&f, overrides, 2);
    rollout_tear_down(&f);
}

static void what_is_under_way_may_be_left(void **state)
{
    (void)state;
    rollout_fixture f;
    set_up(&f);
    f.model->config.n_eos = 0;
    for (int i = 0; i < 2; i++) {
        int n_looks = 0;
        stm_batch batch;
        stm_rollout_counts counts;
        stm_watch watch = {.look = rollout_fourth_look, .context = &n_looks, .leave = 1};
        const char *const overrides[] = {"rollout.max_new_tokens=2000", i ? "rollout.slots=2" : "rollout.slots=64",
                                         "rollout.rounds_ahead=2"};
        f.watch = &watch;
        assert_ok(rollout_try(MPI_COMM_WORLD, &f, overrides, 3, &batch, &counts));
        f.watch = NULL;
        assert_true(watch.leaves && counts.decode_rounds < 1000); /* of 2000 */
        stm_batch_clear(&batch);
    }
    rollout_tear_down(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rounds_that_run_ahead_change_no_token),
        cmocka_unit_test(what_is_not_a_number_ends_all_and_is_said),
        cmocka_unit_test(what_is_under_way_may_be_left),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
