/* Which responses to one prompt have the same answer. */
#include "reward/answers.h"
#include "support/support.h"

enum { MOST = 6 };

typedef struct {
    const char *kind, *extract, *texts[MOST];
    int64_t clusters[MOST];
} example;

static void expect(const example *e)
{
    stm_answers *answers;
    int64_t clusters[MOST];
    assert_ok(stm_answers_create(e->kind, e->extract, &answers));
    assert_ok(stm_answers_cluster(answers, MOST, e->texts, clusters));
    for (size_t i = 0; i < MOST; i++)
        if (clusters[i] != e->clusters[i])
            fail_msg("%s, text %zu: found cluster %d, expected %d", e->kind, i, (int)clusters[i], (int)e->clusters[i]);
    stm_answers_destroy(answers);
}

static void answers_are_the_same_where_a_reward_says_so(void **state)
{
    (void)state;
    static const example examples[] = {
        {"math",
         "",
         {"so \\boxed{3/4}", "#### 2", "Answer: 0.75", "the answer is 2.", "75\\%", "3"},
         {0, 1, 0, 1, 0, 5}},
        {"numeric", "", {"I see 4", "four", "#### 4", "7 or 4", "four", "5 and 7"}, {0, 1, 0, 0, 4, 5}},
        {"exact", "", {"red", " red\n", "Red", "blue", "", "blue"}, {0, 0, 2, 3, 4, 3}},
        {"choices", "", {"A, B", "B,A", "A", "A,C", "A ", "B, A"}, {0, 0, 2, 3, 2, 0}},
    };
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++)
        expect(&examples[i]);
}

/* Text around the answer does not count, and what has none is like no other, not even its equal. */
static void a_pattern_finds_the_answer_and_without_one_a_response_stands_alone(void **state)
{
    (void)state;
    expect(&(example){"exact",
                      "<answer>(.*?)</answer>",
                      {"a <answer>x</answer>", "no tags", "<answer>y</answer>", "b <answer> x </answer>", "no tags",
                       "<answer></answer>"},
                      {0, 1, 2, 0, 4, 5}});
    expect(&(example){"math", "", {"", "", "1", "", "1.0", ""}, {0, 1, 2, 3, 2, 5}});
}

static void a_pattern_that_is_none_is_refused(void **state)
{
    (void)state;
    stm_answers *answers;
    assert_fails(stm_answers_create("math", "(", &answers), STM_ERR_INPUT,
                 "rollout.answer_extract: found \"(\", expected a PCRE2 pattern: missing closing parenthesis at "
                 "character 2");
    assert_fails(stm_answers_create("bleu", "", &answers), STM_ERR_INPUT,
                 "rollout.answer: found \"bleu\", expected math, numeric, exact or choices");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_the_same_where_a_reward_says_so),
        cmocka_unit_test(a_pattern_finds_the_answer_and_without_one_a_response_stands_alone),
        cmocka_unit_test(a_pattern_that_is_none_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
