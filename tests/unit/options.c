/* Options are read, checked and refused. */
#include "support/options.h"
#include "config/table.h"

static void check_refused(stm_command_bit command, const char *text, const char *message)
{
    stm_options o;
    assert_ok(stm_options_init(&o));
    assert_ok(stm_options_read_text(&o, STM_COMMAND_TRAIN, "in.yaml", text, strlen(text)));
    assert_int_equal(stm_options_check(&o, command), STM_ERR_INPUT);
    assert_string_equal(stm_failure(), message);
    stm_options_clear(&o);
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

/* Names */

static void unknown_keys_are_refused_with_the_nearest_name(void **state)
{
    (void)state;
    stm_test_file_refused("run: {folder: a}\nrollout:\n  temprature: 1\n",
                          "in.yaml:3: rollout.temprature: unknown key; did you mean rollout.temperature?");
    stm_test_file_refused("update: {warmup_steps: 5}\n", /* a key of another section */
                          "in.yaml:1: update.warmup_steps: unknown key; did you mean optim.warmup_steps?");
    stm_test_file_refused("optim: {zzzzzzzzzz: 1}\n", "in.yaml:1: optim.zzzzzzzzzz: unknown key");
    stm_test_file_refused("\nobjectiv: {name: grpo}\n",
                          "in.yaml:2: objectiv: unknown section; did you mean objective?");
    stm_test_file_refused("zzzzzzzz: {name: grpo}\n", "in.yaml:1: zzzzzzzz: unknown section");
    stm_test_file_refused("precison: float64\n", "in.yaml:1: precison: unknown key; did you mean precision?");
    stm_test_file_refused("run: {folder: a, 3: b}\n", "in.yaml:1: run.3: unknown key");
    stm_test_file_refused("run: {[a]: b}\n", "in.yaml:1: run: found a key that is no text, expected a name");
    stm_test_file_refused("out: a.h5\n", "in.yaml:1: out: not an option of `stemma train`");
    stm_test_file_refused("special: true\n",
                          "in.yaml:1: special: not an option of `stemma train`"); /* and near to no other */
    stm_test_file_refused("maxh: 3\n", "in.yaml:1: maxh: only for the command line, as --maxh");
    stm_test_line_refused("optim.l=1", "command line: optim.l: unknown key; did you mean optim.lr?");
    stm_test_line_refused("--chek", "command line: --chek: unknown option; did you mean --check?");
    stm_test_line_refused("--out=a", "command line: --out: not an option of `stemma train`");
    stm_test_line_refused("-x", "command line: -x: unknown option");
    stm_test_line_refused("--run.stepz=1", "command line: --run.stepz: unknown option; did you mean run.steps?");
    stm_test_line_refused_by(STM_COMMAND_SCORE, "objective.clip_low=0.1",
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
    stm_test_file_refused("run: 5\n", "in.yaml:1: run: found a value, expected keys with values");
    stm_test_file_refused("run: [folder]\n", "in.yaml:1: run: found a list, expected keys with values");
    stm_test_file_refused("- run\n", "in.yaml:1: found a list, expected sections like run: { folder: runs/first }");
    stm_test_file_refused("hello\n", "in.yaml:1: found a text, expected sections like run: { folder: runs/first }");
}

static void keys_given_twice_are_refused(void **state)
{
    (void)state;
    stm_test_file_refused("run:\n  steps: 1\n  seed: 2\n  steps: 3\n", "in.yaml:4: run.steps: given twice");
    stm_test_file_refused("run: {steps: 1}\nmodel: {path: a}\nrun: {seed: 2}\n",
                          "in.yaml:3: run: given twice, first in line 1");
    stm_test_file_refused("precision: float32\nprecision: float64\n",
                          "in.yaml:2: precision: given twice, first in line 1");
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
    assert_fails(stm_options_read_file(&o, STM_COMMAND_TRAIN, "/no/such/input.yaml", stm_read_file), STM_ERR_INPUT,
                 "/no/such/input.yaml: ");
    stm_options_clear(&o);
}

/* Files that include others */

/* Stands for a folder of files. */
static stm_status read_library(const char *path, char **text, size_t *n)
{
    static const char *const files[][2] = {
        {"in/child.yaml",
         "objective: {clip_low: 0.1}\ninclude: parts/base.yaml\nrun: {steps: 7}\nreward: [{name: exact}]\n"},
        {"in/parts/base.yaml", "include: ../grand.yaml\nrun: {steps: 5, seed: 3}\nobjective: {clip_high: 0.4}\n"},
        {"in/parts/../grand.yaml", "run: {steps: 1, folder: f}\nreward: [{name: length}, {name: exact, weight: 2}]\n"},
        {"in/wrong.yaml", "run: {steps: 7}\ninclude: parts/typo.yaml\n"},
        {"in/parts/typo.yaml", "run:\n  stepps: 5\n"},
        {"circle.yaml", "include: circle.yaml\n"},
        {"list.yaml", "include: [a, b]\n"},
        {"empty.yaml", "include:\n"},
        {"twice.yaml", "include: in/parts/../grand.yaml\ninclude: in/parts/../grand.yaml\n"},
        {"lost.yaml", "\ninclude: /no/such/base.yaml\n"},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (strcmp(files[i][0], path) == 0) {
            *n = strlen(files[i][1]);
            return (*text = strdup(files[i][1])) ? STM_OK : stm_fail(STM_ERR_MEMORY, "out of memory");
        }
    return stm_fail(STM_ERR_INPUT, "%s: not there", path);
}

static void a_file_replaces_what_the_included_one_says(void **state)
{
    (void)state;
    stm_options o;
    assert_ok(stm_options_init(&o));
    stm_test_argument(&o, STM_COMMAND_TRAIN, "run.seed=9");
    assert_ok(stm_options_read_file(&o, STM_COMMAND_TRAIN, "in/child.yaml", read_library));
    assert_int_equal(o.run.steps, 7);
    assert_int_equal(o.run.seed, 9); /* the command line's */
    assert_string_equal(o.run.folder, "f");
    assert_true(o.objective.clip_low == 0.1 && o.objective.clip_high == 0.4);
    assert_int_equal(o.reward.n, 1); /* a list is one value */
    assert_string_equal(o.reward.items[0].name, "exact");
    assert_true(o.reward.items[0].weight == 1.0);
    assert_true(stm_options_given(&o, "run.folder") && !stm_options_given(&o, "optim.lr"));
    stm_options_clear(&o);
}

static void what_is_wrong_with_an_included_file_is_said_where_it_is(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"in/wrong.yaml", "in/parts/typo.yaml:2: run.stepps: unknown key; did you mean run.steps?"},
        {"circle.yaml", "circle.yaml:1: include: found a chain of more than 8 files"},
        {"list.yaml", "list.yaml:1: include: found a list or a map, expected the path of an input file"},
        {"empty.yaml", "empty.yaml:1: include: found nothing, expected the path of an input file"},
        {"twice.yaml", "twice.yaml:2: include: given twice, first in line 1"},
        {"lost.yaml", "lost.yaml:2: include: /no/such/base.yaml: not there"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        stm_options o;
        assert_ok(stm_options_init(&o));
        assert_int_equal(stm_options_read_file(&o, STM_COMMAND_TRAIN, cases[i][0], read_library), STM_ERR_INPUT);
        assert_string_equal(stm_failure(), cases[i][1]);
        stm_options_clear(&o);
    }
    stm_test_file_refused("include: base.yaml\n", "in.yaml:1: include: found one in a text that is no file");
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
    stm_test_line_refused_by(STM_COMMAND_SCORE, "--out",
                             "command line: --out: the value is missing; expected --out VALUE");
    char *swallowed[] = {(char *)"--out", (char *)"--check"};
    assert_ok(stm_options_init(&o));
    assert_fails(stm_options_read_arguments(&o, STM_COMMAND_SCORE, 2, swallowed), STM_ERR_INPUT,
                 "command line: --out: the value is missing; expected --out VALUE");
    stm_options_clear(&o);
    stm_test_line_refused_by(STM_COMMAND_SCORE, "--temperature=-1",
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

static void what_would_do_nothing_is_refused(void **state)
{
    (void)state;
#define RUN "run: {folder: f}\nmodel: {path: m}\nreward: [{name: exact}]\n"
#define ROLLOUTS RUN "data: {prompts: p}\n"
    static const char *const cases[][2] = {
        {RUN "data: {groups: g, filter_samples: 2}\n",
         "data.filter_samples: found a number above 0, expected 0 with data.groups"},
        {RUN "data: {prompts: p, thought_dropout: 0.5}\n",
         "data.thought_dropout: found a number above 0, expected 0 with an objective that samples (sft alone has "
         "demonstrations)"},
        {ROLLOUTS "objective: {name: sft, mask_truncated: true}\n",
         "objective.mask_truncated: found true, expected false with objective.name=sft"},
        {ROLLOUTS "objective: {name: sft, mask_after: x}\n",
         "objective.mask_after: found a text, expected none with objective.name=sft"},
        {ROLLOUTS "objective: {name: sft}\nrollout: {dynamic: true}\n",
         "rollout.dynamic: found true, expected false with objective.name=sft"},
        {ROLLOUTS "objective: {name: sft}\nreplay: {size: 2}\n",
         "replay.size: found a number above 0, expected 0 with objective.name=sft"},
        {ROLLOUTS "rollout: {dynamic: true, group_size: 1}\n",
         "rollout.group_size: found 1, expected at least 2 with rollout.dynamic: one reward is equal to itself"},
        {ROLLOUTS "eval: {every: 0, prompts: e, stop_after: 2}\n",
         "eval.every: found 0, expected at least 1, since eval.stop_after or eval.stop_at_reward needs evaluations"},
        {ROLLOUTS "eval: {every: 0, prompts: e, stop_at_reward: -0.5}\n",
         "eval.every: found 0, expected at least 1, since eval.stop_after or eval.stop_at_reward needs evaluations"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_refused(STM_COMMAND_TRAIN, cases[i][0], cases[i][1]);
    static const char *const accepted[] = {
        ROLLOUTS "rollout: {group_size: 1}\n",
        ROLLOUTS "rollout: {dynamic: true, group_size: 1, max_new_tokens: 16, budgets: [4, 8]}\n"
                 "objective: {advantage_baseline: brpo}\n",
    };
    for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++) {
        stm_options o;
        stm_test_given(&o, accepted[i]);
        assert_ok(stm_options_check(&o, STM_COMMAND_TRAIN));
        stm_options_clear(&o);
    }
    /* Each beside each source of responses. */
    enum { SAMPLED = 1, DEMONSTRATED = 2, RECORDED = 4 };
    static const struct {
        const char *text;
        int source;
    } inputs[] = {{ROLLOUTS, SAMPLED},
                  {ROLLOUTS "objective: {name: sft}\n", DEMONSTRATED},
                  {RUN "data: {groups: g}\n", RECORDED}};
    static const struct {
        const char *argument;
        int sources; /* that read it */
    } options[] = {
        {"data.filter_samples=2", SAMPLED},
        {"data.thought_dropout=0.5", DEMONSTRATED},
        {"objective.mask_after=x", SAMPLED | RECORDED},
        {"objective.mask_truncated=true", SAMPLED | RECORDED},
        {"rollout.dynamic=true", SAMPLED},
        {"rollout.refine=true", SAMPLED},
        {"replay.size=2", SAMPLED},
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        for (size_t k = 0; k < sizeof inputs / sizeof *inputs; k++) {
            const size_t n = strcspn(options[i].argument, "=");
            stm_options o;
            stm_test_given(&o, inputs[k].text);
            stm_test_argument(&o, STM_COMMAND_TRAIN, options[i].argument);
            const stm_status status = stm_options_check(&o, STM_COMMAND_TRAIN);
            if (options[i].sources & inputs[k].source) {
                assert_ok(status);
            } else {
                assert_int_equal(status, STM_ERR_INPUT);
                assert_memory_equal(stm_failure(), options[i].argument, n);
                assert_memory_equal(stm_failure() + n, ": found ", 8);
            }
            stm_options_clear(&o);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_input_file_is_read_as_it_stands),
        cmocka_unit_test(the_sample_holds_the_defaults_but_for_paths_and_steps),
        cmocka_unit_test(every_key_that_documents_name_exists),
        cmocka_unit_test(unknown_keys_are_refused_with_the_nearest_name),
        cmocka_unit_test(sections_must_be_maps),
        cmocka_unit_test(keys_given_twice_are_refused),
        cmocka_unit_test(malformed_yaml_is_refused_with_its_line),
        cmocka_unit_test(a_missing_file_is_named),
        cmocka_unit_test(a_file_replaces_what_the_included_one_says),
        cmocka_unit_test(what_is_wrong_with_an_included_file_is_said_where_it_is),
        cmocka_unit_test(the_command_line_wins_over_the_file_in_either_order),
        cmocka_unit_test(a_value_that_is_overridden_is_checked_all_the_same),
        cmocka_unit_test(options_are_spelled_in_three_ways_and_the_rest_are_arguments),
        cmocka_unit_test(what_is_missing_is_named),
        cmocka_unit_test(values_that_contradict_each_other_are_refused),
        cmocka_unit_test(what_would_do_nothing_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
