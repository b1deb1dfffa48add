/* Critique and refine: what is said, which refinement is taken, and how it joins its group. */
#include "train/refine.h"
#include "support/support.h"

static void the_first_right_refinement_is_taken_else_the_best(void **state)
{
    (void)state;
    assert_int_equal(stm_refine_choose(4, (const double[]){0.2, 1, 3, 0}, 1), 1);
    assert_int_equal(stm_refine_choose(4, (const double[]){0.2, 0.9, 0.9, 0}, 1), 1);
    assert_int_equal(stm_refine_choose(3, (const double[]){NAN, -3, NAN}, 1), 1);
    assert_int_equal(stm_refine_choose(2, (const double[]){NAN, NAN}, 1), 2);
    assert_int_equal(stm_refine_choose(0, NULL, 1), 0);
}

static void places_of_a_text_are_filled(void **state)
{
    (void)state;
    static const struct {
        const char *text, *expected;
    } cases[] = {{"{critique} Again.", "No {answer}! Again."},
                 {"{answer}{answer}{critique", "4242{critique"},
                 {"{ {critique}}", "{ No {answer}!}"},
                 {"", ""}};
    char *filled;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_ok(
            stm_refine_fill(cases[i].text, "No {answer}!", "42", &filled)); /* what is filled in is not looked at */
        assert_string_equal(filled, cases[i].expected);
        free(filled);
    }
    assert_ok(stm_refine_fill("it is {answer}.", "", NULL, &filled));
    assert_string_equal(filled, "it is .");
    free(filled);
}

static void the_longest_that_may_be_said_is_counted(void **state)
{
    (void)state;
    char *texts[] = {"7", "1234567", NULL};
    stm_prompt items[3] = {0};
    const stm_text_context text = {0};
    const stm_prompts prompts = {.n = 3, .items = items};
    stm_options o = {0};
    size_t n;
    for (size_t i = 0; i < 3; i++)
        items[i].answer = texts[i];
    o.rollout.refine_text = "{critique} Now?";
    o.rollout.refine_praise = "Right.";
    o.rollout.refine_blame = "No: {answer}.";
    assert_ok(stm_refine_most_said(&o, &text, &prompts, &n));
    assert_int_equal(n, 0); /* nothing is refined */
    o.rollout.refine = true;
    assert_ok(stm_refine_most_said(&o, &text, &prompts, &n));
    assert_int_equal(n, strlen("\nNo: 1234567. Now?\n") + 1);
    assert_ok(stm_refine_most_said(&o, &text, NULL, &n));
    assert_int_equal(n, strlen("\nRight. Now?\n") + 1);
}

/* Groups of as many responses as `sizes` says, whose rewards, parts, texts and ids count from `first` on. */
static void make(size_t n, const size_t *sizes, double first, stm_round *round)
{
    size_t n_all = 0, at = 0;
    for (size_t g = 0; g < n; g++)
        n_all += sizes[g];
    *round = (stm_round){.n = n, .batch.n_groups = n, .verdicts = {.n = n_all, .n_rewards = 1}};
    assert_ok(stm_alloc(n, sizeof *round->batch.groups, &round->batch.groups));
    assert_ok(stm_alloc(n_all, sizeof(double), &round->verdicts.total));
    assert_ok(stm_alloc(n_all, sizeof(double), &round->verdicts.parts));
    assert_ok(stm_alloc(n_all, sizeof(char *), &round->verdicts.texts));
    assert_ok(stm_alloc(n_all, sizeof(char *), &round->verdicts.critiques));
    for (size_t g = 0; g < n; g++) {
        stm_group *group = &round->batch.groups[g];
        group->n_responses = sizes[g];
        assert_ok(stm_alloc(sizes[g], sizeof *group->responses, &group->responses));
        for (size_t i = 0; i < sizes[g]; i++, at++) {
            stm_response *r = &group->responses[i];
            *r = (stm_response){.n = 1, .reward = first + (double)at, .has_reward = true};
            assert_ok(stm_alloc(1, sizeof *r->ids, &r->ids));
            assert_ok(stm_alloc(1, sizeof *r->mask, &r->mask));
            assert_ok(stm_alloc(1, sizeof(double), &r->old_logprobs));
            r->ids[0] = (int32_t)r->reward;
            r->mask[0] = 1;
            round->verdicts.total[at] = r->reward;
            round->verdicts.parts[at] = 10 * r->reward;
            assert_ok(stm_format(&round->verdicts.texts[at], "%g", r->reward));
        }
    }
}

static void the_chosen_refinement_becomes_response_0(void **state)
{
    (void)state;
    stm_round round, refined;
    size_t n;
    make(3, (const size_t[]){2, 1, 2}, 10, &round);                /* 10 11 | 12 | 13 14 */
    make(4, (const size_t[]){1, 1, 1, 1}, 100, &refined);          /* 100 .. 103 */
    const size_t owners[] = {0, 0, 2, 2};                          /* there was no room for those of group 1 */
    assert_ok(stm_refine_join(101, owners, &refined, &round, &n)); /* 101 is the first right one; so is 102 */
    assert_int_equal(n, 2);
    static const int32_t expected[] = {101, 10, 11, 12, 102, 13, 14};
    static const size_t sizes[] = {3, 1, 3};
    assert_int_equal(round.verdicts.n, 7);
    for (size_t g = 0, at = 0; g < 3; g++) {
        assert_int_equal(round.batch.groups[g].n_responses, sizes[g]);
        for (size_t i = 0; i < sizes[g]; i++, at++) {
            const stm_response *r = &round.batch.groups[g].responses[i];
            const bool is_refined = expected[at] >= 100;
            char text[16];
            snprintf(text, sizeof text, "%d", expected[at]);
            assert_int_equal(r->ids[0], expected[at]);
            assert_near(r->reward, expected[at], 0);
            assert_near(round.verdicts.total[at], expected[at], 0);
            assert_near(round.verdicts.parts[at], 10 * expected[at], 0);
            assert_string_equal(round.verdicts.texts[at], text);
            assert_int_equal(r->notes && r->notes->off_policy, is_refined);
            assert_int_equal(r->old_logprobs == NULL, is_refined);
        }
    }
    stm_round_clear(&round);
    stm_round_clear(&refined);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_right_refinement_is_taken_else_the_best),
        cmocka_unit_test(places_of_a_text_are_filled),
        cmocka_unit_test(the_longest_that_may_be_said_is_counted),
        cmocka_unit_test(the_chosen_refinement_becomes_response_0),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
