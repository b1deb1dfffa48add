#include "support/rewards.h"
#include "support/support.h"

#include <jansson.h>

typedef struct {
    const char *text, *answer;
    double reward;
} example;

static void judge(const example *examples, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (reward_of_text(reward_named("math"), examples[i].text, examples[i].answer) != examples[i].reward)
            fail_msg("\"%s\" against \"%s\" is not %g", examples[i].text, examples[i].answer, examples[i].reward);
}

static void numbers_fractions_and_percent_are_compared_by_value(void **state)
{
    (void)state;
    static const example examples[] = {
        {"so \\boxed{42}.", "42", 1},
        {"\\boxed{41} no: \\boxed{42}", "42", 1},
        {"\\boxed{42} no: \\boxed{41}", "42", 0},
        {"\\boxed{42", "42", 0},
        {"6*7\n#### 42", "so\n#### 42", 1},
        {"The answer is 42.", "42", 1},
        {"42", "42.0", 1},
        {"\\boxed{1,234.50}", "1234.5", 1},
        {"\\boxed{10,\\!000}", "10000", 1},
        {"\\boxed{10{,}000}", "10000", 1},
        {"\\boxed{1000000001}", "1000000000", 0},
        {"\\boxed{98765432109876543210}", "98765432109876543211", 0},
        {"\\boxed{98765432109876543210}", "98765432109876543210", 1},
        {"\\boxed{\\frac{3}{4}}", "0.75", 1},
        {"\\boxed{\\dfrac34}", "3/4", 1},
        {"\\boxed{-\\frac{3}{4}}", "\\frac{-3}{4}", 1},
        {"\\boxed{\u2212 3/4}", "-0.75", 1},
        {"\\boxed{\\frac{3}{4}}", "\\frac{4}{3}", 0},
        {"\\boxed{1\\frac{1}{2}}", "3/2", 1},
        {"\\boxed{1 1/2}", "1.5", 1},
        {"\\boxed{0.333}", "1/3", 0},
        {"\\boxed{3/0}", "3/0", 1},
        {"\\boxed{3/0}", "4/0", 0},
        {"\\boxed{50\\%}", "50", 1},
        {"\\boxed{50\\%}", "0.5", 1},
        {"\\boxed{50}", "50\\%", 1},
        {"\\boxed{50\\%}", "5\\%", 0},
        {"\\boxed{12.5 percent}", "1/8", 1},
        {"\\boxed{$5$}", "5", 1},
        {"\\boxed{\\$5.00}", "5", 1},
        {"\\boxed{-\\$5}", "-5", 1},
        {"\\boxed{}", "5", 0},
        {"", "5", 0},
    };
    judge(examples, sizeof examples / sizeof *examples);
}

static void units_count_where_both_have_one_and_are_converted(void **state)
{
    (void)state;
    static const example examples[] = {
        {"\\boxed{12 \\text{ cm}}", "12", 1},
        {"\\boxed{12}", "12\\text{ apples}", 1},
        {"\\boxed{12 cm}", "0.12\\,\\mathrm{m}", 1},
        {"\\boxed{12 cm}", "12 m", 0},
        {"\\boxed{12 cm}", "12 g", 0},
        {"\\boxed{3\\text{ m}^2}", "30000 cm^{2}", 1},
        {"\\boxed{3\\text{ m}^2}", "3 m", 0},
        {"\\boxed{90 minutes}", "1.5 hours", 1},
        {"\\boxed{12 apples}", "12 apple", 1},
        {"\\boxed{12 apples}", "12 pears", 0},
        {"\\boxed{75 cents}", "\\$0.75", 1},
        {"\\boxed{60^\\circ}", "60", 1},
        {"\\boxed{60\u00B0}", "60 degrees", 1},
        {"\\boxed{30 km/h}", "30 km/h", 1},
    };
    judge(examples, sizeof examples / sizeof *examples);
}

static void simple_latex_is_compared_as_a_function_of_its_letters(void **state)
{
    (void)state;
    static const example examples[] = {
        {"\\boxed{2\\sqrt{3}}", "\\sqrt{12}", 1},
        {"\\boxed{\\sqrt[3]{8}}", "2", 1},
        {"\\boxed{\u221A16}", "4", 1},
        {"\\boxed{\\frac{\\sqrt{2}}{2}}", "\\frac{1}{\\sqrt 2}", 1},
        {"\\boxed{\\frac{\\pi}{2}}", "0.5\\pi", 1},
        {"\\boxed{3.14159}", "\\pi", 0},
        {"\\boxed{2^{10}}", "1024", 1},
        {"\\boxed{2^{-1}}", "1/2", 1},
        {"\\boxed{5!}", "120", 1},
        {"\\boxed{2 \\cdot 3 \\times 4}", "24", 1},
        {"\\boxed{\\left( 2 + 3 \\right)^2}", "25", 1},
        {"\\boxed{|-3|}", "3", 1},
        {"\\boxed{x^2 + 2x + 1}", "(x+1)^2", 1},
        {"\\boxed{x^2 + 2x - 1}", "(x+1)^2", 0},
        {"\\boxed{\\frac{x+1}{2}}", "x/2 + 1/2", 1},
        {"\\boxed{\\sqrt{x^2}}", "x", 0},
        {"\\boxed{\\sin(x)}", "\\cos(x - \\frac{\\pi}{2})", 1},
        {"\\boxed{x}", "y", 0},
        {"\\boxed{x = 5}", "5", 1},
        {"\\boxed{2 3}", "6", 0},
        {"\\boxed{2+}", "2", 0},
        {"\\boxed{\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}}", "\\begin{pmatrix} 2 \\\\ 1 \\end{pmatrix}", 0},
    };
    judge(examples, sizeof examples / sizeof *examples);
}

static void lists_have_no_order_and_tuples_have(void **state)
{
    (void)state;
    static const example examples[] = {
        {"\\boxed{1, 2}", "2,1", 1},
        {"\\boxed{x = 1 \\text{ or } 2}", "1, 2", 1},
        {"\\boxed{1, 2, and 3}", "3, 2, 1", 1},
        {"\\boxed{\\{1, \\frac12\\}}", "\\{0.5, 1\\}", 1},
        {"\\boxed{1, 1}", "1, 2", 0},
        {"\\boxed{1, 2, 3}", "1, 2", 0},
        {"\\boxed{(1, 2)}", "\\left(1, \\frac{4}{2}\\right)", 1},
        {"\\boxed{(2, 1)}", "(1, 2)", 0},
        {"\\boxed{(1, 2)}", "1, 2", 0},
        {"\\boxed{[0, 1)}", "[0,1)", 1},
        {"\\boxed{[0, 1)}", "(0,1)", 0},
        {"\\boxed{(-\\infty, 5]}", "(-\\infty,5.0]", 1},
        {"\\boxed{(1,234)}", "(1, 234)", 1},
    };
    judge(examples, sizeof examples / sizeof *examples);
}

static void words_and_choices_are_compared_as_they_stand(void **state)
{
    (void)state;
    static const example examples[] = {
        {"\\boxed{\\text{(C)}}", "C", 1},  {"\\boxed{(C)}", "(B)", 0},   {"\\boxed{\\text{Monday}}", "Monday", 1},
        {"\\boxed{Monday}", "Mayond", 0},  {"Answer: east ", "east", 1}, {"A: east", "east", 1},
        {"so\nA: east\nsince", "east", 1}, {"USA: east", "east", 0},     {"\\boxed{\\text{east}}", "\\text{seat}", 0},
    };
    judge(examples, sizeof examples / sizeof *examples);
}

static void math_agrees_with_every_labelled_solution_of_gsm8k(void **state)
{
    (void)state;
    const char *path = stm_fixture("gsm8k/solutions.jsonl");
    char *text;
    size_t n, n_solutions = 0, n_disagree = 0;
    assert_non_null(path);
    assert_ok(stm_read_file(path, &text, &n));
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *object = json_loads(line, 0, NULL), *value;
        const char *key, *answer = json_string_value(json_object_get(object, "ground_truth"));
        json_object_foreach(object, key, value)
        {
            if (!json_is_object(value))
                continue;
            const char *solution = json_string_value(json_object_get(value, "solution"));
            const double want = json_is_true(json_object_get(value, "is_correct")) ? 1.0 : 0.0;
            n_solutions++;
            n_disagree += reward_of_text(reward_named("math"), solution, answer) != want;
        }
        json_decref(object);
    }
    free(text);
    assert_int_equal(n_disagree, 0);
    assert_int_equal(n_solutions, 5276);
}

static void nesting_without_end_is_no_answer(void **state)
{
    (void)state;
    static const char *const pieces[] = {"\\boxed{", "\\frac", "(", "-", "\\sqrt", "1,", "{", "x^", "\\text{"};
    enum { N = 40000 };
    char *text = malloc(N * 8 + 16);
    for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++) {
        *text = 0;
        char *end = text;
        for (size_t i = 0; i < N; i++)
            end += sprintf(end, "%s", pieces[p]);
        assert_true(reward_of_text(reward_named("math"), text, "1") == 0.0);
        assert_true(reward_of_text(reward_named("math"), "1", text) == 0.0);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_fractions_and_percent_are_compared_by_value),
        cmocka_unit_test(units_count_where_both_have_one_and_are_converted),
        cmocka_unit_test(simple_latex_is_compared_as_a_function_of_its_letters),
        cmocka_unit_test(lists_have_no_order_and_tuples_have),
        cmocka_unit_test(words_and_choices_are_compared_as_they_stand),
        cmocka_unit_test(math_agrees_with_every_labelled_solution_of_gsm8k),
        cmocka_unit_test(nesting_without_end_is_no_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
