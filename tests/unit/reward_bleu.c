#include "support/rewards.h"
#include "support/support.h"

#include <jansson.h>

static void bleu_is_that_of_sacrebleu_on_recorded_sentences(void **state)
{
    (void)state;
    const char *path = stm_fixture("rewards/bleu.jsonl");
    char *text;
    size_t n, n_cases = 0;
    assert_non_null(path);
    assert_ok(stm_read_file(path, &text, &n));
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), n_cases++) {
        json_t *object = json_loads(line, 0, NULL);
        const json_t *references = json_object_get(object, "references");
        const stm_reward_input input = {.text = json_string_value(json_object_get(object, "response")),
                                        .answer = json_string_value(json_array_get(references, 0)),
                                        .fields_json = line};
        const double want = json_number_value(json_object_get(object, "score")) / 100.0;
        const double found = reward_of_input(reward_named("bleu"), &input);
        if (fabs(found - want) > 1e-12)
            fail_msg("line %zu: found %.15g, recorded %.15g", n_cases + 1, found, want);
        json_decref(object);
    }
    free(text);
    assert_int_equal(n_cases, 400);
}

static void bleuberi_smooths_every_order_and_reads_what_stands_behind_the_tag(void **state)
{
    (void)state;
    static const char cat[] = "the cat sat on the mat";
    stm_reward_options o = reward_named("bleu");
    o.style = (char *)"bleuberi";
    assert_near(reward_of_text(o, cat, cat), 1.0, 1e-14);
    assert_near(reward_of_text(o, "the cat", cat), 0.135335, 1e-5);
    assert_near(reward_of_text(o, "a dog ran", cat), 0.166208, 1e-5);
    assert_near(reward_of_text(o, "so: <answer> the cat sat on the mat </answer> or not", cat), 1.0, 1e-14);
    assert_near(reward_of_text(o, "so: <answer>the cat", cat), 0.135335, 1e-5);
    assert_true(reward_of_text(o, "<answer> </answer>", cat) == 0.0);
    const stm_reward_input two = {.text = "the cat sat on a mat.",
                                  .answer = "the cat sat on the mat.",
                                  .fields_json = "{\"references\": [\"a cat is on the mat\"]}"};
    assert_near(reward_of_input(o, &two), 0.614788, 1e-5);
}

static void bleu_can_judge_an_extracted_part(void **state)
{
    (void)state;
    stm_reward_options o = reward_named("bleu");
    o.extract = (char *)"<b>(.*?)</b>";
    assert_near(reward_of_text(o, "x <b>a b c d</b> y", "a b c d"), 1.0, 1e-14);
    assert_true(reward_of_text(o, "a b c d", "a b c d") == 0.0);
}

static void wrong_references_and_styles_are_named(void **state)
{
    (void)state;
    const stm_reward_input input = {.text = "a", .answer = "a", .fields_json = "{\"references\": [\"a\", 3]}"};
    assert_true(isnan(reward_of_input(reward_named("bleu"), &input)));
    assert_non_null(strstr(stm_failure(), "reward[0]: references[1]: expected a text"));
    stm_reward_options o = reward_named("bleu");
    o.style = (char *)"sacrebleau";
    reward_is_refused(o, "reward[1].style: found \"sacrebleau\", expected sacrebleu or bleuberi; did you mean");
    o = reward_named("exact");
    o.style = (char *)"sacrebleu";
    reward_is_refused(o, "reward[1].style: the reward \"exact\" does not read it");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bleu_is_that_of_sacrebleu_on_recorded_sentences),
        cmocka_unit_test(bleuberi_smooths_every_order_and_reads_what_stands_behind_the_tag),
        cmocka_unit_test(bleu_can_judge_an_extracted_part),
        cmocka_unit_test(wrong_references_and_styles_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
