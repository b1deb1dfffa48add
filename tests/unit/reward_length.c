#include "support/rewards.h"
#include "support/support.h"

/* The text: an answer, filled up with dots to so many characters. */
static const char *filled(char *text, const char *answer, size_t n)
{
    memset(text, '.', n);
    memcpy(text, answer, strlen(answer));
    text[n] = 0;
    return text;
}

static stm_reward_options by_word(const char *name)
{
    stm_reward_options o = reward_named(name);
    o.right = (char *)"contains";
    return o;
}

static void cosine_favours_short_right_answers_and_long_wrong_ones_less(void **state)
{
    (void)state;
    static const struct {
        const char *answer;
        size_t n;
        double reward;
    } cases[] = {{"ok", 2, 1},           {"ok", 500, 0.75},  {"ok", 1000, 0.5},
                 {"no", 250, -0.073223}, {"no", 1000, -0.5}, {"ok", 1500, 0.5}};
    char text[2001];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_near(reward_of_text(by_word("cosine"), filled(text, cases[i].answer, cases[i].n), "ok"), cases[i].reward,
                    1e-4);
    stm_reward_options o = by_word("cosine");
    double ends[] = {2.0, 1.0};
    o.style = (char *)"tokens";
    o.scale = 6.0;
    o.reward_right = (stm_numbers){2, ends};
    assert_near(reward_of_text(o, "ok", "ok"), 1.5, 1e-14); /* three tokens */
    o.reward_right.n = 1;
    reward_is_refused(o, "reward[1].reward_right: found 1 numbers, expected two");
    o = by_word("cosine");
    o.right = (char *)"maths";
    reward_is_refused(
        o,
        "reward[1].right: found \"maths\", expected math, numeric, exact, contains or choices; did you mean \"math\"?");
    o = by_word("cosine");
    o.extract = (char *)"a";
    reward_is_refused(o, "reward[1].extract: the reward \"contains\" does not read it");
}

static void characters_are_not_bytes(void **state)
{
    (void)state;
    stm_reward_options o = by_word("cosine");
    o.scale = 4.0;
    assert_near(reward_of_text(o, "\u00E9\u65E5", "\u65E5"), 0.75, 1e-14);
}

static void length_of_a_group_is_measured_within_each_group_alone(void **state)
{
    (void)state;
    static const struct {
        const char *answer;
        size_t n, group;
        double reward;
    } cases[] = {{"ok", 100, 0, 0.5}, {"ok", 200, 0, 0.0}, {"ok", 300, 0, -0.5}, {"no", 150, 0, 0.0},
                 {"ok", 7, 1, 0.0},   {"no", 7, 1, 0.0},   {"no", 100, 2, 0.0},  {"no", 200, 2, -0.5}};
    enum { N = sizeof cases / sizeof *cases };
    static char texts[N][301];
    stm_reward_input inputs[N];
    double rewards[N];
    for (size_t i = 0; i < N; i++)
        inputs[i] = (stm_reward_input){.prompt_text = "",
                                       .text = filled(texts[i], cases[i].answer, cases[i].n),
                                       .answer = "ok",
                                       .group = cases[i].group};
    rewards_of(by_word("length_group"), N, inputs, rewards);
    for (size_t i = 0; i < N; i++)
        assert_near(rewards[i], cases[i].reward, 1e-14);
}

static void overlong_falls_to_minus_one_before_the_limit(void **state)
{
    (void)state;
    static const struct {
        size_t n;
        double reward;
    } cases[] = {{0, 0}, {80, 0}, {90, -0.5}, {100, -1}, {101, -1}};
    stm_reward_options o = reward_named("overlong");
    o.max_tokens = 100;
    o.buffer_tokens = 20;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_near(reward_of_input(o, &(stm_reward_input){.text = "", .n_tokens = cases[i].n}), cases[i].reward,
                    1e-14);
    o.buffer_tokens = 0;
    assert_true(reward_of_input(o, &(stm_reward_input){.text = "", .n_tokens = 100}) == 0.0);
    assert_true(reward_of_input(o, &(stm_reward_input){.text = "", .n_tokens = 101}) == -1.0);
    o.buffer_tokens = 101;
    reward_is_refused(o, "reward[1].buffer_tokens: found 101, expected at most max_tokens, 100");
    o = reward_named("overlong");
    reward_is_refused(o, "reward[1].max_tokens: missing");
}

static void repetition_counts_n_grams_that_came_before(void **state)
{
    (void)state;
    stm_reward_options o = reward_named("repetition");
    assert_near(reward_of_text(o, "a b c A b C a b c", NULL), -0.571429, 1e-5);
    assert_true(reward_of_text(o, "a b", NULL) == 0.0);
    assert_true(reward_of_text(o, "", NULL) == 0.0);
    assert_true(reward_of_text(o, "a b c d", NULL) == 0.0);
    o.ngram = 2;
    assert_near(reward_of_text(o, "5 5 5 5 5", NULL), -0.75, 1e-14);
}

static void choices_count_the_right_ones_unless_one_is_wrong(void **state)
{
    (void)state;
    stm_reward_options o = reward_named("choices");
    assert_true(reward_of_text(o, "C, A", "A,C") == 1.0);
    assert_true(reward_of_text(o, "A", "A,C") == 0.5);
    assert_true(reward_of_text(o, "A,A", "A,C") == 0.5);
    assert_true(reward_of_text(o, "A,B", "A,C") == 0.0);
    assert_true(reward_of_text(o, "", "A,C") == 0.0);
    o.extract = (char *)"<answer>(.*?)</answer>";
    assert_true(reward_of_text(o, "B <answer>A, C</answer>", "A,C") == 1.0);
}

/* The reward of one response after the set has seen a right one of h tokens (0: none). */
static double after(stm_reward_options o, size_t h, bool practice, const char *answer, size_t n)
{
    stm_reward_set *set;
    double reward;
    const stm_reward_input before = {
        .prompt_text = "p", .text = "ok", .answer = "ok", .n_tokens = h, .practice = practice};
    const stm_reward_input now = {.prompt_text = "p", .text = answer, .answer = "ok", .n_tokens = n};
    assert_ok(stm_reward_set_create(&o, 1, &set));
    if (h > 0)
        assert_ok(stm_reward_set_run(set, 1, &before, &reward, NULL));
    assert_ok(stm_reward_set_settle(set));
    assert_ok(stm_reward_set_run(set, 1, &now, &reward, NULL));
    stm_reward_set_destroy(set);
    return reward;
}

static void hapo_compares_with_the_shortest_right_response_so_far(void **state)
{
    (void)state;
    stm_reward_options o = by_word("hapo");
    static const struct {
        const char *answer;
        size_t n;
        double cosine, linear;
    } cases[] = {{"ok", 50, 1.707107, 1.5}, {"ok", 100, 1.0, 1.0},
                 {"ok", 190, 0.3, 0.3},     {"ok", 300, 0.3, 0.3},
                 {"no", 50, 0.0, 0.0},      {"no", 150, -0.707107, -0.4},
                 {"no", 300, -1.0, -1.0},   {"ok", 130, 1.0 - 0.453990, 0.8}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        o.style = (char *)"cosine";
        assert_near(after(o, 100, true, cases[i].answer, cases[i].n), cases[i].cosine, 1e-5);
        o.style = (char *)"linear";
        assert_near(after(o, 100, true, cases[i].answer, cases[i].n), cases[i].linear, 1e-5);
    }
    assert_true(after(o, 0, true, "ok", 50) == 1.0);
    assert_true(after(o, 100, false, "ok", 50) == 1.0); /* an evaluation leaves no trace */
}

static void hapo_remembers_each_prompt_between_steps_alone(void **state)
{
    (void)state;
    stm_reward_options o = by_word("hapo");
    stm_reward_set *set;
    double rewards[4];
    o.style = (char *)"linear";
    const stm_reward_input step[] = {
        {.prompt_text = "p", .text = "ok", .answer = "ok", .n_tokens = 80, .practice = true},
        {.prompt_text = "p", .text = "ok", .answer = "ok", .n_tokens = 40, .practice = true},
        {.prompt_text = "p", .text = "no", .answer = "ok", .n_tokens = 10, .practice = true},
        {.prompt_text = "q", .text = "ok", .answer = "ok", .n_tokens = 10, .practice = true},
    };
    assert_ok(stm_reward_set_create(&o, 1, &set));
    assert_ok(stm_reward_set_run(set, 4, step, rewards, NULL));
    assert_true(rewards[0] == 1.0 && rewards[1] == 1.0 && rewards[2] == 0.0 && rewards[3] == 1.0);
    assert_ok(stm_reward_set_run(set, 4, step, rewards, NULL)); /* another round of the step */
    assert_true(rewards[0] == 1.0 && rewards[1] == 1.0 && rewards[2] == 0.0 && rewards[3] == 1.0);
    assert_ok(stm_reward_set_settle(set));
    const stm_reward_input next = {.prompt_text = "p", .text = "ok", .answer = "ok", .n_tokens = 20, .practice = true};
    assert_ok(stm_reward_set_run(set, 1, &next, rewards, NULL));
    assert_near(rewards[0], 1.5, 1e-14); /* against 40, the shortest right one of the step before */
    assert_ok(stm_reward_set_settle(set));
    assert_ok(stm_reward_set_run(set, 1, &next, rewards, NULL));
    assert_near(rewards[0], 1.0, 1e-14);
    stm_reward_set_destroy(set);

    o.style = (char *)"linear-mean";
    assert_ok(stm_reward_set_create(&o, 1, &set));
    assert_ok(stm_reward_set_run(set, 4, step, rewards, NULL));
    assert_ok(stm_reward_set_settle(set));
    assert_ok(stm_reward_set_run(set, 1, &next, rewards, NULL));
    assert_near(rewards[0], 1.0 + (1.0 - 20.0 / 60.0), 1e-14);
    stm_reward_set_destroy(set);
}

static const stm_reward_input short_and_long[] = {
    {.prompt_text = "p", .text = "ok", .answer = "ok", .n_tokens = 80, .practice = true},
    {.prompt_text = "q", .text = "ok", .answer = "ok", .n_tokens = 30, .practice = true},
    {.prompt_text = "r", .text = "ok", .answer = "ok", .n_tokens = 7, .practice = true},
};
enum { N_INPUTS = sizeof short_and_long / sizeof *short_and_long };

/* Two entries that remember, and one that does not. */
static stm_reward_set *make_rememberers(void)
{
    stm_reward_set *set;
    stm_reward_options entries[] = {by_word("hapo"), by_word("exact"), by_word("hapo")};
    entries[0].style = (char *)"linear";
    entries[1].right = (char *)"";
    entries[2].style = (char *)"cosine-mean";
    assert_ok(stm_reward_set_create(entries, 3, &set));
    return set;
}

static void memories_survive_their_bytes(void **state)
{
    (void)state;
    double expected[3 * N_INPUTS], found[3 * N_INPUTS], total[N_INPUTS];
    stm_reward_set *unbroken = make_rememberers(), *resumed = make_rememberers();
    stm_kept kept = {0};
    assert_ok(stm_reward_set_save(unbroken, &kept)); /* nothing yet, and no news */
    assert_ok(stm_reward_set_restore(resumed, "file", &kept));
    free(kept.bytes);
    kept = (stm_kept){0};
    assert_ok(stm_reward_set_run(unbroken, N_INPUTS, short_and_long, total, NULL));
    assert_ok(stm_reward_set_settle(unbroken));
    assert_ok(stm_reward_set_run(unbroken, 1, short_and_long, total, NULL)); /* not settled: another run will see it */
    assert_ok(stm_reward_set_save(unbroken, &kept));
    assert_ok(stm_reward_set_restore(resumed, "file", &kept));
    assert_ok(stm_reward_set_run(unbroken, N_INPUTS, short_and_long, total, expected));
    assert_ok(stm_reward_set_run(resumed, N_INPUTS, short_and_long, total, found));
    assert_memory_equal(found, expected, sizeof found);
    assert_true(found[3] == 1.0 && found[0] == 1.0 && expected[1] == 1.0);
    stm_reward_set_destroy(unbroken);
    stm_reward_set_destroy(resumed);
    free(kept.bytes);
}

static void bytes_that_are_no_memory_are_refused(void **state)
{
    (void)state;
    double total[N_INPUTS];
    stm_reward_set *set = make_rememberers();
    stm_kept kept = {0};
    assert_ok(stm_reward_set_run(set, N_INPUTS, short_and_long, total, NULL));
    assert_ok(stm_reward_set_settle(set));
    assert_ok(stm_reward_set_save(set, &kept));
    for (size_t n = 1; n < kept.n; n++) {
        const stm_kept cut = {.bytes = kept.bytes, .n = n};
        if (n == kept.n / 2) /* the first entry's alone */
            continue;
        assert_fails(stm_reward_set_restore(set, "step.h5", &cut), STM_ERR_INPUT,
                     "step.h5: /kept/rewards: found other bytes than a memory of rewards");
    }
    free(kept.bytes);
    stm_reward_set_destroy(set);
}

static void what_judges_right_from_wrong_needs_its_answer(void **state)
{
    (void)state;
    stm_reward_set *set;
    stm_reward_options o = reward_named("hapo");
    assert_true(isnan(reward_of_text(o, "4", NULL)));
    assert_non_null(strstr(stm_failure(), "reward[0]: the prompt has no \"answer\""));
    o.right = (char *)"numeric";
    assert_ok(stm_reward_set_create(&o, 1, &set));
    assert_fails(stm_reward_set_check_prompt(set, "rabbit", NULL), STM_ERR_INPUT,
                 "expected a number in it, which reward[0] (numeric)");
    stm_reward_set_destroy(set);
    o.extract = (char *)"<answer>(.*?)</answer>";
    assert_true(reward_of_text(o, "<answer>4</answer> 5", "4") == 1.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cosine_favours_short_right_answers_and_long_wrong_ones_less),
        cmocka_unit_test(characters_are_not_bytes),
        cmocka_unit_test(length_of_a_group_is_measured_within_each_group_alone),
        cmocka_unit_test(overlong_falls_to_minus_one_before_the_limit),
        cmocka_unit_test(repetition_counts_n_grams_that_came_before),
        cmocka_unit_test(choices_count_the_right_ones_unless_one_is_wrong),
        cmocka_unit_test(hapo_compares_with_the_shortest_right_response_so_far),
        cmocka_unit_test(hapo_remembers_each_prompt_between_steps_alone),
        cmocka_unit_test(memories_survive_their_bytes),
        cmocka_unit_test(bytes_that_are_no_memory_are_refused),
        cmocka_unit_test(what_judges_right_from_wrong_needs_its_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
