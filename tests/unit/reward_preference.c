/* A command that compares responses: win rates, the probabilities themselves, and what it must not say. */
#include <math.h>
#include <stdlib.h>

#include "base/helper.h"
#include "reward/reward.h"
#include "support/rewards.h"
#include "support/support.h"

/* A shell that goes over the questions of a batch, an object a line in $pair, whose number is $id. */
#define EACH(answer)                                                                                                   \
    "while IFS= read -r line; do printf '%s\\n' \"$line\" | sed 's/},{/}\\n{/g' | while read -r pair; do "             \
    "id=$(echo \"$pair\" | sed 's/.*\"id\":\\([0-9]*\\).*/\\1/'); " answer "; done; done"

/* The longer text is better, in three of four cases. */
#define LONGER                                                                                                         \
    EACH("one=$(echo \"$pair\" | sed 's/.*\"response\":\"\\([a-z]*\\)\".*/\\1/'); "                                    \
         "two=$(echo \"$pair\" | sed 's/.*\"other\":\"\\([a-z]*\\)\".*/\\1/'); "                                       \
         "if [ ${#one} -gt ${#two} ]; then p=0.75; elif [ ${#one} = ${#two} ]; then p=0.5; else p=0.25; fi; "          \
         "echo \"{\\\"id\\\": $id, \\\"preference\\\": $p}\"")

static stm_reward_set *set_of(const char *command)
{
    stm_reward_options o = reward_named("preference");
    stm_reward_set *set;
    o.command = (char *)command;
    o.timeout_s = 20;
    assert_ok(stm_reward_set_create(&o, 1, &set));
    return set;
}

static const stm_reward_input inputs[] = {
    {.prompt_text = "p", .text = "aaa", .group = 4},  {.prompt_text = "p", .text = "a", .group = 4},
    {.prompt_text = "p", .text = "aaa", .group = 4},  {.prompt_text = "p", .text = "bbb", .group = 4},
    {.prompt_text = "q", .text = "lone", .group = 5}, {.prompt_text = "r", .text = "bb", .group = 6},
    {.prompt_text = "r", .text = "b", .group = 6},
};
enum { N = sizeof inputs / sizeof *inputs };

static void rewards_are_win_rates_within_the_group(void **state)
{
    (void)state;
    static const double expected[N] = {
        (0.75 + 0.5 + 0.5) / 3, 0.25, (0.75 + 0.5 + 0.5) / 3, (0.75 + 1) / 3, 0.5, 0.75, 0.25};
    static const double table[] = {0.5, 0.75, 0.5,  0.5, 0.25, 0.5, 0.25, 0.25, 0.5,  0.75, 0.5,
                                   0.5, 0.5,  0.75, 0.5, 0.5,  0.5, 0.5,  0.75, 0.25, 0.5};
    stm_reward_set *set = set_of(LONGER);
    double rewards[N];
    assert_ok(stm_reward_set_run(set, N, inputs, rewards, NULL));
    for (size_t i = 0; i < N; i++)
        assert_near(rewards[i], expected[i], 1e-15);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        assert_near(stm_reward_set_preferences(set)[i], table[i], 1e-15);
    assert_ok(stm_reward_set_run(set, 2, inputs + 5, rewards, NULL)); /* another batch, the same process */
    assert_true(rewards[0] == 0.75 && rewards[1] == 0.25);
    stm_reward_set_destroy(set);
}

static void equal_texts_are_not_asked_about(void **state)
{
    (void)state;
    const stm_reward_input same[] = {inputs[0], inputs[2], inputs[0]};
    stm_reward_set *set = set_of("exit 1"); /* never started */
    double rewards[3];
    assert_ok(stm_reward_set_run(set, 3, same, rewards, NULL));
    assert_true(rewards[0] == 0.5 && rewards[1] == 0.5 && rewards[2] == 0.5);
    assert_ok(stm_reward_set_run(set, 0, same, rewards, NULL));
    stm_reward_set_destroy(set);
}

static void what_could_not_be_told_costs_both_responses(void **state)
{
    (void)state;
    static const struct {
        const char *command, *words;
    } cases[] = {
        {EACH("if [ $id = 6 ]; then echo '{\"id\": 6, \"preference\": 1.5}'; else "
              "echo \"{\\\"id\\\": $id, \\\"preference\\\": 1}\"; fi"),
         "reward[0].command: answered {\"id\": 6, \"preference\": 1.5}, expected a number from 0 to 1"},
        {EACH("if [ $id = 6 ]; then echo '{\"id\": 6, \"error\": \"a draw\"}'; else "
              "echo \"{\\\"id\\\": $id, \\\"preference\\\": 1}\"; fi"),
         "reward[0].command: a draw"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        stm_reward_set *set = set_of(cases[i].command);
        double rewards[N];
        assert_ok(stm_reward_set_run(set, N, inputs, rewards, NULL));
        assert_true(rewards[0] == 2.5 / 3 && isnan(rewards[5]) && isnan(rewards[6]));
        if (!strstr(stm_failure(), cases[i].words))
            fail_msg("\"%s\"", stm_failure());
        stm_reward_set_destroy(set);
    }
}

static void an_entry_needs_a_command(void **state)
{
    (void)state;
    stm_reward_options o = reward_named("preference");
    reward_is_refused(o, "reward[1].command: missing; the reward \"preference\" needs one");
}

int main(void)
{
    if (stm_helper_begin() != STM_OK)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rewards_are_win_rates_within_the_group),
        cmocka_unit_test(equal_texts_are_not_asked_about),
        cmocka_unit_test(what_could_not_be_told_costs_both_responses),
        cmocka_unit_test(an_entry_needs_a_command),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    stm_helper_end();
    return failed;
}
