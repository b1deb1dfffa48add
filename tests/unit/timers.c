/* Clocks of phases and the closing table. */
#include "metrics/timers.h"

#include <unistd.h>

#include "support/support.h"

/* Takes at least this long. */
static void spend(double seconds)
{
    const double begin_s = stm_now_s();
    while (stm_now_s() - begin_s < seconds)
        usleep(500);
}

static void self_times_add_up_to_the_wall_time(void **state)
{
    (void)state;
    stm_timers timers;
    stm_timers_init(&timers);
    spend(0.002);
    stm_timers_push(&timers, STM_PHASE_ROLLOUT);
    spend(0.003);
    stm_timers_push(&timers, STM_PHASE_KV);
    spend(0.002);
    stm_timers_pop(&timers, STM_PHASE_KV);
    stm_timers_pop(&timers, STM_PHASE_ROLLOUT);
    double sum = 0;
    for (int i = 0; i < STM_N_PHASES; i++)
        sum += timers.self_s[i];
    assert_near(sum, timers.last_s - timers.begin_s, 1e-9);
    assert_true(timers.self_s[STM_PHASE_OTHER] >= 0.002);
    assert_true(stm_timers_wall_s(&timers) >= 0.007);
}

static void an_inner_phase_stops_the_outer_one(void **state)
{
    (void)state;
    stm_timers timers;
    stm_timers_init(&timers);
    stm_timers_push(&timers, STM_PHASE_UPDATE);
    const double before_s = stm_timers_wall_s(&timers);
    stm_timers_push(&timers, STM_PHASE_GRADIENTS);
    spend(0.02);
    stm_timers_pop(&timers, STM_PHASE_GRADIENTS);
    const double inner_s = stm_timers_self_s(&timers, STM_PHASE_GRADIENTS);
    assert_true(inner_s >= 0.02);
    stm_timers_pop(&timers, STM_PHASE_UPDATE);
    const double wall_s = stm_timers_wall_s(&timers);
    assert_true(stm_timers_self_s(&timers, STM_PHASE_UPDATE) <= wall_s - inner_s + 1e-9);
    assert_true(before_s <= wall_s);
}

static void a_running_phase_is_counted_up_to_now(void **state)
{
    (void)state;
    stm_timers timers;
    stm_timers_init(&timers);
    stm_timers_push(&timers, STM_PHASE_EVAL);
    const double other_s = stm_timers_self_s(&timers, STM_PHASE_OTHER);
    spend(0.003);
    assert_true(stm_timers_self_s(&timers, STM_PHASE_EVAL) >= 0.003);
    assert_true(stm_timers_self_s(&timers, STM_PHASE_OTHER) == other_s);
}

static void a_pop_closes_what_an_early_return_left_open(void **state)
{
    (void)state;
    stm_timers timers;
    stm_timers_init(&timers);
    stm_timers_push(&timers, STM_PHASE_UPDATE);
    stm_timers_push(&timers, STM_PHASE_KV);
    stm_timers_push(&timers, STM_PHASE_WAIT);
    stm_timers_pop(&timers, STM_PHASE_UPDATE);
    assert_int_equal(timers.depth, 0);
}

static void a_phase_may_nest_in_itself(void **state)
{
    (void)state;
    stm_timers timers;
    stm_timers_init(&timers);
    stm_timers_push(&timers, STM_PHASE_UPDATE);
    stm_timers_push(&timers, STM_PHASE_UPDATE);
    stm_timers_pop(&timers, STM_PHASE_UPDATE);
    assert_int_equal(timers.depth, 1);
    stm_timers_pop(&timers, STM_PHASE_UPDATE);
    assert_int_equal(timers.depth, 0);
}

static void no_timers_count_nothing(void **state)
{
    (void)state;
    stm_timers_init(NULL);
    stm_timers_push(NULL, STM_PHASE_KV);
    stm_timers_pop(NULL, STM_PHASE_KV);
    assert_true(stm_timers_self_s(NULL, STM_PHASE_KV) == 0);
    assert_true(stm_timers_wall_s(NULL) == 0);
}

static void table_shows_min_mean_max_and_share(void **state)
{
    (void)state;
    double least[STM_N_PHASES + 1] = {0}, sum[STM_N_PHASES + 1] = {0}, most[STM_N_PHASES + 1] = {0};
    least[STM_PHASE_UPDATE] = 4, sum[STM_PHASE_UPDATE] = 20, most[STM_PHASE_UPDATE] = 6; /* four ranks: mean 5 */
    least[STM_PHASE_OTHER] = 14, sum[STM_PHASE_OTHER] = 60, most[STM_PHASE_OTHER] = 16;
    least[STM_N_PHASES] = 20, sum[STM_N_PHASES] = 80, most[STM_N_PHASES] = 20;
    char *text;
    assert_ok(stm_timers_table_text(4, least, sum, most, &text));
    assert_string_equal(text, "seconds over ranks        min       mean        max   share\n"
                              "update                   4.00       5.00       6.00   25.0%\n"
                              "other                   14.00      15.00      16.00   75.0%\n"
                              "wall                    20.00      20.00      20.00  100.0%\n");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(self_times_add_up_to_the_wall_time),
        cmocka_unit_test(an_inner_phase_stops_the_outer_one),
        cmocka_unit_test(a_running_phase_is_counted_up_to_now),
        cmocka_unit_test(a_pop_closes_what_an_early_return_left_open),
        cmocka_unit_test(a_phase_may_nest_in_itself),
        cmocka_unit_test(no_timers_count_nothing),
        cmocka_unit_test(table_shows_min_mean_max_and_share),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
