/* Values of options: of every kind, those that are taken, and those that are refused. */
#include "config/table.h"
#include "support/options.h"

static bool accepts(const char *argument)
{
    stm_options o;
    char *argv[] = {(char *)argument};
    assert_ok(stm_options_init(&o));
    const bool good = stm_options_read_arguments(&o, STM_COMMAND_TRAIN, 1, argv) == STM_OK;
    stm_options_clear(&o);
    return good;
}

static void booleans(void **state)
{
    (void)state;
    static const char *const yes[] = {"true", "True", "yes", "on"}, *const no[] = {"false", "FALSE", "no", "off"};
    for (size_t i = 0; i < 4; i++) {
        char text[64];
        stm_options o;
        snprintf(text, sizeof text, "data: {shuffle: %s}\nrollout: {ignore_eos: %s}\n", no[i], yes[i]);
        stm_test_given(&o, text);
        assert_true(!o.data.shuffle && o.rollout.ignore_eos);
        stm_options_clear(&o);
    }
    stm_test_file_refused("data:\n  shuffle: 1\n", "in.yaml:2: data.shuffle: found 1, expected true or false");
    stm_test_file_refused("data:\n  shuffle: \"true\"\n",
                          "in.yaml:2: data.shuffle: found \"true\", expected true or false");
    stm_test_file_refused("data:\n  shuffle:\n", "in.yaml:2: data.shuffle: found nothing, expected true or false");
    stm_test_line_refused("data.shuffle=maybe", "command line: data.shuffle: found maybe, expected true or false");
}

static void integers(void **state)
{
    (void)state;
    stm_options o;
    stm_test_given(&o, "run: {seed: 9007199254740993, steps: +7}\nparallel: {suffix: 3, replica: auto}\n");
    assert_true(o.run.seed == INT64_C(9007199254740993)); /* no double holds it */
    assert_int_equal(o.run.steps, 7);
    assert_int_equal(o.parallel.suffix, 3);
    assert_int_equal(o.parallel.replica, STM_AUTO);
    stm_options_clear(&o);
    stm_test_file_refused("run:\n\n  steps: many\n",
                          "in.yaml:3: run.steps: found many, expected a whole number of at least 0");
    stm_test_file_refused("run: {steps: 1.5}\n",
                          "in.yaml:1: run.steps: found 1.5, expected a whole number of at least 0");
    stm_test_file_refused("run: {steps: 1e3}\n",
                          "in.yaml:1: run.steps: found 1e3, expected a whole number of at least 0");
    stm_test_file_refused("run: {steps: '7'}\n",
                          "in.yaml:1: run.steps: found \"7\", expected a whole number of at least 0");
    stm_test_file_refused("run: {steps: [7]}\n",
                          "in.yaml:1: run.steps: found a list, expected a whole number of at least 0");
    stm_test_file_refused("run: {steps: {a: 7}}\n",
                          "in.yaml:1: run.steps: found a map, expected a whole number of at least 0");
    stm_test_file_refused("run: {steps: auto}\n",
                          "in.yaml:1: run.steps: found auto, expected a whole number of at least 0");
    stm_test_file_refused("run: {seed: 9223372036854775808}\n",
                          "in.yaml:1: run.seed: found 9223372036854775808, expected a whole number of at least 0");
    stm_test_file_refused("parallel: {suffix: -1}\n", /* not the number that stands for auto */
                          "in.yaml:1: parallel.suffix: found -1, expected auto or a whole number of at least 1");
    stm_test_file_refused("parallel: {pipeline: 0}\n",
                          "in.yaml:1: parallel.pipeline: found 0, expected auto or a whole number of at least 1");
    stm_test_line_refused("run.steps=",
                          "command line: run.steps: found nothing, expected a whole number of at least 0");
}

static void numbers(void **state)
{
    (void)state;
    stm_options o;
    stm_test_given(&o, "optim: {lr: 1e-3, eps: 1.0e-7, clip: 2, betas: [.5, 0.75]}\n");
    assert_true(o.optim.lr == 1e-3 && o.optim.eps == 1e-7 && o.optim.clip == 2.0);
    assert_true(o.optim.betas[0] == 0.5 && o.optim.betas[1] == 0.75);
    stm_options_clear(&o);
    static const char *const wrong[] = {"nan", ".nan", "inf", ".inf", "1e999", "0x10", "1,5", "2%", "fast"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char text[64], message[128];
        snprintf(text, sizeof text, "optim:\n  lr: %s\n", wrong[i]);
        snprintf(message, sizeof message, "in.yaml:2: optim.lr: found %s, expected a number of at least 0", wrong[i]);
        stm_test_file_refused(text, message);
    }
    stm_test_file_refused("optim: {betas: 0.9}\n",
                          "in.yaml:1: optim.betas: found 0.9, expected two numbers from 0 to below 1");
    stm_test_file_refused("optim: {betas: [0.9]}\n",
                          "in.yaml:1: optim.betas: found a list, expected two numbers from 0 to below 1");
    stm_test_file_refused("optim: {betas: [0.9, 0.95, 0.99]}\n",
                          "in.yaml:1: optim.betas: found a list, expected two numbers from 0 to below 1");
    stm_test_file_refused("optim:\n  betas:\n    - 0.9\n    - 1.0\n",
                          "in.yaml:4: optim.betas: found 1.0, expected two numbers from 0 to below 1");
}

static void sizes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t bytes;
    } cases[] = {{"4096", 4096},
                 {"1B", 1},
                 {"8GiB", INT64_C(8) << 30},
                 {"8 GiB", INT64_C(8) << 30},
                 {"500 MB", 500000000},
                 {"500MB", 500000000},
                 {"1.5GiB", INT64_C(3) << 29},
                 {"64KiB", 65536},
                 {"64kB", 64000},
                 {"3MiB", 3 << 20},
                 {"2GB", 2000000000},
                 {"1TiB", INT64_C(1) << 40},
                 {"1TB", INT64_C(1000000000000)},
                 {"auto", STM_AUTO}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[64];
        stm_options o;
        snprintf(text, sizeof text, "memory: {limit: %s}\n", cases[i].text);
        stm_test_given(&o, text);
        assert_true(o.memory.limit_bytes == cases[i].bytes);
        stm_options_clear(&o);
        snprintf(text, sizeof text, "memory.limit=%s", cases[i].text);
        assert_true(accepts(text));
    }
    static const char *const wrong[] = {"0", "-1", "8 GIBB", "GiB", "1.2.3GiB", "all", "1e30", "99999999TiB", "0.1B"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char text[64], message[128];
        snprintf(text, sizeof text, "memory: {limit: %s}\n", wrong[i]);
        snprintf(message, sizeof message, "in.yaml:1: memory.limit: found %s, expected auto or a size like 12GiB",
                 wrong[i]);
        stm_test_file_refused(text, message);
    }
}

static void texts(void **state)
{
    (void)state;
    stm_options o;
    stm_test_given(&o, "run: {folder: \"a b: #c\"}\nmodel: {path: 12}\ndata:\n  prompts: 'it''s'\n");
    assert_string_equal(o.run.folder, "a b: #c");
    assert_string_equal(o.model.path, "12");
    assert_string_equal(o.data.prompts, "it's");
    stm_test_argument(&o, STM_COMMAND_TRAIN, "run.folder=a: [b #c"); /* taken as it is */
    assert_string_equal(o.run.folder, "a: [b #c");
    stm_test_argument(&o, STM_COMMAND_TRAIN, "run.folder=\"a\\tb\"");
    assert_string_equal(o.run.folder, "a\tb");
    stm_test_argument(&o, STM_COMMAND_TRAIN, "eval.prompts=");
    assert_string_equal(o.eval.prompts, "");
    stm_options_clear(&o);
    stm_test_file_refused("run: {folder: [a]}\n", "in.yaml:1: run.folder: found a list, expected a text");
    stm_test_file_refused("run: {folder: ~}\n", "in.yaml:1: run.folder: found nothing, expected a text");
    stm_test_file_refused("run: {folder: \"a\\0b\"}\n", "in.yaml:1: run.folder: found \"a\", expected a text");
    stm_test_line_refused("run.folder=\xff", "command line: run.folder: found bytes that are not UTF-8, expected text");
}

static void words(void **state)
{
    (void)state;
    stm_options o;
    stm_test_given(&o,
                   "objective: {aggregate: fixed-length, kl_estimator: k1, advantage_scale: none}\nprecision: float64\n"
                   "forward: repeated\nbackend: cpu\nrollout: {save: all}\ndata: {overlong: truncate-left}\n");
    assert_int_equal(o.objective.aggregate, STM_AGGREGATE_FIXED_LENGTH);
    assert_int_equal(o.objective.kl_estimator, STM_KL_K1);
    assert_int_equal(o.objective.advantage_scale, STM_SCALE_NONE);
    assert_int_equal(o.precision, STM_FLOAT64);
    assert_int_equal(o.forward, STM_FORWARD_REPEATED);
    assert_int_equal(o.data.overlong, STM_OVERLONG_TRUNCATE_LEFT);
    assert_string_equal(o.backend, "cpu");
    assert_string_equal(o.rollout.save, "all");
    stm_options_clear(&o);
    stm_test_file_refused("objective: {aggregate: token_mean}\n",
                          "in.yaml:1: objective.aggregate: found token_mean, expected sequence-mean, token-mean, "
                          "fixed-length, sequence-sum or control-split; did you mean token-mean?");
    stm_test_file_refused(
        "precision: float16\n",
        "in.yaml:1: precision: found float16, expected float32, float64 or bfloat16; did you mean bfloat16?");
    stm_test_line_refused("--forward=treee",
                          "command line: --forward: found treee, expected tree, prompt or repeated; did "
                          "you mean tree?");
    stm_test_line_refused("--backend=gpu",
                          "command line: --backend: found gpu, expected auto, cpu or cuda; did you mean cpu?");
}

static void lists_of_texts(void **state)
{
    (void)state;
    stm_options o;
    stm_test_given(&o, "rollout:\n  stop:\n    - \"\\n\"\n    - END\n");
    assert_int_equal(o.rollout.stop.n, 2);
    assert_string_equal(o.rollout.stop.items[0], "\n");
    assert_string_equal(o.rollout.stop.items[1], "END");
    stm_test_argument(&o, STM_COMMAND_TRAIN, "rollout.stop=[\"a, b\", c]");
    assert_int_equal(o.rollout.stop.n, 2);
    assert_string_equal(o.rollout.stop.items[0], "a, b");
    stm_test_argument(&o, STM_COMMAND_TRAIN, "rollout.stop=END");
    assert_int_equal(o.rollout.stop.n, 1);
    stm_test_argument(&o, STM_COMMAND_TRAIN, "rollout.stop=");
    assert_int_equal(o.rollout.stop.n, 0);
    stm_options_clear(&o);
    stm_test_file_refused("rollout:\n  stop: [a,\n    [b]]\n",
                          "in.yaml:3: rollout.stop: found a list, expected a list of texts");
    stm_test_file_refused("rollout: {stop: {a: b}}\n",
                          "in.yaml:1: rollout.stop: found a map, expected a list of texts");
    stm_test_file_refused("rollout: {stop: [\"\"]}\n",
                          "in.yaml:1: rollout.stop: found an empty text, expected a list of texts");
    stm_test_line_refused("rollout.stop=[a",
                          "command line: rollout.stop: found what is not YAML: did not find expected ',' or "
                          "']'");
}

static void the_list_of_rewards(void **state)
{
    (void)state;
    stm_options o;
    stm_test_given(&o, "reward:\n"
                       "  - name: numeric\n"
                       "    extract: 'A: (.*)'\n"
                       "  - {name: length, min_tokens: 2, max_tokens: 9, weight: -0.5}\n"
                       "  - name: command\n"
                       "    command: python judge.py\n"
                       "    timeout_s: 2.5\n");
    assert_int_equal(o.reward.n, 3);
    assert_string_equal(o.reward.items[0].extract, "A: (.*)");
    assert_true(o.reward.items[0].weight == 1.0 && o.reward.items[0].timeout_s == 60.0);
    assert_string_equal(o.reward.items[0].pattern, ""); /* never NULL */
    assert_int_equal(o.reward.items[1].min_tokens, 2);
    assert_int_equal(o.reward.items[1].max_tokens, 9);
    assert_true(o.reward.items[1].weight == -0.5);
    assert_string_equal(o.reward.items[2].command, "python judge.py");
    assert_true(o.reward.items[2].timeout_s == 2.5);
    stm_test_argument(&o, STM_COMMAND_TRAIN,
                      "reward={name: contains, text: yes, ignore_case: yes}"); /* replaces the list */
    assert_int_equal(o.reward.n, 1);
    assert_string_equal(o.reward.items[0].text, "yes");
    assert_true(o.reward.items[0].ignore_case);
    stm_options_clear(&o);
    stm_test_file_refused("reward:\n  - name: exact\n  - name: regex\n    patern: a\n",
                          "in.yaml:4: reward[1].patern: unknown key; did you mean pattern?");
    stm_test_file_refused("reward: [{weight: 2}]\n",
                          "in.yaml:1: reward[0]: name is missing; expected a map like {name: exact}");
    stm_test_file_refused("reward:\n  - name: exact\n    weight: high\n",
                          "in.yaml:3: reward[0].weight: found high, expected a number");
    stm_test_file_refused("reward: [{name: exact, name: exact}]\n", "in.yaml:1: reward[0].name: given twice");
    stm_test_file_refused("reward: [{name: command, timeout_s: 0}]\n",
                          "in.yaml:1: reward[0].timeout_s: found 0, expected a number above 0");
    stm_test_file_refused("reward: [exact]\n",
                          "in.yaml:1: reward[0]: found exact, expected a list of rewards like [{name: exact}]");
    stm_test_file_refused("reward: exact\n",
                          "in.yaml:1: reward: found exact, expected a list of rewards like [{name: exact}]");
}

/* The command line is read before the file that has the list. */
static void an_entry_of_the_list_of_rewards_is_changed_by_its_number(void **state)
{
    (void)state;
    static const char list[] = "reward: [{name: exact}, {name: regex, pattern: a}]\n";
    stm_options o;
    assert_ok(stm_options_init(&o));
    stm_test_argument(&o, STM_COMMAND_TRAIN, "reward[1].weight=0.5");
    stm_test_argument(&o, STM_COMMAND_TRAIN, "reward[1].pattern=a=[b");
    stm_test_argument(&o, STM_COMMAND_TRAIN, "reward[1].weight=0.25");
    assert_ok(stm_test_read_options(&o, list));
    assert_int_equal(o.reward.n, 2);
    assert_string_equal(o.reward.items[0].name, "exact");
    assert_true(o.reward.items[0].weight == 1 && o.reward.items[1].weight == 0.25); /* the last one wins */
    assert_string_equal(o.reward.items[1].pattern, "a=[b");
    assert_int_equal(o.arguments.n, 0);
    stm_options_clear(&o);
    assert_ok(stm_options_init(&o)); /* of a list of the command line, whatever the file has */
    stm_test_argument(&o, STM_COMMAND_TRAIN, "reward=[{name: bleu}]");
    stm_test_argument(&o, STM_COMMAND_TRAIN, "reward[0].style=bleuberi");
    assert_ok(stm_test_read_options(&o, list));
    assert_int_equal(o.reward.n, 1);
    assert_string_equal(o.reward.items[0].style, "bleuberi");
    stm_options_clear(&o);
    static const struct {
        const char *argument, *message;
    } wrong[] = {
        {"reward[2].weight=1",
         "command line: reward[2].weight: found entry 2, counted from 0, expected one of the 2 that there are"},
        {"reward[0].weigth=1", "command line: reward[0].weigth: unknown key; did you mean weight?"},
        {"reward[0].weight=high", "command line: reward[0].weight: found high, expected a number"},
        {"reward[x].weight=1", "command line: reward[x].weight: expected the number of an entry, from 0, and a key: "
                               "reward[0].weight"},
        {"reward[-1].weight=1", "command line: reward[-1].weight: expected the number of an entry, from 0, and a key: "
                                "reward[0].weight"},
        {"reward[0]=1", "command line: reward[0]: expected the number of an entry, from 0, and a key: "
                        "reward[0].weight"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_ok(stm_options_init(&o));
        stm_test_argument(&o, STM_COMMAND_TRAIN, wrong[i].argument);
        assert_int_equal(stm_test_read_options(&o, list), STM_ERR_INPUT);
        assert_string_equal(stm_failure(), wrong[i].message);
        stm_options_clear(&o);
    }
    stm_test_line_refused("reward.weight=1",
                          "command line: reward.weight: found a key of an entry, expected its number, from 0: "
                          "reward[0].weight");
    stm_test_line_refused_by(STM_COMMAND_SCORE, "reward[0].weight=1",
                             "command line: reward: not an option of `stemma score`");
}

static void a_map_of_weights_names_copies_of_the_model(void **state)
{
    (void)state;
    stm_test_file_refused("objective: {reference: {ref: 1, ref: 2}}\n",
                          "in.yaml:1: objective.reference: ref is given twice");
    stm_test_file_refused(
        "objective: {reference: {old: many}}\n",
        "in.yaml:1: objective.reference: found many, expected a map of numbers like {ref: 1.0}, of ref, old, twin "
        "or target");
    stm_test_file_refused("objective: {reference: [1]}\n",
                          "in.yaml:1: objective.reference: found a list, expected a map of "
                          "numbers like {ref: 1.0}, of ref, old, twin or target");
}

/* Every row with a limit: the limit itself as the row says, and one step beyond never. */
static void every_range_ends_where_the_table_says(void **state)
{
    (void)state;
    size_t n_limits = 0;
    for (size_t i = 0; i < stm_n_option_rows; i++) {
        const stm_option_row *row = &stm_option_rows[i];
        if (!(row->commands & STM_COMMAND_TRAIN) || row->kind == STM_KIND_BYTES)
            continue;
        const char *form = row->kind == STM_KIND_PAIR ? "%s=[%.17g, 0.5]" : "%s=%.17g";
        const char *dashes = row->traits & STM_OPTION_FLAG ? "--" : "";
        for (int end = 0; end < 2; end++) {
            char name[128], text[256];
            const double limit = end ? row->max : row->min;
            const bool out = row->traits & (end ? STM_OPTION_BELOW_MAX : STM_OPTION_ABOVE_MIN);
            const double step = row->kind == STM_KIND_INTEGER ? 1.0 : 0.001;
            if (!isfinite(limit))
                continue;
            snprintf(name, sizeof name, "%s%s", dashes, row->name);
            snprintf(text, sizeof text, form, name, limit);
            if (accepts(text) == out)
                fail_msg("%s: accepted is %d", text, !out);
            snprintf(text, sizeof text, form, name, end ? limit + step : limit - step);
            if (accepts(text))
                fail_msg("%s is accepted", text);
            n_limits++;
        }
    }
    assert_true(n_limits > 30);
    static const char *const refused[] = {
        "objective.clip_low=-0.1", "objective.clip_high=-0.1", "objective.kl_coef=-1",     "rollout.top_p=1.1",
        "rollout.min_p=-0.1",      "rollout.group_size=0",     "optim.lr=-1e-9",           "optim.eps=0",
        "update.epochs=0",         "checkpoint.keep=0",        "tree.min_shared_tokens=0", "eval.samples=0"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        assert_false(accepts(refused[i]));
}

static void lists_of_numbers_take_one_number_for_a_list(void **state)
{
    (void)state;
    stm_options o;
    assert_ok(stm_options_init(&o));
    assert_int_equal(o.bench.prompt.n, 1);
    assert_int_equal(o.bench.ratio.n, 0);
    char *const argv[] = {"bench.prompt=[16, 2048]", "bench.ratio=0.5", "bench.forwards=[decode, tree]"};
    assert_ok(stm_options_read_arguments(&o, STM_COMMAND_BENCH, 3, argv));
    assert_int_equal(o.bench.prompt.n, 2);
    assert_near(o.bench.prompt.items[1], 2048, 0);
    assert_int_equal(o.bench.ratio.n, 1);
    assert_near(o.bench.ratio.items[0], 0.5, 0);
    assert_int_equal(o.bench.forwards.n, 2);
    stm_options_clear(&o);
    stm_test_line_refused_by(
        STM_COMMAND_BENCH, "bench.prompt=[16, 20.5]",
        "command line: bench.prompt: found 20.5, expected a whole number from 1 to 999999, or a list of them");
    stm_test_line_refused_by(
        STM_COMMAND_BENCH, "bench.group_size=[2, 0]",
        "command line: bench.group_size: found 0, expected a whole number from 1 to 65536, or a list of them");
    stm_test_line_refused_by(
        STM_COMMAND_BENCH, "bench.forwards=[tre]",
        "command line: bench.forwards: found tre, expected tree, prompt, repeated or decode; did you mean tree?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(booleans),
        cmocka_unit_test(integers),
        cmocka_unit_test(numbers),
        cmocka_unit_test(sizes),
        cmocka_unit_test(texts),
        cmocka_unit_test(words),
        cmocka_unit_test(lists_of_texts),
        cmocka_unit_test(the_list_of_rewards),
        cmocka_unit_test(an_entry_of_the_list_of_rewards_is_changed_by_its_number),
        cmocka_unit_test(a_map_of_weights_names_copies_of_the_model),
        cmocka_unit_test(every_range_ends_where_the_table_says),
        cmocka_unit_test(lists_of_numbers_take_one_number_for_a_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
