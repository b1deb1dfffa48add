/* Rollouts on stages whose rounds are recorded (rollout/awaited.h): the tokens of one rank that records none, whatever
 * ends and begins meanwhile. Of a backend under test; one that records nothing has nothing to change. */
#include "support/device.h"
#include "support/rollouts.h"

static void set_up(rollout_fixture *f)
{
    const stm_backend *backend;
    assert_ok(stm_backend_find(backend_under_test(), STM_FLOAT64, &backend));
    rollout_set_up_deep(f, STM_TEST_QWEN3, backend);
    rollout_end_often(f);
}

/* On all ranks as stages, and in teams of two: as many stages as leave no rank over. */
static int stages_of(int n_ranks, int way)
{
    return way == 0 || n_ranks % 2 ? n_ranks : n_ranks / 2;
}

static void rounds_that_are_recorded_change_no_token(void **state)
{
    (void)state;
    int n_ranks;
    char stages[64];
    rollout_fixture f;
    static const char *const runs[][2] = {{"rollout.slots=64", "rollout.rounds_ahead=1"},
                                          {"rollout.slots=3", "rollout.rounds_ahead=1"},
                                          {"rollout.slots=5", "rollout.rounds_ahead=0"}};
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    set_up(&f);
    const char *const alone[] = {"rollout.group_size=4", "rollout.max_new_tokens=17", "rollout.min_new_tokens=3",
                                 "rollout.rounds_ahead=0"};
    stm_batch expected;
    assert_ok(rollout_try(MPI_COMM_SELF, &f, alone, 4, &expected, NULL));
    for (size_t k = 0; k < sizeof runs / sizeof *runs; k++) {
        const char *const staged[] = {alone[0], alone[1], alone[2], runs[k][0], runs[k][1], stages};
        stm_batch found;
        snprintf(stages, sizeof stages, "parallel.pipeline=%d", stages_of(n_ranks, (int)k % 2));
        assert_ok(rollout_try(MPI_COMM_WORLD, &f, staged, 6, &found, NULL));
        rollout_assert_same(&expected, &found);
        stm_batch_clear(&found);
    }
    stm_batch_clear(&expected);
    rollout_tear_down(&f);
}

static void what_is_not_a_number_ends_all_and_is_said(void **state)
{
    (void)state;
    int n_ranks;
    char stages[64];
    rollout_fixture f;
    set_up(&f);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    snprintf(stages, sizeof stages, "parallel.pipeline=%d", n_ranks);
    const char *const overrides[] = {stages, "rollout.slots=2"};
    rollout_assert_nan_is_said(&f, overrides, 2);
    rollout_tear_down(&f);
}

static void what_is_under_way_may_be_left(void **state)
{
    (void)state;
    int n_ranks, n_looks = 0;
    char stages[64];
    rollout_fixture f;
    stm_batch batch;
    stm_rollout_counts counts;
    set_up(&f);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    snprintf(stages, sizeof stages, "parallel.pipeline=%d", n_ranks);
    f.model->config.n_eos = 0;
    stm_watch watch = {.look = rollout_fourth_look, .context = &n_looks, .leave = 1};
    const char *const overrides[] = {"rollout.max_new_tokens=2000", "rollout.slots=7", stages};
    f.watch = &watch;
    assert_ok(rollout_try(MPI_COMM_WORLD, &f, overrides, 3, &batch, &counts));
    f.watch = NULL;
    assert_true(watch.leaves && counts.decode_rounds < 1000 * n_ranks); /* of 2000 a batch */
    stm_batch_clear(&batch);
    rollout_tear_down(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rounds_that_are_recorded_change_no_token),
        cmocka_unit_test(what_is_not_a_number_ends_all_and_is_said),
        cmocka_unit_test(what_is_under_way_may_be_left),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
