#include "reward/reward.h"
#include "base/helper.h"
#include "base/process.h"
#include "reward/pattern.h"
#include "support/support.h"

#include <jansson.h>
#include <signal.h>
#include <unistd.h>

static const stm_reward_options empty = {.weight = 1.0, .timeout_s = 20.0};

static stm_reward_options named(const char *name)
{
    stm_reward_options o = empty;
    o.name = (char *)name;
    return o;
}

/* The reward of one response by one entry. */
static double reward_of(stm_reward_options o, const char *text, const char *answer)
{
    stm_reward_set *set;
    double total = -1.0;
    const stm_reward_input input = {.prompt_text = "p", .text = text, .n_tokens = 3, .answer = answer};
    assert_ok(stm_reward_set_create(&o, 1, &set));
    assert_ok(stm_reward_set_run(set, 1, &input, &total, NULL));
    stm_reward_set_destroy(set);
    return total;
}

static void refuses(stm_reward_options second, const char *words)
{
    stm_reward_set *set;
    const stm_reward_options items[] = {named("numeric"), second};
    assert_fails(stm_reward_set_create(items, 2, &set), STM_ERR_INPUT, words);
}

static void exact_ignores_white_space_at_the_ends_alone(void **state)
{
    (void)state;
    assert_true(reward_of(named("exact"), " \n blue whale\r\n", "blue whale ") == 1.0);
    assert_true(reward_of(named("exact"), "blue  whale", "blue whale") == 0.0);
    assert_true(reward_of(named("exact"), "blue whales", "blue whale") == 0.0);
    assert_true(reward_of(named("exact"), "Blue whale", "blue whale") == 0.0);
    assert_true(reward_of(named("exact"), "", "") == 1.0);
    assert_true(reward_of(named("exact"), " ", "x") == 0.0);
}

static void exact_can_ignore_case_in_any_alphabet(void **state)
{
    (void)state;
    stm_reward_options o = named("exact");
    o.ignore_case = true;
    assert_true(reward_of(o, "ÉCOLE (a.b)", "école (A.B)") == 1.0);
    assert_true(reward_of(o, "ÉCOLE (axb)", "école (A.B)") == 0.0); /* the answer is no pattern */
    assert_true(reward_of(o, "école (a.b) x", "école (A.B)") == 0.0);
    assert_true(reward_of(o, "", "a") == 0.0);
}

static void extract_takes_the_last_match_and_its_first_group(void **state)
{
    (void)state;
    stm_reward_options o = named("exact");
    o.extract = (char *)"<answer>(.*?)</answer>";
    assert_true(reward_of(o, "<answer>1</answer> no: <answer>\n 2\n</answer>!", "2") == 1.0);
    assert_true(reward_of(o, "<answer>2</answer> no: <answer>1</answer>", "2") == 0.0);
    assert_true(reward_of(o, "2", "2") == 0.0);
    o.extract = (char *)"[0-9]+";
    assert_true(reward_of(o, "12 or 34.", "34") == 1.0);
    o.extract = (char *)"x*"; /* matches nothing at the very end, too */
    assert_true(reward_of(o, "xx", "") == 1.0);
    o = named("numeric");
    o.extract = (char *)"<answer>(.*?)</answer>";
    assert_true(reward_of(o, "<answer>about $1,200.00</answer> 7", "1200") == 1.0);
}

static void numeric_compares_numbers_however_they_are_written(void **state)
{
    (void)state;
    static const struct {
        const char *text, *answer;
        double reward;
    } cases[] = {
        {"so it is 18.", "18", 1},
        {"so it is 18.", "#### 18", 1},
        {"A: $1,600.00", "1600", 1},
        {"1,2,3", "3", 1},
        {"1,2,3", "123", 0},
        {"12,345,678", "12345678", 1},
        {"12345677", "12345678", 0},
        {"98765432101", "98765432100", 0},
        {"98765432100.00", "98,765,432,100", 1},
        {"it is 50%.", "50", 1},
        {"it is -3", "-3", 1},
        {"it is \xE2\x88\x92"
         "3",
         "-3", 1},
        {"it is -$3", "-3", 1},
        {"it is $-3", "-3", 1},
        {"10-3", "3", 1},
        {"f(x)-3", "3", 1},
        {"it is 3", "-3", 0},
        {".5", "0.5", 1},
        {"5.", "5", 1},
        {"2.50", "2.5", 1},
        {"1e3", "1000", 1},
        {"1E-1", "0.1", 1},
        {"3 eggs", "3", 1},
        {"3/4", "3/4", 1},
        {"1/4", "3/4", 0},
        {"3/4", "0.75", 1},
        {"0.3333", "1/3", 0},
        {"3/0", "3", 0},
        {"#### 18 of 20", "18", 1},
        {"#### 7\n#### 18 of 20", "18", 1},
        {"1 + 2\nA: 3\nsince 4", "3", 1},
        {"CIA: 3 then 4", "4", 1},
        {"Answer: 6 (not 7)", "6", 1},
        {"\\boxed{42} in 3 steps", "42", 1},
        {"#### none of 5", "5", 1},
        {"5\n####", "5", 0},
        {"no number", "5", 0},
        {"", "5", 0},
        {"\xff\xfe 5", "5", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (reward_of(named("numeric"), cases[i].text, cases[i].answer) != cases[i].reward)
            fail_msg("\"%s\" against \"%s\" is not %g", cases[i].text, cases[i].answer, cases[i].reward);
}

static void answers_without_a_number_are_refused_before_any_response(void **state)
{
    (void)state;
    stm_reward_set *set;
    const stm_reward_options items[] = {named("exact"), named("numeric")};
    assert_ok(stm_reward_set_create(items, 2, &set));
    assert_ok(stm_reward_set_check_prompt(set, "so\n#### 1,234", NULL));
    assert_fails(stm_reward_set_check_prompt(set, "rabbit", NULL), STM_ERR_INPUT,
                 "answer: found \"rabbit\", expected a number in it, which reward[1] (numeric) compares");
    stm_reward_set_destroy(set);
    assert_ok(stm_reward_set_create(items, 1, &set));
    assert_ok(stm_reward_set_check_prompt(set, "rabbit", NULL));
    stm_reward_set_destroy(set);
}

static void numeric_survives_numbers_without_end(void **state)
{
    (void)state;
    char text[5000];
    memset(text, '3', sizeof text);
    text[0] = '0';
    text[1] = '.';
    text[sizeof text - 1] = 0;
    assert_true(reward_of(named("numeric"), text, "1/3") == 1.0);
    text[0] = text[1] = '3';
    assert_true(reward_of(named("numeric"), text, "3") == 0.0);
    assert_true(reward_of(named("numeric"), "1e99999999999999", "3") == 0.0);
}

static void numeric_agrees_with_every_labelled_solution_of_gsm8k(void **state)
{
    (void)state;
    const char *path = stm_fixture("gsm8k/solutions.jsonl");
    char *text;
    size_t n, n_solutions = 0, n_right = 0, n_disagree = 0;
    assert_non_null(path);
    assert_ok(stm_read_file(path, &text, &n));
    stm_reward_set *set;
    const stm_reward_options o = named("numeric");
    assert_ok(stm_reward_set_create(&o, 1, &set));
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *object = json_loads(line, 0, NULL), *value;
        const char *key;
        json_object_foreach(object, key, value)
        {
            if (!json_is_object(value))
                continue;
            double total;
            const stm_reward_input input = {.text = json_string_value(json_object_get(value, "solution")),
                                            .answer = json_string_value(json_object_get(object, "ground_truth"))};
            assert_ok(stm_reward_set_run(set, 1, &input, &total, NULL));
            const bool right = json_is_true(json_object_get(value, "is_correct"));
            n_solutions++;
            n_right += right;
            n_disagree += total != (right ? 1.0 : 0.0);
        }
        json_decref(object);
    }
    stm_reward_set_destroy(set);
    free(text);
    assert_int_equal(n_disagree, 0);
    assert_int_equal(n_solutions, 5276);
    assert_true(n_right > n_solutions / 5);
}

static void regex_searches_and_the_dot_matches_newlines(void **state)
{
    (void)state;
    stm_reward_options o = named("regex");
    o.pattern = (char *)"^<think>.*</think>";
    assert_true(reward_of(o, "<think>a\nb</think> 4", NULL) == 1.0);
    assert_true(reward_of(o, " <think>a\nb</think> 4", NULL) == 0.0);
    o = named("format");
    o.pattern = (char *)"\\p{Lu}\\d$";
    assert_true(reward_of(o, "aÉ7", NULL) == 1.0);
    assert_true(reward_of(o, "aé7", NULL) == 0.0);
    assert_true(reward_of(o, "\xC3 \xFF É7", NULL) == 1.0); /* bytes that are not UTF-8 around it do no harm */
}

static void a_pattern_that_backtracks_for_ever_fails_instead_of_hanging(void **state)
{
    (void)state;
    stm_reward_options o = named("regex");
    o.pattern = (char *)"^(a|aa|b?a)+$";
    assert_true(isnan(reward_of(o, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", NULL)));
    assert_non_null(strstr(stm_failure(), "reward[0].pattern: the search"));
}

static void contains_looks_for_its_text_or_the_answer(void **state)
{
    (void)state;
    stm_reward_options o = named("contains");
    assert_true(reward_of(o, "it is a Whale.", "Whale") == 1.0);
    assert_true(reward_of(o, "it is a whale.", "Whale") == 0.0);
    o.ignore_case = true;
    assert_true(reward_of(o, "it is a whale.", "Whale") == 1.0);
    assert_true(reward_of(o, "it is a wh.le.", "Whale") == 0.0);
    o.text = (char *)"because";
    assert_true(reward_of(o, "BECAUSE it is", NULL) == 1.0);
    assert_true(reward_of(o, "it is", NULL) == 0.0);
}

static void length_is_one_inside_and_falls_in_a_straight_line_outside(void **state)
{
    (void)state;
    stm_reward_options o = named("length");
    o.min_tokens = 4;
    o.max_tokens = 10;
    stm_reward_set *set;
    assert_ok(stm_reward_set_create(&o, 1, &set));
    static const struct {
        size_t n;
        double reward;
    } cases[] = {{0, 0}, {1, 0.25}, {4, 1}, {10, 1}, {12, 0.8}, {15, 0.5}, {20, 0}, {90, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double total;
        const stm_reward_input input = {.text = "", .n_tokens = cases[i].n};
        assert_ok(stm_reward_set_run(set, 1, &input, &total, NULL));
        assert_near(total, cases[i].reward, 1e-14);
    }
    stm_reward_set_destroy(set);
}

static void a_sum_is_weighted_and_its_parts_are_not(void **state)
{
    (void)state;
    stm_reward_options items[] = {named("exact"), named("contains"), named("length")};
    items[0].weight = 2.0;
    items[1].weight = -0.5;
    items[2].weight = 0.0;
    items[2].max_tokens = 1;
    const stm_reward_input inputs[] = {{.text = "4", .answer = "4", .n_tokens = 1},
                                       {.text = "44", .answer = "4", .n_tokens = 2},
                                       {.text = "5", .answer = "4", .n_tokens = 1}};
    const double want[] = {1, 1, 1, 0, 1, 0, 0, 0, 1};
    double total[3], parts[9];
    stm_reward_set *set;
    assert_ok(stm_reward_set_create(items, 3, &set));
    assert_true(stm_reward_set_needs_answer(set));
    assert_ok(stm_reward_set_run(set, 3, inputs, total, parts));
    stm_reward_set_destroy(set);
    assert_near(total[0], 1.5, 1e-15);
    assert_near(total[1], -0.5, 1e-15);
    assert_near(total[2], 0.0, 1e-15);
    for (size_t i = 0; i < 9; i++)
        assert_true(parts[i] == want[i]);
}

static void a_prompt_may_name_the_rewards_that_judge_it(void **state)
{
    (void)state;
    stm_reward_options items[] = {named("numeric"), named("exact"), named("length")};
    items[1].weight = 2.0;
    items[2].max_tokens = 1;
    const stm_reward_input inputs[] = {
        {.text = "4", .answer = "4", .n_tokens = 1, .fields_json = "{\"judged_by\": [\"numeric\"]}"},
        {.text = "whale", .answer = "whale", .n_tokens = 1, .fields_json = "{\"judged_by\": [\"exact\", \"length\"]}"},
        {.text = "4", .answer = "4", .n_tokens = 1, .fields_json = "{\"other\": 1}"},
        {.text = "4", .answer = "4", .n_tokens = 1, .fields_json = "{\"judged_by\": [\"maths\"]}"}};
    double total[4], parts[12];
    stm_reward_set *set;
    assert_ok(stm_reward_set_create(items, 3, &set));
    assert_ok(stm_reward_set_run(set, 4, inputs, total, parts));
    assert_true(total[0] == 1.0 && total[1] == 3.0 && total[2] == 4.0 && isnan(total[3]));
    assert_true(parts[0] == 1.0 && parts[1] == 0.0 && parts[2] == 0.0 && parts[3] == 0.0);
    assert_non_null(
        strstr(stm_failure(), "judged_by[0]: found maths, expected the name of a reward of the input file"));
    assert_ok(stm_reward_set_check_prompt(set, "whale", inputs[1].fields_json));
    assert_fails(stm_reward_set_check_prompt(set, "whale", inputs[0].fields_json), STM_ERR_INPUT,
                 "expected a number in it");
    assert_fails(stm_reward_set_check_prompt(set, "4", "{\"judged_by\": 3}"), STM_ERR_INPUT,
                 "judged_by: expected a list");
    assert_fails(stm_reward_set_check_prompt(set, "4", "{\"judged_by\": [3]}"), STM_ERR_INPUT,
                 "judged_by[0]: found no text");
    stm_reward_set_destroy(set);
}

static void a_missing_answer_or_one_without_a_number_is_no_reward_at_all(void **state)
{
    (void)state;
    assert_true(isnan(reward_of(named("exact"), "4", NULL)));
    assert_non_null(strstr(stm_failure(), "reward[0]: the prompt has no \"answer\""));
    assert_true(isnan(reward_of(named("numeric"), "4", "four")));
    assert_non_null(strstr(stm_failure(), "the answer \"four\" holds no number"));
}

static void an_answer_is_needed_only_where_it_is_read(void **state)
{
    (void)state;
    stm_reward_options items[] = {named("regex"), named("contains"), named("command")};
    items[0].pattern = (char *)"a";
    items[1].text = (char *)"b";
    items[2].command = (char *)"cat";
    stm_reward_set *set;
    assert_ok(stm_reward_set_create(items, 3, &set));
    assert_false(stm_reward_set_needs_answer(set));
    stm_reward_set_destroy(set);
}

static void wrong_entries_are_refused_by_index_and_key(void **state)
{
    (void)state;
    stm_reward_options o = named("exakt");
    refuses(o, "reward[1].name: found \"exakt\", expected exact, numeric, ");
    refuses(o, "did you mean \"exact\"?");
    o = named("regex");
    refuses(o, "reward[1].pattern: missing");
    o.pattern = (char *)"(a";
    refuses(o, "reward[1].pattern: found \"(a\", expected a PCRE2 pattern: missing closing parenthesis at character 3");
    o.pattern = (char *)"a";
    o.extract = (char *)"b";
    refuses(o, "reward[1].extract: the reward \"regex\" does not read it");
    o = named("exact");
    o.extract = (char *)"[";
    refuses(o, "reward[1].extract: found \"[\"");
    o = named("numeric");
    o.ignore_case = true;
    refuses(o, "reward[1].ignore_case: the reward \"numeric\" does not read it");
    o = named("length");
    refuses(o, "reward[1]: the reward \"length\" needs min_tokens, max_tokens or both");
    o.min_tokens = 5;
    o.max_tokens = 4;
    refuses(o, "reward[1].min_tokens: found 5, expected at most max_tokens, 4");
    o = named("command");
    refuses(o, "reward[1].command: missing");
    o.command = (char *)"cat";
    o.timeout_s = 0;
    refuses(o, "reward[1].timeout_s: found 0");
}

/* n responses through one command. */
static void run_command(const char *command, double timeout_s, size_t n, const stm_reward_input *inputs, double *total)
{
    stm_reward_options o = named("command");
    o.command = (char *)command;
    o.timeout_s = timeout_s;
    stm_reward_set *set;
    assert_ok(stm_reward_set_create(&o, 1, &set));
    assert_ok(stm_reward_set_run(set, n, inputs, total, NULL));
    stm_reward_set_destroy(set);
}

static void a_command_sees_prompt_response_answer_and_the_fields_of_the_line(void **state)
{
    (void)state;
    const stm_reward_input input = {.prompt_text = "2+2?\n\"",
                                    .text = "it's \xC3\xA9",
                                    .answer = "4",
                                    .fields_json = "{\"prompt\": \"raw\", \"answer\": 4, \"level\": [1, 2]}"};
    char path[] = "/tmp/stemma_reward_XXXXXX", command[256], *line;
    const int file = mkstemp(path);
    assert_true(file >= 0);
    double total;
    size_t n;
    snprintf(command, sizeof command, "cat > %s; echo 0.5", path);
    run_command(command, 20, 1, &input, &total);
    assert_true(total == 0.5);
    assert_ok(stm_read_file(path, &line, &n));
    assert_string_equal(
        line, "{\"prompt\":\"2+2?\\n\\\"\",\"response\":\"it's \\u00E9\",\"answer\":\"4\",\"level\":[1,2]}\n");
    free(line);
    close(file);
    unlink(path);
}

static void a_command_gives_one_number_a_line(void **state)
{
    (void)state;
    const stm_reward_input inputs[] = {{.prompt_text = "", .text = "a"}, {.prompt_text = "", .text = "b"}};
    double total[2];
    run_command("cat > /dev/null; echo 1; printf ' -2.5e-1\\r\\n'", 20, 2, inputs, total);
    assert_true(total[0] == 1.0 && total[1] == -0.25);
    run_command("printf '1\\n2'", 20, 2, inputs, total); /* no newline at the end, and stdin never read */
    assert_true(total[0] == 1.0 && total[1] == 2.0);
    run_command("printf '1\\nnan\\n'", 20, 2, inputs, total);
    assert_true(total[0] == 1.0 && isnan(total[1]));
    assert_non_null(strstr(stm_failure(), "reward[0].command: line 2 of its output: found \"nan\""));
    run_command("printf '1\\n\\n'", 20, 2, inputs, total);
    assert_true(total[0] == 1.0 && isnan(total[1]));
    run_command("printf '\\n1\\n'", 20, 2, inputs, total);
    assert_true(isnan(total[0]) && total[1] == 1.0);
    run_command("printf '1 2\\n1\\n'", 20, 2, inputs, total);
    assert_true(isnan(total[0]) && total[1] == 1.0);
}

static void a_command_that_fails_gives_no_reward_and_says_why(void **state)
{
    (void)state;
    const stm_reward_input inputs[] = {{.prompt_text = "", .text = "a"}, {.prompt_text = "", .text = "b"}};
    static const struct {
        const char *command, *words;
    } cases[] = {
        {"printf '1\\n'", "reward[0].command: printed 1 lines, expected 2"},
        {"printf '1\\n2\\n3\\n'", "printed 3 lines, expected 2"},
        {"printf '1\\n2\\n'; exit 3", "ended with exit code 3"},
        {"kill -9 $$", "was ended by signal 9"},
        {"/no/such/program", "ended with exit code 127"},
        {"yes", "printed more than"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double total[2] = {0};
        run_command(cases[i].command, 20, 2, inputs, total);
        assert_true(isnan(total[0]) && isnan(total[1]));
        if (!strstr(stm_failure(), cases[i].words))
            fail_msg("%s: \"%s\"", cases[i].command, stm_failure());
    }
}

/* The reward of a command that starts `sleep 300` and then does `rest`; fails unless sleep is gone thereafter. */
static double reward_with_child(const char *rest, double timeout_s)
{
    const stm_reward_input input = {.prompt_text = "", .text = "a"};
    char path[] = "/tmp/stemma_reward_XXXXXX", command[256], pid[32] = "";
    const int file = mkstemp(path);
    assert_true(file >= 0);
    double total;
    snprintf(command, sizeof command, "sleep 300 & echo $! > %s; %s", path, rest);
    const double before = stm_now_s();
    run_command(command, timeout_s, 1, &input, &total);
    assert_true(stm_now_s() - before < 10.0);
    assert_true(read(file, pid, sizeof pid - 1) > 0);
    bool gone = false;
    for (int i = 0; i < 1000 && !gone; i++) { /* its new parent takes a moment to wait for it */
        char stat_path[64], line[256] = "";
        snprintf(stat_path, sizeof stat_path, "/proc/%d/stat", atoi(pid));
        FILE *f = fopen(stat_path, "r");
        gone = !f || !fgets(line, sizeof line, f) || strstr(line, ") Z ");
        if (f)
            fclose(f);
        usleep(2000);
    }
    assert_true(gone);
    close(file);
    unlink(path);
    return total;
}

static void a_command_that_takes_too_long_is_killed_with_its_children(void **state)
{
    (void)state;
    assert_true(isnan(reward_with_child("wait", 0.5)));
    assert_non_null(strstr(stm_failure(), "timed out after 0.5 s"));
}

/* It would keep our pipe open, and after the job the launcher's. */
static void a_child_left_running_neither_holds_up_the_rewards_nor_outlives_them(void **state)
{
    (void)state;
    assert_true(reward_with_child("echo 1", 20) == 1.0);
    assert_true(isnan(reward_with_child("exit 4", 20)));
    assert_non_null(strstr(stm_failure(), "ended with exit code 4"));
}

static void full_pipes_on_both_sides_do_not_deadlock(void **state)
{
    (void)state;
    enum { N = 3000 };
    char *text = malloc(2001);
    stm_reward_input *inputs = calloc(N, sizeof *inputs);
    double *total = calloc(N, sizeof *total);
    memset(text, 'x', 2000);
    text[2000] = 0;
    for (size_t i = 0; i < N; i++)
        inputs[i] = (stm_reward_input){.prompt_text = "", .text = text};
    /* 6 MB in; 1.8 MB out before the first byte is read */
    run_command("i=0; while [ $i -lt 3000 ]; do printf '%600d\\n' $i; i=$((i+1)); done; cat > /dev/null", 60, N, inputs,
                total);
    for (size_t i = 0; i < N; i++)
        assert_true(total[i] == (double)i);
    free(total);
    free(inputs);
    free(text);
}

static void a_command_that_never_reads_raises_no_signal(void **state)
{
    (void)state;
    char *output = NULL, *input = calloc(1 << 20, 1);
    size_t n;
    sigset_t waiting;
    assert_ok(stm_process_run("exec 0<&-; sleep 0.2; echo 1", input, 1 << 20, 20, 1000, -1, &output, &n));
    assert_string_equal(output, "1\n");
    sigpending(&waiting);
    assert_false(sigismember(&waiting, SIGPIPE));
    free(output);
    free(input);
}

static void a_command_inherits_no_variables_of_mpi(void **state)
{
    (void)state;
    char *output = NULL;
    size_t n;
    setenv("OMPI_COMM_WORLD_RANK", "0", 1);
    setenv("PMIX_RANK", "0", 1);
    setenv("STEMMA_KEPT", "yes", 1);
    assert_ok(stm_process_run("echo ${OMPI_COMM_WORLD_RANK-no} ${PMIX_RANK-no} $STEMMA_KEPT", "", 0, 20, 1000, -1,
                              &output, &n));
    assert_string_equal(output, "no no yes\n");
    unsetenv("OMPI_COMM_WORLD_RANK");
    unsetenv("PMIX_RANK");
    free(output);
}

int main(void)
{
    if (stm_helper_begin() != STM_OK)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_ignores_white_space_at_the_ends_alone),
        cmocka_unit_test(exact_can_ignore_case_in_any_alphabet),
        cmocka_unit_test(extract_takes_the_last_match_and_its_first_group),
        cmocka_unit_test(numeric_compares_numbers_however_they_are_written),
        cmocka_unit_test(answers_without_a_number_are_refused_before_any_response),
        cmocka_unit_test(numeric_survives_numbers_without_end),
        cmocka_unit_test(numeric_agrees_with_every_labelled_solution_of_gsm8k),
        cmocka_unit_test(regex_searches_and_the_dot_matches_newlines),
        cmocka_unit_test(a_pattern_that_backtracks_for_ever_fails_instead_of_hanging),
        cmocka_unit_test(contains_looks_for_its_text_or_the_answer),
        cmocka_unit_test(length_is_one_inside_and_falls_in_a_straight_line_outside),
        cmocka_unit_test(a_sum_is_weighted_and_its_parts_are_not),
        cmocka_unit_test(a_prompt_may_name_the_rewards_that_judge_it),
        cmocka_unit_test(a_missing_answer_or_one_without_a_number_is_no_reward_at_all),
        cmocka_unit_test(an_answer_is_needed_only_where_it_is_read),
        cmocka_unit_test(wrong_entries_are_refused_by_index_and_key),
        cmocka_unit_test(a_command_sees_prompt_response_answer_and_the_fields_of_the_line),
        cmocka_unit_test(a_command_gives_one_number_a_line),
        cmocka_unit_test(a_command_that_fails_gives_no_reward_and_says_why),
        cmocka_unit_test(a_command_that_takes_too_long_is_killed_with_its_children),
        cmocka_unit_test(a_child_left_running_neither_holds_up_the_rewards_nor_outlives_them),
        cmocka_unit_test(full_pipes_on_both_sides_do_not_deadlock),
        cmocka_unit_test(a_command_that_never_reads_raises_no_signal),
        cmocka_unit_test(a_command_inherits_no_variables_of_mpi),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
