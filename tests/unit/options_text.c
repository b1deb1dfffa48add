/* Options as text: printed, compared, explained. */
#include "config/table.h"
#include "objective/objective.h"
#include "reward/reward.h"
#include "support/options.h"

/* Printing */

/* No value of it is a default. */
static const char another[] =
    "forward: prompt\nprecision: float64\nbackend: cpu\n"
    "run: {folder: \"a\\tb \\\"q\\\" \\\\ \\u00e9\\u2028 #\", seed: 9007199254740993, steps: 7}\n"
    "model: {path: \"yes\", init: random}\n"
    "data: {prompts: \"12\", groups: g.jsonl, template: \"~\", shuffle: false, max_prompt_tokens: 9, overlong: skip,\n"
    "  filter_samples: 16, thought_dropout: 0.5, thought_begin: \"<a>\", thought_end: \"</a>\"}\n"
    "rollout: {prompts_per_step: 3, group_size: 5, temperature: 0.1, top_p: 0.3, top_k: 4, min_p: 0.7,\n"
    "  max_new_tokens: 65, min_new_tokens: 2, slots: 6, rounds_ahead: 3, ignore_eos: true, save: none, dynamic: true,\n"
    "  refine: true, refine_right: 0.5, refine_text: \"{answer}!\", refine_praise: \"1\", refine_blame: \"0\",\n"
    "  dynamic_rounds: 7, budgets: [3, 9], summaries: 2, closing: \"x\",\n"
    "  answer: exact, answer_extract: \"(a|b)\",\n"
    "  environment: \"sh -c 'cat'\", max_turns: 3, max_environment_tokens: 7, environment_timeout: 0.5,\n"
    "  stop: [\"\\n\\n\", \"a, b\", \"- c\", \"null\", \"\\x01\\x85\", \"\\U0001F600: \\uFEFF\", \"'\"]}\n"
    "replay: {size: 8, min_reward: 0.2, max_std: 0.1, max_mean: 0.3}\n"
    "reward:\n"
    "  - {name: exact, weight: 0.1, extract: \"(\\\\d+) \", ignore_case: true}\n"
    "  - {name: command, command: \"sh -c 'cat; echo \\\"1\\\"'\", timeout_s: 0.3}\n"
    "  - {name: contains, text: \"no\"}\n"
    "  - {name: length, min_tokens: 1, max_tokens: 2}\n"
    "  - {name: regex, pattern: \"^a{2}$\"}\n"
    "objective: {name: sft, clip_low: 0.30000000000000004, clip_high: 1e-300, kl_coef: 1e22, kl_estimator: k2,\n"
    "  advantage_baseline: none, whiten_eps: 1e-3, reward_combine: normalize-then-sum, reward_weights: [1, 0.5],\n"
    "  seed_alpha: 0.5, seed_scale: reciprocal, token_weight_alpha: 1.7, budget_probs: [0, 1], ratio_level: sequence, "
    "surrogate: cispo,\n"
    "  dual_clip: 3, off_policy_gamma: 0.2, proximal_coef: 0.7, is_correction: mask, is_level: sequence,\n"
    "  is_min: 0.5, is_max: 1.5, kl_coef_start: 0.5, kl_coef_steps: 9, kl_in: reward-to-go, kl_unbiased: true,\n"
    "  control_tokens: 2, control_coef: 0.001, score: lratio, tau: 10, beta: 0.3, positive_threshold: 0,\n"
    "  penalty_coef: 2, kl_bound: 0.01, advantage_eps: 0, advantage_scale: none, aggregate: fixed-length, max_tokens: "
    "8, mask_truncated: true,\n"
    "  skip_equal_groups: true, min_advantage: 0.01, mask_after: \"<think>\", pairing: halves, pair_margin: 0.5, "
    "max_pairs: 3, pair_filter: "
    "0.1, label: bt,\n"
    "  oracle: reward, label_scale: 2, pair_aggregate: prompt-mean, loss: ipo, reference: {old: 0.3, ref: -0.7},\n"
    "  length: mean, target_margin: 1, label_smoothing: 0.1, sft_coef: 1, sft_form: mean, chase_coef: 0.5, "
    "chase_interval: 3, chase_lr_ratio: 0.25,\n"
    "  chase_role: slow, explore_coef: 1e-5, kl_form: sequence-loo, desirable_weight: 2, undesirable_weight: 3,\n"
    "  desirable_threshold: 0.5, kl_point: 0.1, kl_point_from: mismatched, opponent: other, prox_eta: 0.5, prox_every: "
    "5, variant: "
    "joint, clip: 0.1,\n"
    "  divergence: kl, target: constraint, target_beta: 2, target_threshold: 0.6, normaliser: given, log_z: -1,\n"
    "  baseline: 0.5, baseline_window: 7}\n"
    "reference: {paths: [a, b], weights: [3, 1], samples: 2, mixture: 0.25}\n"
    "optim: {lr: 3e-4, betas: [0, 0.999], eps: 1e-6, weight_decay: 0.01, clip: 0, schedule: linear, warmup_steps: 0,\n"
    "  min_lr_ratio: 0.25}\n"
    "update: {epochs: 2, minibatch_groups: 4}\n"
    "parallel: {pipeline: 1, suffix: 2, replica: 3, prefixes_in_flight: 4, context: on, shared_kv: off, "
    "  shard: gradient, prefix: send, transport: nccl, machine: none}\n"
    "memory: {limit: 1536MiB, recompute: always, max_segment_tokens: 100, chunk_tokens: 64}\n"
    "tree: {min_shared_tokens: 1, across_groups: false}\n"
    "checkpoint: {every: 0, keep: 1, async: true}\n"
    "fault: {timeout: 5, io_timeout: 60, max_skips: 7}\n"
    "eval: {every: 1, prompts: e, samples: 2, temperature: 0, stop_after: 3, stop_at_reward: -0.5}\n";

static void what_is_printed_reads_back_the_same(void **state)
{
    (void)state;
    static const char *const texts_[] = {"", stm_test_input, another};
    for (size_t i = 0; i < 3; i++) {
        stm_options o, back;
        char *first, *second, *difference;
        stm_test_given(&o, texts_[i]);
        assert_ok(stm_options_print(&o, STM_COMMAND_TRAIN, &first));
        stm_test_given(&back, first);
        assert_ok(stm_options_print(&back, STM_COMMAND_TRAIN, &second));
        assert_string_equal(first, second);
        assert_ok(stm_options_difference(&o, &back, &difference));
        assert_string_equal(difference, "");
        assert_string_equal(o.run.folder, back.run.folder); /* paths may differ for stm_options_difference */
        assert_string_equal(o.model.path, back.model.path);
        assert_true(o.objective.clip_low == back.objective.clip_low); /* to the last of 17 digits */
        assert_true(o.eval.stop_at_reward == back.eval.stop_at_reward);
        free(difference);
        free(second);
        free(first);
        stm_options_clear(&back);
        stm_options_clear(&o);
    }
}

static void every_key_is_printed_and_the_other_file_changes_each(void **state)
{
    (void)state;
    stm_options defaults, o;
    char *yaml;
    stm_test_given(&defaults, "");
    stm_test_given(&o, another);
    assert_ok(stm_options_print(&o, STM_COMMAND_TRAIN, &yaml));
    for (size_t i = 0; i < stm_n_option_rows; i++) {
        const stm_option_row *row = &stm_option_rows[i];
        if (!(row->commands & STM_COMMAND_TRAIN) || (row->traits & STM_OPTION_LINE_ONLY))
            continue;
        char line[128];
        const char *dot = strchr(row->name, '.');
        snprintf(line, sizeof line, "%s%s: ", dot ? "  " : "", dot ? dot + 1 : row->name);
        if (!strstr(yaml, line))
            fail_msg("%s is not printed", row->name);
        assert_true(stm_options_given(&o, row->name));
        char *before, *after;
        size_t n;
        FILE *to = open_memstream(&before, &n);
        stm_option_write(row, &defaults, to);
        fclose(to);
        to = open_memstream(&after, &n);
        stm_option_write(row, &o, to);
        fclose(to);
        if (strcmp(before, after) == 0)
            fail_msg("%s is %s in both", row->name, after);
        free(before);
        free(after);
    }
    free(yaml);
    stm_options_clear(&defaults);
    stm_options_clear(&o);
}

static void differences_name_key_and_both_values_but_not_what_may_change(void **state)
{
    (void)state;
    stm_options saved, now;
    char *names;
    stm_test_given(&saved, NEEDED);
    stm_test_given(
        &now, "run: {folder: g, steps: 999}\nmodel: {path: n}\ndata: {prompts: q}\n"
              "reward: [{name: exact}]\ncheckpoint: {every: 1, keep: 9}\neval: {every: 1, samples: 4, prompts: e}\n");
    assert_ok(stm_options_difference(&saved, &now, &names));
    assert_string_equal(names, "");
    free(names);
    assert_ok(
        stm_test_read_options(&now, "optim: {lr: 2e-5, betas: [0.9, 0.99]}\nrollout: {group_size: 4, stop: [a]}\n"));
    stm_test_argument(&now, STM_COMMAND_TRAIN, "rollout.group_size=6"); /* the command line may change anything */
    assert_ok(stm_options_difference(&saved, &now, &names));
    assert_string_equal(names, "rollout.stop (saved [], now [a]), optim.lr (saved 1.0e-05, now 2.0e-05), "
                               "optim.betas (saved [0.9, 0.95], now [0.9, 0.99])");
    free(names);
    stm_options_clear(&saved);
    stm_options_clear(&now);
}

/* Help */

static void help_names_every_option_within_100_columns(void **state)
{
    (void)state;
    for (unsigned bit = 0; bit <= STM_COMMAND_OPTIONS; bit = bit ? bit << 1 : 1) {
        char *text;
        assert_ok(stm_options_help((stm_command_bit)bit, stm_objective_readers, &text));
        assert_non_null(strstr(text, "\nflags: "));
        for (size_t i = 0; i < stm_n_option_rows; i++) {
            char name[128];
            const stm_option_row *row = &stm_option_rows[i];
            snprintf(name, sizeof name, "\n  %s%s ", row->traits & STM_OPTION_FLAG ? "--" : "", row->name);
            const bool takes = bit == 0 || (row->commands & bit);
            if ((strstr(text, name) != NULL) != takes)
                fail_msg("%s is %s the help of \"%s\"", row->name, takes ? "not in" : "in",
                         stm_command_name((stm_command_bit)bit));
        }
        for (const char *line = text; *line;) {
            const size_t n = strcspn(line, "\n");
            if (n > 100)
                fail_msg("%zu columns: %.*s", n, (int)n, line);
            assert_true(n == 0 || line[n - 1] != ' ');
            line += n + (line[n] == '\n');
        }
        free(text);
    }
}

static void help_names_every_objective_and_every_reward(void **state)
{
    (void)state;
    const char *const *names;
    const char *objective = stm_option_find(stm_option_rows, stm_n_option_rows, "objective.name")->help;
    const char *reward = stm_option_find(stm_reward_rows, stm_n_reward_rows, "name")->help;
    size_t n = stm_objective_names(&names);
    for (size_t i = 0; i < n; i++)
        assert_non_null(strstr(objective, names[i]));
    n = stm_reward_names(&names);
    for (size_t i = 0; i < n; i++)
        assert_non_null(strstr(reward, names[i]));
}

static void the_table_in_markdown_has_a_row_of_five_cells_for_each_option(void **state)
{
    (void)state;
    char *text;
    size_t n = 0;
    assert_ok(stm_options_markdown(stm_objective_readers, &text));
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), n++) {
        size_t bars = 0;
        for (const char *c = line; *c; c++)
            bars += *c == '|';
        if (bars != 6)
            fail_msg("%zu bars: %s", bars, line);
    }
    assert_int_equal(n, 2 + stm_n_option_rows + stm_n_reward_rows);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_printed_reads_back_the_same),
        cmocka_unit_test(every_key_is_printed_and_the_other_file_changes_each),
        cmocka_unit_test(differences_name_key_and_both_values_but_not_what_may_change),
        cmocka_unit_test(help_names_every_option_within_100_columns),
        cmocka_unit_test(help_names_every_objective_and_every_reward),
        cmocka_unit_test(the_table_in_markdown_has_a_row_of_five_cells_for_each_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
