#include "optim/schedule.h"
#include "support/support.h"

static const stm_schedule_kind kinds[] = {STM_SCHEDULE_CONSTANT, STM_SCHEDULE_LINEAR, STM_SCHEDULE_COSINE};

static void warm_up_rises_in_equal_parts_and_ends_at_the_full_rate(void **state)
{
    (void)state;
    for (size_t i = 0; i < 3; i++)
        for (int64_t step = 1; step <= 5; step++)
            assert_near(stm_learning_rate(kinds[i], 0.5, 0.0, 5, 100, step), 0.1 * (double)step, 1e-14);
}

static void without_warm_up_the_first_step_has_the_full_rate(void **state)
{
    (void)state;
    for (size_t i = 0; i < 3; i++)
        assert_near(stm_learning_rate(kinds[i], 2.0, 0.1, 0, 10, 1), 2.0, 1e-14);
}

static void constant_stays(void **state)
{
    (void)state;
    for (int64_t step = 3; step < 40; step++)
        assert_true(stm_learning_rate(STM_SCHEDULE_CONSTANT, 0.25, 0.0, 3, 20, step) == 0.25);
}

static void linear_and_cosine_pass_the_middle_halfway_and_end_at_the_ratio(void **state)
{
    (void)state;
    /* Top at step 2, ratio reached at step 12: halfway is step 7. */
    for (size_t i = 1; i < 3; i++) {
        assert_near(stm_learning_rate(kinds[i], 1.0, 0.2, 2, 11, 7), 0.6, 1e-14);
        assert_near(stm_learning_rate(kinds[i], 1.0, 0.2, 2, 11, 12), 0.2, 1e-14);
        assert_near(stm_learning_rate(kinds[i], 1.0, 0.2, 2, 11, 1000), 0.2, 1e-14);
    }
    assert_near(stm_learning_rate(STM_SCHEDULE_LINEAR, 1.0, 0.0, 0, 10, 4), 0.7, 1e-14);
    assert_near(stm_learning_rate(STM_SCHEDULE_COSINE, 1.0, 0.0, 0, 4, 2), 0.5 * (1 + sqrt(0.5)), 1e-14);
}

static void no_step_of_a_run_is_wasted_at_rate_zero(void **state)
{
    (void)state;
    for (size_t i = 0; i < 3; i++)
        for (int64_t n_steps = 1; n_steps < 9; n_steps++)
            for (int64_t warmup = 0; warmup < 12; warmup++)
                for (int64_t step = 1; step <= n_steps; step++) {
                    const double lr = stm_learning_rate(kinds[i], 1.0, 0.0, warmup, n_steps, step);
                    assert_true(lr > 0.0 && lr <= 1.0);
                }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warm_up_rises_in_equal_parts_and_ends_at_the_full_rate),
        cmocka_unit_test(without_warm_up_the_first_step_has_the_full_rate),
        cmocka_unit_test(constant_stays),
        cmocka_unit_test(linear_and_cosine_pass_the_middle_halfway_and_end_at_the_ratio),
        cmocka_unit_test(no_step_of_a_run_is_wasted_at_rate_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
