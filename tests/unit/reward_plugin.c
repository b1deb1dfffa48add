#include "support/rewards.h"
#include "support/support.h"

static stm_reward_options plugin(const char *path)
{
    stm_reward_options o = reward_named("plugin");
    o.library = (char *)path;
    return o;
}

static void the_worked_example_judges_vowels(void **state)
{
    (void)state;
    assert_near(reward_of_text(plugin(STEMMA_PLUGINS "/vowels.so"), "Aeio, bcd 12", NULL), 4.0 / 7.0, 1e-14);
    assert_true(reward_of_text(plugin(STEMMA_PLUGINS "/vowels.so"), "", NULL) == 0.0);
}

static void a_plugin_sees_all_that_a_reward_may_know(void **state)
{
    (void)state;
    const stm_reward_input input = {.prompt_text = "p",
                                    .text = "x",
                                    .n_tokens = 3,
                                    .group = 2,
                                    .truncated = true,
                                    .answer = "4",
                                    .fields_json = "{\"a\": 1}"};
    assert_true(reward_of_input(plugin(STEMMA_PLUGINS "/picky.so"), &input) == 11203.0);
}

static void a_plugin_that_cannot_judge_is_named(void **state)
{
    (void)state;
    double rewards[2];
    stm_reward_input inputs[] = {{.prompt_text = "", .text = "x", .n_tokens = 1}, {.prompt_text = "", .text = ""}};
    rewards_of(plugin(STEMMA_PLUGINS "/picky.so"), 2, inputs, rewards);
    assert_true(rewards[0] == 1.0 && isnan(rewards[1]));
    assert_non_null(strstr(stm_failure(), "picky.so gave nan to response 1, expected a finite number"));
    inputs[0].text = "stop";
    rewards_of(plugin(STEMMA_PLUGINS "/picky.so"), 2, inputs, rewards);
    assert_true(isnan(rewards[0]) && isnan(rewards[1]));
    assert_non_null(strstr(stm_failure(), "picky.so returned 7"));
}

static void plugins_of_another_version_or_without_the_function_are_refused(void **state)
{
    (void)state;
    reward_is_refused(plugin(STEMMA_PLUGINS "/later.so"), "later.so: found version 2 of stemma_reward.h, expected 1");
    reward_is_refused(plugin(STEMMA_PLUGINS "/nameless.so"), "nameless.so: found no function stemma_reward");
    reward_is_refused(plugin("none.so"), "reward[1].library: found no shared object: ./none.so: cannot open");
    reward_is_refused(plugin(NULL), "reward[1].library: missing; the reward \"plugin\" needs one");
    reward_is_refused(plugin("libm.so.6"), "found no shared object"); /* not the system's */
    reward_is_refused(plugin(STEMMA_PLUGINS "/bare.so"),
                      "bare.so: found no stemma_reward_version, expected STEMMA_REWARD in its source");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_worked_example_judges_vowels),
        cmocka_unit_test(a_plugin_sees_all_that_a_reward_may_know),
        cmocka_unit_test(a_plugin_that_cannot_judge_is_named),
        cmocka_unit_test(plugins_of_another_version_or_without_the_function_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
