/* What a heartbeat calls too long, and what a pulse says. The thread itself: tests/system/faults.sh. */
#include "mpi/heartbeat.h"

#include "base/pulse.h"
#include "support/support.h"

static void compute_has_ten_times_its_longest(void **state)
{
    (void)state;
    assert_near(stm_heartbeat_patience_s(STM_PHASE_UPDATE, false, 50, 600), 500, 0);
    assert_near(stm_heartbeat_patience_s(STM_PHASE_UPDATE, false, 500, 600), 5000, 0);
    assert_near(stm_heartbeat_patience_s(STM_PHASE_ROLLOUT, false, 0.1, 600), 120, 0); /* the floor */
    assert_near(stm_heartbeat_patience_s(STM_PHASE_ROLLOUT, false, 0, 600), 600, 0);   /* never seen to its end */
}

static void files_and_rewards_have_their_own_time(void **state)
{
    (void)state;
    const stm_phase slow[] = {STM_PHASE_REWARD, STM_PHASE_CHECKPOINT, STM_PHASE_EVAL, STM_PHASE_OTHER};
    for (size_t i = 0; i < sizeof slow / sizeof *slow; i++)
        assert_near(stm_heartbeat_patience_s(slow[i], false, 0.1, 700), 700, 0);
}

/* Else the ranks that wait for a save of rank 0 would be blamed for it. */
static void who_waits_has_longer_than_anybody_it_waits_for(void **state)
{
    (void)state;
    for (int phase = 0; phase < STM_N_PHASES; phase++)
        assert_true(stm_heartbeat_patience_s(phase, true, 0.1, 600) > 600);
    assert_near(stm_heartbeat_patience_s(STM_PHASE_UPDATE, true, 500, 600), 10000, 0);
}

static void a_pulse_names_phase_and_step(void **state)
{
    (void)state;
    char text[STM_PULSE_TEXT_BYTES];
    stm_timers timers;
    stm_timers_init(&timers);
    stm_pulse_elsewhere("load");
    stm_pulse_text(stm_pulse_own, text);
    assert_string_equal(text, "phase load");
    stm_pulse_step(12345678901);
    stm_timers_push(&timers, STM_PHASE_UPDATE);
    stm_timers_push(&timers, STM_PHASE_KV);
    stm_pulse_text(stm_pulse_own, text);
    assert_string_equal(text, "phase wait for kv, step 12345678901");
    stm_timers_pop(&timers, STM_PHASE_KV);
    stm_pulse_text(stm_pulse_own, text);
    assert_string_equal(text, "phase update, step 12345678901");
    stm_timers_pop(&timers, STM_PHASE_UPDATE);
    stm_pulse_elsewhere(NULL);
    stm_pulse_text(stm_pulse_own, text);
    assert_string_equal(text, "phase other, step 12345678901");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compute_has_ten_times_its_longest),
        cmocka_unit_test(files_and_rewards_have_their_own_time),
        cmocka_unit_test(who_waits_has_longer_than_anybody_it_waits_for),
        cmocka_unit_test(a_pulse_names_phase_and_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
