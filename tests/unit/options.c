/* Options are read, checked and refused. */
#include "support/options.h"
#include "config/table.h"

/* The input file is refused with exactly this message. */
static void file_refused(const char *text, const char *message)
{
    stm_options o;
    assert_ok(stm_options_init(&o));
    assert_int_equal(stm_test_read_options(&o, text), STM_ERR_INPUT);
    assert_string_equal(stm_failure(), message);
    stm_options_clear(&o);
}

static void line_refused_by(stm_command_bit command, const char *argument, const char *message)
{
    stm_options o;
    char *argv[] = {(char *)argument};
    assert_ok(stm_options_init(&o));
    assert_int_equal(stm_options_read_arguments(&o, command, 1, argv), STM_ERR_INPUT);
    assert_string_equal(stm_failure(), message);
    stm_options_clear(&o);
}

static void line_refused(const char *argument, const char *message)
{
    line_refused_by(STM_COMMAND_TRAIN, argument, message);
}

static void check_refused(stm_command_bit command, const char *text, const char *message)
{
    stm_options o;
    assert_ok(stm_options_init(&o));
    assert_ok(stm_options_read_text(&o, STM_COMMAND_TRAIN, "in.yaml", text, strlen(text)));
    assert_int_equal(stm_options_check(&o, command), STM_ERR_INPUT);
    assert_string_equal(stm_failure(), message);
    stm_options_clear(&o);
}

static bool accepts(const char *argument)
{
    stm_options o;
    char *argv[] = {(char *)argument};
    assert_ok(stm_options_init(&o));
    const bool good = stm_options_read_arguments(&o, STM_COMMAND_TRAIN, 1, argv) == STM_OK;
    stm_options_clear(&o);
    return good;
}

/* The sample input file of the design */

static void a_whole_input_file_is_read_as_it_stands(void **state)
{
    (void)state;
    stm_options o;
    stm_test_given(&o, stm_test_input);
    assert_ok(stm_options_check(&o, STM_COMMAND_TRAIN));
    assert_ok(stm_options_check(&o, STM_COMMAND_EVAL));
    assert_string_equal(o.run.folder, "runs/lookup");
    assert_int_equal(o.run.seed, 1);
    assert_int_equal(o.run.steps, 200);
    assert_string_equal(o.model.path, "inputs/lookup/model");
    assert_string_equal(o.data.prompts, "inputs/lookup/train.jsonl");
    assert_string_equal(o.data.template_name, "auto");
    assert_true(o.data.shuffle);
    assert_int_equal(o.rollout.prompts_per_step, 16);
    assert_int_equal(o.rollout.group_size, 8);
    assert_true(o.rollout.temperature == 1.0 && o.rollout.top_p == 1.0);
    assert_int_equal(o.rollout.top_k, 0);
    assert_int_equal(o.rollout.max_new_tokens, 64);
    assert_int_equal(o.rollout.stop.n, 1);
    assert_string_equal(o.rollout.stop.items[0], "\n\n");
    assert_int_equal(o.reward.n, 2);
    assert_string_equal(o.reward.items[0].name, "exact");
    assert_string_equal(o.reward.items[1].name, "format");
    assert_string_equal(o.reward.items[1].pattern, "^<think>.*</think>");
    assert_true(o.reward.items[0].weight == 1.0 && o.reward.items[1].weight == 0.1);
    assert_string_equal(o.objective.name, "grpo");
    assert_true(o.objective.clip_low == 0.2 && o.objective.clip_high == 0.28 && o.objective.kl_coef == 0.0);
    assert_int_equal(o.objective.aggregate, STM_AGGREGATE_TOKEN_MEAN);
    assert_true(o.optim.lr == 1e-5 && o.optim.betas[0] == 0.9 && o.optim.betas[1] == 0.95);
    assert_true(o.optim.weight_decay == 0.0 && o.optim.clip == 1.0);
    assert_int_equal(o.optim.schedule, STM_SCHEDULE_COSINE);
    assert_int_equal(o.optim.warmup_steps, 5);
    assert_int_equal(o.update.epochs, 1);
    assert_int_equal(o.update.minibatch_groups, 0);
    assert_int_equal(o.parallel.pipeline, STM_AUTO);
    assert_int_equal(o.parallel.suffix, STM_AUTO);
    assert_int_equal(o.parallel.replica, STM_AUTO);
    assert_int_equal(o.memory.limit_bytes, STM_AUTO);
    assert_int_equal(o.memory.recompute, STM_RECOMPUTE_AUTO);
    assert_int_equal(o.memory.max_segment_tokens, 4096);
    assert_int_equal(o.checkpoint.every, 20);
    assert_int_equal(o.checkpoint.keep, 3);
    assert_int_equal(o.eval.every, 50);
    assert_string_equal(o.eval.prompts, "inputs/lookup/test.jsonl");
    assert_int_equal(o.eval.samples, 1);
    stm_options_clear(&o);
}

static void the_sample_holds_the_defaults_but_for_paths_and_steps(void **state)
{
    (void)state;
    stm_options o, defaults;
    char *difference;
    stm_test_given(&o, stm_test_input);
    stm_test_given(&defaults, NEEDED "rollout: {stop: [\"\\n\\n\"]}\n");
    stm_test_argument(&defaults, STM_COMMAND_TRAIN,
                      "reward=[{name: exact}, {name: format, pattern: ^<think>.*</think>, weight: 0.1}]");
    assert_ok(stm_options_difference(&o, &defaults, &difference));
    assert_string_equal(difference, "");
    free(difference);
    stm_options_clear(&o);
    stm_options_clear(&defaults);
}

static void every_key_that_documents_name_exists(void **state)
{
    (void)state;
    static const char *const names[] = {"run.folder",
                                        "run.seed",
                                        "run.steps",
                                        "model.path",
                                        "data.prompts",
                                        "data.template",
                                        "data.shuffle",
                                        "data.max_prompt_tokens",
                                        "data.overlong",
                                        "rollout.prompts_per_step",
                                        "rollout.group_size",
                                        "rollout.temperature",
                                        "rollout.top_p",
                                        "rollout.top_k",
                                        "rollout.min_p",
                                        "rollout.max_new_tokens",
                                        "rollout.stop",
                                        "reward",
                                        "objective.name",
                                        "objective.advantage_baseline",
                                        "objective.ratio_level",
                                        "objective.surrogate",
                                        "objective.kl_in",
                                        "objective.clip_low",
                                        "objective.clip_high",
                                        "objective.kl_coef",
                                        "objective.kl_estimator",
                                        "objective.advantage_eps",
                                        "objective.advantage_scale",
                                        "objective.aggregate",
                                        "objective.max_tokens",
                                        "objective.mask_truncated",
                                        "objective.skip_equal_groups",
                                        "optim.lr",
                                        "optim.betas",
                                        "optim.eps",
                                        "optim.weight_decay",
                                        "optim.clip",
                                        "optim.schedule",
                                        "optim.warmup_steps",
                                        "update.epochs",
                                        "update.minibatch_groups",
                                        "parallel.pipeline",
                                        "parallel.suffix",
                                        "parallel.replica",
                                        "parallel.prefixes_in_flight",
                                        "parallel.context",
                                        "memory.limit",
                                        "memory.recompute",
                                        "memory.max_segment_tokens",
                                        "memory.chunk_tokens",
                                        "tree.min_shared_tokens",
                                        "tree.across_groups",
                                        "checkpoint.every",
                                        "checkpoint.keep",
                                        "eval.every",
                                        "eval.prompts",
                                        "eval.samples",
                                        "precision",
                                        "backend",
                                        "forward",
                                        "check",
                                        "maxh",
                                        "resume",
                                        "out",
                                        "dtype",
                                        "to",
                                        "special",
                                        "objective-only",
                                        "temperature"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!stm_option_find(stm_option_rows, stm_n_option_rows, names[i]))
            fail_msg("there is no option %s", names[i]);
}

/* Kinds of values */

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
    file_refused("data:\n  shuffle: 1\n", "in.yaml:2: data.shuffle: found 1, expected true or false");
    file_refused("data:\n  shuffle: \"true\"\n", "in.yaml:2: data.shuffle: found \"true\", expected true or false");
    file_refused("data:\n  shuffle:\n", "in.yaml:2: data.shuffle: found nothing, expected true or false");
    line_refused("data.shuffle=maybe", "command line: data.shuffle: found maybe, expected true or false");
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
    file_refused("run:\n\n  steps: many\n", "in.yaml:3: run.steps: found many, expected a whole number of at least 0");
    file_refused("run: {steps: 1.5}\n", "in.yaml:1: run.steps: found 1.5, expected a whole number of at least 0");
    file_refused("run: {steps: 1e3}\n", "in.yaml:1: run.steps: found 1e3, expected a whole number of at least 0");
    file_refused("run: {steps: '7'}\n", "in.yaml:1: run.steps: found \"7\", expected a whole number of at least 0");
    file_refused("run: {steps: [7]}\n", "in.yaml:1: run.steps: found a list, expected a whole number of at least 0");
    file_refused("run: {steps: {a: 7}}\n", "in.yaml:1: run.steps: found a map, expected a whole number of at least 0");
    file_refused("run: {steps: auto}\n", "in.yaml:1: run.steps: found auto, expected a whole number of at least 0");
    file_refused("run: {seed: 9223372036854775808}\n",
                 "in.yaml:1: run.seed: found 9223372036854775808, expected a whole number of at least 0");
    file_refused("parallel: {suffix: -1}\n", /* not the number that stands for auto */
                 "in.yaml:1: parallel.suffix: found -1, expected auto or a whole number of at least 1");
    file_refused("parallel: {pipeline: 0}\n",
                 "in.yaml:1: parallel.pipeline: found 0, expected auto or a whole number of at least 1");
    line_refused("run.steps=", "command line: run.steps: found nothing, expected a whole number of at least 0");
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
        file_refused(text, message);
    }
    file_refused("optim: {betas: 0.9}\n", "in.yaml:1: optim.betas: found 0.9, expected two numbers from 0 to below 1");
    file_refused("optim: {betas: [0.9]}\n",
                 "in.yaml:1: optim.betas: found a list, expected two numbers from 0 to below 1");
    file_refused("optim: {betas: [0.9, 0.95, 0.99]}\n",
                 "in.yaml:1: optim.betas: found a list, expected two numbers from 0 to below 1");
    file_refused("optim:\n  betas:\n    - 0.9\n    - 1.0\n",
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
        file_refused(text, message);
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
    file_refused("run: {folder: [a]}\n", "in.yaml:1: run.folder: found a list, expected a text");
    file_refused("run: {folder: ~}\n", "in.yaml:1: run.folder: found nothing, expected a text");
    file_refused("run: {folder: \"a\\0b\"}\n", "in.yaml:1: run.folder: found \"a\", expected a text");
    line_refused("run.folder=\xff", "command line: run.folder: found bytes that are not UTF-8, expected text");
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
    file_refused("objective: {aggregate: token_mean}\n",
                 "in.yaml:1: objective.aggregate: found token_mean, expected sequence-mean, token-mean, "
                 "fixed-length, sequence-sum or control-split; did you mean token-mean?");
    file_refused("precision: float16\n",
                 "in.yaml:1: precision: found float16, expected float32, float64 or bfloat16; did you mean bfloat16?");
    line_refused("--forward=treee", "command line: --forward: found treee, expected tree, prompt or repeated; did "
                                    "you mean tree?");
    line_refused("--backend=gpu", "command line: --backend: found gpu, expected auto, cpu or cuda; did you mean cpu?");
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
    file_refused("rollout:\n  stop: [a,\n    [b]]\n",
                 "in.yaml:3: rollout.stop: found a list, expected a list of texts");
    file_refused("rollout: {stop: {a: b}}\n", "in.yaml:1: rollout.stop: found a map, expected a list of texts");
    file_refused("rollout: {stop: [\"\"]}\n", "in.yaml:1: rollout.stop: found an empty text, expected a list of texts");
    line_refused("rollout.stop=[a", "command line: rollout.stop: found what is not YAML: did not find expected ',' or "
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
    file_refused("reward:\n  - name: exact\n  - name: regex\n    patern: a\n",
                 "in.yaml:4: reward[1].patern: unknown key; did you mean pattern?");
    file_refused("reward: [{weight: 2}]\n", "in.yaml:1: reward[0]: name is missing; expected a map like {name: exact}");
    file_refused("reward:\n  - name: exact\n    weight: high\n",
                 "in.yaml:3: reward[0].weight: found high, expected a number");
    file_refused("reward: [{name: exact, name: exact}]\n", "in.yaml:1: reward[0].name: given twice");
    file_refused("reward: [{name: command, timeout_s: 0}]\n",
                 "in.yaml:1: reward[0].timeout_s: found 0, expected a number above 0");
    file_refused("reward: [exact]\n",
                 "in.yaml:1: reward[0]: found exact, expected a list of rewards like [{name: exact}]");
    file_refused("reward: exact\n", "in.yaml:1: reward: found exact, expected a list of rewards like [{name: exact}]");
}

static void a_map_of_weights_names_copies_of_the_model(void **state)
{
    (void)state;
    file_refused("objective: {reference: {ref: 1, ref: 2}}\n", "in.yaml:1: objective.reference: ref is given twice");
    file_refused(
        "objective: {reference: {old: many}}\n",
        "in.yaml:1: objective.reference: found many, expected a map of numbers like {ref: 1.0}, of ref, old, twin "
        "or target");
    file_refused("objective: {reference: [1]}\n", "in.yaml:1: objective.reference: found a list, expected a map of "
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
    line_refused_by(
        STM_COMMAND_BENCH, "bench.prompt=[16, 20.5]",
        "command line: bench.prompt: found 20.5, expected a whole number from 1 to 999999, or a list of them");
    line_refused_by(
        STM_COMMAND_BENCH, "bench.group_size=[2, 0]",
        "command line: bench.group_size: found 0, expected a whole number from 1 to 65536, or a list of them");
    line_refused_by(
        STM_COMMAND_BENCH, "bench.forwards=[tre]",
        "command line: bench.forwards: found tre, expected tree, prompt, repeated or decode; did you mean tree?");
}

/* Names */

static void unknown_keys_are_refused_with_the_nearest_name(void **state)
{
    (void)state;
    file_refused("run: {folder: a}\nrollout:\n  temprature: 1\n",
                 "in.yaml:3: rollout.temprature: unknown key; did you mean rollout.temperature?");
    file_refused("update: {warmup_steps: 5}\n", /* a key of another section */
                 "in.yaml:1: update.warmup_steps: unknown key; did you mean optim.warmup_steps?");
    file_refused("optim: {zzzzzzzzzz: 1}\n", "in.yaml:1: optim.zzzzzzzzzz: unknown key");
    file_refused("\nobjectiv: {name: grpo}\n", "in.yaml:2: objectiv: unknown section; did you mean objective?");
    file_refused("zzzzzzzz: {name: grpo}\n", "in.yaml:1: zzzzzzzz: unknown section");
    file_refused("precison: float64\n", "in.yaml:1: precison: unknown key; did you mean precision?");
    file_refused("run: {folder: a, 3: b}\n", "in.yaml:1: run.3: unknown key");
    file_refused("run: {[a]: b}\n", "in.yaml:1: run: found a key that is no text, expected a name");
    file_refused("out: a.h5\n", "in.yaml:1: out: not an option of `stemma train`");
    file_refused("special: true\n", "in.yaml:1: special: not an option of `stemma train`"); /* and near to no other */
    file_refused("maxh: 3\n", "in.yaml:1: maxh: only for the command line, as --maxh");
    line_refused("optim.l=1", "command line: optim.l: unknown key; did you mean optim.lr?");
    line_refused("--chek", "command line: --chek: unknown option; did you mean --check?");
    line_refused("--out=a", "command line: --out: not an option of `stemma train`");
    line_refused("-x", "command line: -x: unknown option");
    line_refused("--run.stepz=1", "command line: --run.stepz: unknown option; did you mean run.steps?");
    line_refused_by(STM_COMMAND_SCORE, "objective.clip_low=0.1",
                    "command line: objective.clip_low: not an option of `stemma score`");
}

static void sections_must_be_maps(void **state)
{
    (void)state;
    stm_options o;
    stm_test_given(&o, "run:\nmodel: {}\n# nothing else\n"); /* a section whose keys are all commented out */
    stm_options_clear(&o);
    stm_test_given(&o, "");
    stm_options_clear(&o);
    stm_test_given(&o, "# nothing\n");
    stm_options_clear(&o);
    file_refused("run: 5\n", "in.yaml:1: run: found a value, expected keys with values");
    file_refused("run: [folder]\n", "in.yaml:1: run: found a list, expected keys with values");
    file_refused("- run\n", "in.yaml:1: found a list, expected sections like run: { folder: runs/first }");
    file_refused("hello\n", "in.yaml:1: found a text, expected sections like run: { folder: runs/first }");
}

static void keys_given_twice_are_refused(void **state)
{
    (void)state;
    file_refused("run:\n  steps: 1\n  seed: 2\n  steps: 3\n", "in.yaml:4: run.steps: given twice");
    file_refused("run: {steps: 1}\nmodel: {path: a}\nrun: {seed: 2}\n", "in.yaml:3: run: given twice, first in line 1");
    file_refused("precision: float32\nprecision: float64\n", "in.yaml:2: precision: given twice, first in line 1");
}

static void malformed_yaml_is_refused_with_its_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *start;
    } cases[] = {
        {"run:\n  folder: a\n   steps: 3\n", "in.yaml:3: found what is not YAML: "},
        {"run: {folder: a\nmodel: {path: b}\n", "in.yaml:2: found what is not YAML: "},
        {"run:\n\tfolder: a\n", "in.yaml:2: found what is not YAML: "},
        {"run: {folder: \"a}\n", "in.yaml:2: found what is not YAML: "},
        {"run:\n  folder: *nobody\n", "in.yaml:2: found what is not YAML: "},
        {"run: {folder: a}\n---\nrun: {seed: 1}\n", "in.yaml:3: found a second YAML document, expected one"},
        {"run: {folder: \xff}\n", "in.yaml: byte 14: found what is not YAML: "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        stm_options o;
        assert_ok(stm_options_init(&o));
        assert_int_equal(stm_test_read_options(&o, cases[i].text), STM_ERR_INPUT);
        if (strncmp(stm_failure(), cases[i].start, strlen(cases[i].start)) != 0)
            fail_msg("case %zu: %s", i, stm_failure());
        stm_options_clear(&o);
    }
}

static void a_missing_file_is_named(void **state)
{
    (void)state;
    stm_options o;
    assert_ok(stm_options_init(&o));
    assert_fails(stm_options_read_file(&o, STM_COMMAND_TRAIN, "/no/such/input.yaml"), STM_ERR_INPUT,
                 "/no/such/input.yaml: ");
    stm_options_clear(&o);
}

/* The command line */

static void the_command_line_wins_over_the_file_in_either_order(void **state)
{
    (void)state;
    for (int file_first = 0; file_first < 2; file_first++) {
        stm_options o;
        char *argv[] = {(char *)"in.yaml", (char *)"run.steps=9", (char *)"rollout.stop=[x]", (char *)"run.steps=10"};
        const char *text = "run: {steps: 3, seed: 4}\nrollout: {stop: [a, b]}\n";
        assert_ok(stm_options_init(&o));
        if (file_first)
            assert_ok(stm_test_read_options(&o, text));
        assert_ok(stm_options_read_arguments(&o, STM_COMMAND_TRAIN, 4, argv));
        if (!file_first)
            assert_ok(stm_test_read_options(&o, text));
        assert_int_equal(o.run.steps, 10); /* the last one */
        assert_int_equal(o.run.seed, 4);
        assert_int_equal(o.rollout.stop.n, 1);
        assert_string_equal(o.rollout.stop.items[0], "x");
        assert_true(stm_options_given(&o, "run.steps") && stm_options_given(&o, "run.seed"));
        assert_false(stm_options_given(&o, "rollout.top_p") || stm_options_given(&o, "no.such"));
        stm_options_clear(&o);
    }
}

static void a_value_that_is_overridden_is_checked_all_the_same(void **state)
{
    (void)state;
    stm_options o;
    assert_ok(stm_options_init(&o));
    stm_test_argument(&o, STM_COMMAND_TRAIN, "run.steps=9");
    assert_int_equal(stm_test_read_options(&o, "run: {steps: many}\n"), STM_ERR_INPUT);
    assert_string_equal(stm_failure(), "in.yaml:1: run.steps: found many, expected a whole number of at least 0");
    stm_options_clear(&o);
}

static void options_are_spelled_in_three_ways_and_the_rest_are_arguments(void **state)
{
    (void)state;
    stm_options o;
    char *argv[] = {(char *)"--out",   (char *)"a.h5", (char *)"MODEL", (char *)"--forward=prompt", (char *)"--check",
                    (char *)"dir/a=b", (char *)"--",   (char *)"--out", (char *)"precision=float64"};
    assert_ok(stm_options_init(&o));
    assert_ok(stm_options_read_arguments(&o, STM_COMMAND_SCORE, 9, argv));
    assert_string_equal(o.out, "a.h5");
    assert_int_equal(o.forward, STM_FORWARD_PROMPT);
    assert_true(o.check);
    assert_int_equal(o.arguments.n, 4);
    assert_string_equal(o.arguments.items[0], "MODEL");
    assert_string_equal(o.arguments.items[1], "dir/a=b");
    assert_string_equal(o.arguments.items[2], "--out");
    assert_string_equal(o.arguments.items[3], "precision=float64");
    assert_int_equal(o.precision, STM_FLOAT32);
    stm_options_clear(&o);

    stm_test_given(&o, "");
    stm_test_argument(&o, STM_COMMAND_TRAIN, "--check=false");
    stm_test_argument(&o, STM_COMMAND_TRAIN, "--run.steps=5"); /* with dashes, too */
    stm_test_argument(&o, STM_COMMAND_TRAIN, "precision=float64");
    stm_test_argument(&o, STM_COMMAND_TRAIN, "-");
    assert_true(!o.check && o.run.steps == 5 && o.precision == STM_FLOAT64 && o.arguments.n == 1);
    stm_options_clear(&o);
    line_refused_by(STM_COMMAND_SCORE, "--out", "command line: --out: the value is missing; expected --out VALUE");
    char *swallowed[] = {(char *)"--out", (char *)"--check"};
    assert_ok(stm_options_init(&o));
    assert_fails(stm_options_read_arguments(&o, STM_COMMAND_SCORE, 2, swallowed), STM_ERR_INPUT,
                 "command line: --out: the value is missing; expected --out VALUE");
    stm_options_clear(&o);
    line_refused_by(STM_COMMAND_SCORE, "--temperature=-1",
                    "command line: --temperature: found -1, expected a number of at least 0");
}

/* Checks over several values */

static void what_is_missing_is_named(void **state)
{
    (void)state;
    check_refused(
        STM_COMMAND_TRAIN, "model: {path: m}\ndata: {prompts: p}\nreward: [{name: exact}]\n",
        "input: run.folder is missing; expected a value: folder of the run: log, metrics, rollouts, checkpoints");
    check_refused(
        STM_COMMAND_TRAIN, "run: {folder: f}\ndata: {prompts: p}\nreward: [{name: exact}]\n",
        "input: model.path is missing; expected a value: Hugging Face folder, or a checkpoint, to start from");
    check_refused(STM_COMMAND_TRAIN, "run: {folder: f}\nmodel: {path: m}\ndata: {prompts: p}\n",
                  "reward: found an empty list, expected at least one reward like [{name: exact}]");
    check_refused(STM_COMMAND_SCORE, "", "command line: --out is missing; expected a file to write");
    stm_options o;
    stm_test_given(&o, "run: {folder: f}\nmodel: {path: m}\ndata: {prompts: p}\nobjective: {name: sft}\n");
    assert_ok(stm_options_check(&o, STM_COMMAND_TRAIN)); /* sft needs no reward */
    stm_options_clear(&o);
}

static void values_that_contradict_each_other_are_refused(void **state)
{
    (void)state;
    check_refused(STM_COMMAND_TRAIN, NEEDED "rollout: {min_new_tokens: 9, max_new_tokens: 8}\n",
                  "rollout.min_new_tokens: found 9, expected at most rollout.max_new_tokens, 8");
    check_refused(STM_COMMAND_TRAIN,
                  "run: {folder: f}\nmodel: {path: m}\ndata: {prompts: p}\n"
                  "reward: [{name: exact}, {name: length, min_tokens: 3, max_tokens: 2}]\n",
                  "reward[1].min_tokens: found 3, expected at most max_tokens, 2");
    check_refused(STM_COMMAND_TRAIN, NEEDED "eval: {stop_after: 2}\n",
                  "eval.prompts is missing; expected a file, since eval.stop_after or eval.stop_at_reward needs it");
    stm_options o;
    assert_ok(stm_options_init(&o));
    char *argv[] = {(char *)"--out=a", (char *)"objective.aggregate=fixed-length"};
    assert_ok(stm_options_read_arguments(&o, STM_COMMAND_GRAD, 2, argv));
    assert_int_equal(stm_options_check(&o, STM_COMMAND_GRAD), STM_ERR_INPUT);
    assert_string_equal(stm_failure(),
                        "objective.max_tokens: found 0, expected at least 1 with objective.aggregate=fixed-length");
    stm_test_argument(&o, STM_COMMAND_GRAD, "objective.max_tokens=16");
    assert_ok(stm_options_check(&o, STM_COMMAND_GRAD));
    stm_options_clear(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_input_file_is_read_as_it_stands),
        cmocka_unit_test(the_sample_holds_the_defaults_but_for_paths_and_steps),
        cmocka_unit_test(every_key_that_documents_name_exists),
        cmocka_unit_test(booleans),
        cmocka_unit_test(integers),
        cmocka_unit_test(numbers),
        cmocka_unit_test(sizes),
        cmocka_unit_test(texts),
        cmocka_unit_test(words),
        cmocka_unit_test(lists_of_texts),
        cmocka_unit_test(the_list_of_rewards),
        cmocka_unit_test(a_map_of_weights_names_copies_of_the_model),
        cmocka_unit_test(every_range_ends_where_the_table_says),
        cmocka_unit_test(lists_of_numbers_take_one_number_for_a_list),
        cmocka_unit_test(unknown_keys_are_refused_with_the_nearest_name),
        cmocka_unit_test(sections_must_be_maps),
        cmocka_unit_test(keys_given_twice_are_refused),
        cmocka_unit_test(malformed_yaml_is_refused_with_its_line),
        cmocka_unit_test(a_missing_file_is_named),
        cmocka_unit_test(the_command_line_wins_over_the_file_in_either_order),
        cmocka_unit_test(a_value_that_is_overridden_is_checked_all_the_same),
        cmocka_unit_test(options_are_spelled_in_three_ways_and_the_rest_are_arguments),
        cmocka_unit_test(what_is_missing_is_named),
        cmocka_unit_test(values_that_contradict_each_other_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
