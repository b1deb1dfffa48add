#include "support/rewards.h"
#include "support/support.h"

static double tags(const char *style, const char *text, const char *answer)
{
    stm_reward_options o = reward_named("tags");
    o.style = (char *)style;
    return reward_of_text(o, text, answer);
}

static void tags_ask_for_the_whole_form(void **state)
{
    (void)state;
    assert_true(tags("", "<think>a</think> <answer>b</answer>", NULL) == 1.0);
    assert_true(tags("", "<think>a\nb</think>\n\n<answer></answer>", NULL) == 1.0);
    assert_true(tags("", "<think>a</think> <answer>b</answer>!", NULL) == 0.0);
    assert_true(tags("", " <think>a</think> <answer>b</answer>", NULL) == 0.0);
    assert_true(tags("", "<think>a</think> so <answer>b</answer>", NULL) == 0.0);
    assert_true(tags("", "<think>a</think> so</think><answer>b</answer> c</answer>", NULL) == 1.0);
    assert_true(tags("", "<answer>b</answer>", NULL) == 0.0);
    assert_true(tags("", "", NULL) == 0.0);
    assert_true(tags("think-action", "<think>a</think><action>b</action>", NULL) == 1.0);
    assert_true(tags("think-action", "<think>a</think><answer>b</answer>", NULL) == 0.0);
    assert_true(tags("end-think", "a\n</think>\nb", NULL) == 1.0);
    assert_true(tags("end-think", "a\n</think>\nb\n</think>\n", NULL) == 0.0);
    assert_true(tags("end-think", "a</think>\nb", NULL) == 0.0);
}

static void tags_of_tools_follow_the_answer(void **state)
{
    (void)state;
    static const char call[] = "<tool_call>\n{}\n</tool_call>", response[] = "<response>b</response>";
    static const char both[] = "<tool_call>\n{}\n</tool_call>\n<response>b</response>";
    assert_true(tags("tool", "<think>a</think>\n<response>b</response>", response) == 1.0);
    assert_true(tags("tool", "<think>a</think><response>b</response>", response) == 0.0);
    assert_true(tags("tool", "<think>a</think>\n<response>b</response><response></response>", response) == 0.0);
    assert_true(tags("tool", "<think>a</think>\n<tool_call>\nx\n</tool_call>", call) == 1.0);
    assert_true(tags("tool", "<think>a</think>\n<tool_call>x</tool_call>", call) == 0.0);
    assert_true(tags("tool", "<think>a</think>\n<tool_call>\nx\n</tool_call>\n<response>b</response>", both) == 1.0);
    assert_true(tags("tool", "<think>a</think>\n<tool_call>\nx\n</tool_call>", both) == 0.0);
    assert_true(tags("tool", "<think>a</think>", "none") == 1.0);
    assert_true(isnan(tags("tool", "<think>a</think>", NULL)));
}

static void dianjin_adds_form_and_accuracy(void **state)
{
    (void)state;
    const stm_reward_options o = reward_named("dianjin");
    assert_true(reward_of_text(o, "<think>a</think> <answer>1/2</answer>", "0.5") == 2.0);
    assert_true(reward_of_text(o, "<think>a</think> <answer>1/3</answer>", "0.5") == 1.0);
    assert_true(reward_of_text(o, "so <answer>1/2</answer>", "0.5") == 1.0);
    assert_true(reward_of_text(o, "1/2", "0.5") == 0.0);
}

static void thinkless_prefers_right_answers_without_thought(void **state)
{
    (void)state;
    const stm_reward_options o = reward_named("thinkless");
    assert_true(reward_of_text(o, "<short> \\boxed{4}", "4") == 1.0);
    assert_true(reward_of_text(o, "<think> \\boxed{5} </think> \\boxed{4}", "4") == 0.5);
    assert_true(reward_of_text(o, "\\boxed{4}", "4") == -1.0);
    assert_true(reward_of_text(o, "<short> \\boxed{5}", "4") == -1.0);
}

#define CALL(text) "<tool_call>\n" text "\n</tool_call>"
static const char weather[] = CALL("{\"name\": \"weather\", \"parameters\": {\"city\": \"Rome\", \"unit\": \"C\"}}");

static void tool_calls_are_compared_by_names_keys_and_values(void **state)
{
    (void)state;
    const stm_reward_options o = reward_named("tool_call");
    static const struct {
        const char *text;
        double reward;
    } cases[] = {
        {"<think>a</think>" CALL("{\"arguments\": {\"unit\": \"C\", \"city\": \"Rome\"}, \"name\": \"weather\"}"), 3},
        {CALL("{\"name\": \"weather\", \"parameters\": {\"city\": \"Rome\", \"unit\": \"F\"}}"), 1.5},
        {CALL("{\"name\": \"weather\", \"parameters\": {\"city\": \"Rome\"}}"), 0.75},
        {CALL("{\"name\": \"news\", \"parameters\": {\"city\": \"Rome\", \"unit\": \"C\"}}"), -3},
        {CALL("{\"name\": \"weather\", \"parameters\": {\"city\": \"Rome\", \"unit\": \"C\"}}\n"
              "{\"name\": \"weather\", \"parameters\": {}}"),
         2.25},
        {CALL("{\"name\": \"weather\", \"parameters\": "), -3},
        {CALL(""), -3},
        {"it is sunny", -3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (fabs(reward_of_text(o, cases[i].text, weather) - cases[i].reward) > 1e-12)
            fail_msg("%s: %g, not %g", cases[i].text, reward_of_text(o, cases[i].text, weather), cases[i].reward);
    assert_true(reward_of_text(o, weather, "<response>none</response>") == 0.0);
    assert_true(isnan(reward_of_text(o, weather, "<tool_call>x</tool_call>")));
}

static void tool_calls_in_another_order_lose_nothing_but_must_match_one_by_one(void **state)
{
    (void)state;
    const stm_reward_options o = reward_named("tool_call");
#define A "{\"name\": \"f\", \"parameters\": {\"x\": 1}}"
#define B "{\"name\": \"f\", \"parameters\": {\"x\": 2}}"
    assert_true(reward_of_text(o, CALL(A "\n" B), CALL(B "\n" A)) == 3.0);
    /* names 1/2; the first right call takes the one there is; 6 * 2.5 / 5 - 3 */
    assert_near(reward_of_text(o, CALL(A), CALL(A "\n" B)), 0.0, 1e-12);
#undef A
#undef B
}

static void otc_rewards_as_few_calls_as_suffice(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t group;
        double reward;
    } cases[] = {{"ok", 0, 1}, {"ok##", 0, 0.309017}, {"no", 0, 0},  {"ok#", 1, 1},  {"ok###", 1, 0.707107},
                 {"no", 1, 0}, {"no", 2, 0},          {"no#", 2, 0}, {"ok##", 3, 1}, {"ok####", 3, 0.866025}};
    enum { N = sizeof cases / sizeof *cases };
    stm_reward_options o = reward_named("otc");
    stm_reward_input inputs[N];
    double rewards[N];
    o.right = (char *)"contains";
    o.text = (char *)"#";
    for (size_t i = 0; i < N; i++)
        inputs[i] = (stm_reward_input){.text = cases[i].text, .answer = "ok", .group = cases[i].group};
    rewards_of(o, N, inputs, rewards);
    for (size_t i = 0; i < N; i++)
        assert_near(rewards[i], cases[i].reward, 1e-5);
}

static double sql(const char *style, const char *text, const char *answer)
{
    stm_reward_options o = reward_named("sql");
    o.style = (char *)style;
    return reward_of_text(o, text, answer);
}

static void sql_shares_pairs_of_words_and_the_schema(void **state)
{
    (void)state;
    static const char id[] = "SELECT name FROM users WHERE id = 3", age[] = "SELECT name FROM users WHERE age = 3";
    assert_near(sql("ngram", id, age), 5.0 / 9.0, 1e-14);
    assert_near(sql("schema", id, age), 0.5, 1e-14);
    assert_true(sql("ngram", age, age) == 1.0);
    assert_true(
        sql("", "first ```sql\nSELECT 1;\n```\nthen\n```sql\nselect name FROM users where age = 3;\n```", age) == 1.0);
    assert_true(sql("ngram", "", "") == 0.0);
    assert_true(sql("schema", "hello", age) == 0.0);
    static const char join[] = "select u.name, count(o.id) as n from users as u join orders o on u.id = o.user_id "
                               "where o.kind = 'new users' group by u.name";
    static const char same[] = "SELECT users.name, COUNT(orders.id) FROM users, orders WHERE users.id = orders.user_id "
                               "AND orders.`kind` = 'x'";
    assert_near(sql("schema", join, same), 1.0, 1e-14);
    assert_near(sql("schema", "select kind from orders", same), 2.0 / 7.0, 1e-14);
}

static void actions_on_a_screen_are_judged_by_kind_place_and_form(void **state)
{
    (void)state;
    const stm_reward_options o = reward_named("ui_action");
    static const char click[] = "{\"action\": \"click\", \"box\": [10, 10, 50, 40]}";
    static const char scroll[] = "{\"action\": \"scroll\"}";
#define THINK(text) "<think>a</think> <answer>" text "</answer>"
    assert_true(reward_of_text(o, THINK("{'action': 'click', 'coordinate': [50, 40]}"), click) == 3.0);
    assert_true(reward_of_text(o, THINK("[{'action': click, 'coordinate': [51, 40]}]"), click) == 2.0);
    assert_true(reward_of_text(o, THINK("{\"action\": \"scroll\"}"), scroll) == 3.0);
    assert_true(reward_of_text(o, THINK("{'action': 'scroll'}"), click) == 1.0);
    assert_true(reward_of_text(o, THINK("{'action': 'click'}"), click) == 2.0); /* no place is (0, 0) */
    assert_true(reward_of_text(o, "<answer>{'action': 'click', 'coordinate': [20, 20]}</answer>", click) == 2.0);
    assert_true(reward_of_text(o, "click [20, 20]", click) == 0.0);
    const stm_reward_input scaled = {
        .text = THINK("{'action': 'click', 'coordinate': [101, 80]}"),
        .fields_json = "{\"answer\": {\"action\": \"click\", \"box\": [10, 10, 50, 40], \"scale\": [0.5, 0.5]}}"};
    assert_true(reward_of_input(o, &scaled) == 3.0); /* 50.5 is cut to 50 */
    assert_true(isnan(reward_of_text(o, "x", "{\"action\": \"click\", \"box\": [1, 2]}")));
    assert_non_null(strstr(stm_failure(), "reward[0]: answer: expected an object {\"action\""));
    assert_true(isnan(reward_of_text(o, "x", NULL)));
}

static void ton_measures_clicks_on_a_screen_of_size_one(void **state)
{
    (void)state;
    const stm_reward_options o = reward_named("ton_gui");
    static const char click[] = "{\"action\": \"click\", \"position\": [0.5, 0.5]}";
#define ACT(text) "<think>\n\n</think>\n<action>" text "</action>"
    assert_true(reward_of_text(o, ACT("{'action': 'CLICK', 'value': None, 'position': [0.6, 0.5]}"), click) == 3.0);
    assert_true(reward_of_text(o, ACT("{'action': 'click', 'position': '[0.7, 0.5]'}"), click) == 2.0);
    assert_true(reward_of_text(o, ACT("{'action': 'click', 'position': [0.59, 0.6]}"), click) == 3.0); /* 0.1345 */
    assert_true(reward_of_text(o, ACT("{'action': 'click', 'position': [0.6, 0.6]}"), click) == 2.0);  /* 0.1414 */
    assert_true(reward_of_text(o, ACT("{'action': 'click'}"), click) == 2.0);
    assert_true(reward_of_text(o, ACT("{'action': 'type', 'value': 'a'}"), "{\"action\": \"type\"}") == 2.0);
    assert_true(reward_of_text(o, ACT("{'action': 'scroll', 'position': [0.5, 0.5]}"), click) == 1.0);
    assert_true(reward_of_text(o, "<action>{'action': 'click', 'position': [0.5, 0.5]}</action>", click) == 2.0);
    assert_true(reward_of_text(o, "<action>{'action': 'click', 'position': [0.5, 0.5]}", click) == 0.0);
    assert_true(isnan(reward_of_text(o, "x", "{\"action\": \"click\", \"position\": [1]}")));
    assert_string_equal(stm_failure(), "reward[0]: answer: expected an object {\"action\", \"position\": [x, y]}");
}

static void critics_give_a_verdict_and_a_suggestion(void **state)
{
    (void)state;
    const stm_reward_options o = reward_named("gui_critic");
    static const char answer[] = "Incorrect\nTap the search bar";
#define CRITIC(score, suggestion)                                                                                      \
    "<thought>a</thought>\n<score>" score "</score>\n<suggestion>" suggestion "</suggestion>"
    assert_true(reward_of_text(o, CRITIC("Incorrect", "Tap the search bar"), answer) == 3.0);
    assert_near(reward_of_text(o, CRITIC(" Incorrect\n", "tap the Back button"), answer), 2.0 + 2.0 / 6.0, 1e-14);
    assert_true(reward_of_text(o, CRITIC("Correct", ""), answer) == 1.0);
    assert_true(reward_of_text(o, "<score>Correct</score> no: <score>Incorrect</score>", answer) == 1.0);
    assert_true(reward_of_text(o, CRITIC("Correct", "anything"), "Correct") == 3.0);
    assert_true(reward_of_text(o, CRITIC("Correct", "anything") ".", "Correct\n") == 2.0);
    assert_true(reward_of_text(o, "Incorrect", answer) == 0.0);
}

static void adacot_charges_for_thoughts_that_are_missing_or_needless(void **state)
{
    (void)state;
    static const struct {
        bool needed;
        const char *text;
        double reward;
    } cases[] = {
        {true, "<think>two and two</think> \\boxed{4}", 1.0},
        {true, "<think>two and two</think> \\boxed{5}", 0.0},
        {true, "<think> \n </think> \\boxed{4}", 0.7},
        {false, "<think></think>\\boxed{4}", 1.0},
        {false, "<think>two and two</think>\\boxed{4}", 0.8},
        {true, "\\boxed{4}", 1.0 - 0.3 - 0.1},
        {false, "\\boxed{4}", 0.9},
        {false, "so <think></think>\\boxed{4}", 0.9},
        {false, "<think></think><think>\\boxed{4}", 0.9},
        {true, "<think>\\boxed{4}", 1.0 - 0.3 - 0.1},
        {true, "<think>\\boxed{4}</think> \\boxed{5}", 0.0},
    };
    double penalties[] = {0.3, 0.2, 0.1};
    stm_reward_options o = reward_named("adacot");
    o.penalties = (stm_numbers){.n = 3, .items = penalties};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const stm_reward_input input = {.text = cases[i].text,
                                        .answer = "4",
                                        .fields_json = cases[i].needed ? "{\"needs_thought\": true}"
                                                                       : "{\"needs_thought\": false}"};
        if (fabs(reward_of_input(o, &input) - cases[i].reward) > 1e-12)
            fail_msg("%s: %g, not %g", cases[i].text, reward_of_input(o, &input), cases[i].reward);
    }
    const stm_reward_input input = {.text = "4", .answer = "4", .fields_json = "{\"needs_thought\": false}"};
    assert_true(reward_of_input(reward_named("adacot"), &input) == 0.0); /* the usual penalty of another form */
    assert_true(isnan(reward_of_text(o, "<think></think>4", "4")));
    assert_string_equal(stm_failure(), "reward[0]: needs_thought: expected true or false in the prompt's line");
    o.penalties.n = 2;
    reward_is_refused(o, "reward[1].penalties: found 2 numbers, expected 3: a thought missing, a needless one, another "
                         "form");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tags_ask_for_the_whole_form),
        cmocka_unit_test(tags_of_tools_follow_the_answer),
        cmocka_unit_test(dianjin_adds_form_and_accuracy),
        cmocka_unit_test(thinkless_prefers_right_answers_without_thought),
        cmocka_unit_test(tool_calls_are_compared_by_names_keys_and_values),
        cmocka_unit_test(tool_calls_in_another_order_lose_nothing_but_must_match_one_by_one),
        cmocka_unit_test(otc_rewards_as_few_calls_as_suffice),
        cmocka_unit_test(sql_shares_pairs_of_words_and_the_schema),
        cmocka_unit_test(actions_on_a_screen_are_judged_by_kind_place_and_form),
        cmocka_unit_test(ton_measures_clicks_on_a_screen_of_size_one),
        cmocka_unit_test(critics_give_a_verdict_and_a_suggestion),
        cmocka_unit_test(adacot_charges_for_thoughts_that_are_missing_or_needless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
