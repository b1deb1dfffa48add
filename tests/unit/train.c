/* What the trainer decides without ranks or a model: pass@k, progress, early stop, batches, the numbers of a step. */
#include "support/folder.h"
#include "support/support.h"
#include "train/batch.h"
#include "train/evaluate.h"
#include "train/optimizer.h"
#include "train/progress.h"
#include "train/report.h"
#include "train/resume.h"

/* Pass@k */

static double choose(size_t n, size_t k)
{
    double product = 1;
    for (size_t i = 1; i <= k; i++)
        product *= (double)(n - k + i) / (double)i;
    return k > n ? 0.0 : product;
}

static void pass_at_k_is_the_share_of_subsets_that_hold_a_success(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 12; n++)
        for (size_t c = 0; c <= n; c++)
            for (size_t k = 1; k <= n; k++)
                assert_near(stm_pass_at_k(n, c, k), 1.0 - choose(n - c, k) / choose(n, k), 1e-12);
}

static void pass_at_1_is_the_share_of_successes(void **state)
{
    (void)state;
    assert_near(stm_pass_at_k(8, 3, 1), 3.0 / 8.0, 1e-15);
    assert_near(stm_pass_at_k(100000, 1, 1), 1e-5, 1e-9);
}

static void pass_at_k_counts_subsets_one_by_one(void **state)
{
    (void)state;
    enum { N = 6, C = 2, K = 3 }; /* the first C of N samples pass */
    int n_subsets = 0, n_passing = 0;
    for (unsigned subset = 0; subset < 1u << N; subset++)
        if (__builtin_popcount(subset) == K) {
            n_subsets++;
            n_passing += (subset & ((1u << C) - 1)) != 0;
        }
    assert_near(stm_pass_at_k(N, C, K), (double)n_passing / n_subsets, 1e-15);
}

static void an_evaluation_averages_over_prompts(void **state)
{
    (void)state;
    size_t passed[] = {0, 2, 4};
    const stm_evaluation evaluation = {.n_prompts = 3, .n_samples = 4, .n_passed = passed};
    assert_near(stm_evaluation_pass_at(&evaluation, 1), 0.5, 1e-15);
    assert_near(stm_evaluation_pass_at(&evaluation, 2), (0.0 + 5.0 / 6.0 + 1.0) / 3.0, 1e-15);
    assert_near(stm_evaluation_pass_at(&evaluation, 4), 2.0 / 3.0, 1e-15);
}

/* Progress */

static void progress_survives_its_text(void **state)
{
    (void)state;
    const double evals[] = {NAN, 0.1, -1.0 / 3.0};
    for (size_t i = 0; i < 3; i++) {
        const stm_progress before = {
            .n_updates = 12, .n_skipped_in_a_row = 2, .best_step = 7, .last_eval = evals[i], .evals_without_better = 3};
        const stm_calibration chosen = {.n_ranks = 5, .ranks_per_node = 2, .limit_bytes = 1LL << 40, .chunk_rows = 99};
        stm_progress after;
        stm_calibration found;
        char *json;
        stm_progress_init(&after);
        assert_ok(stm_progress_write(&before, &chosen, &json));
        assert_ok(stm_progress_read("c.h5", json, &after, &found));
        assert_true(after.n_updates == 12 && after.n_skipped_in_a_row == 2 && after.best_step == 7);
        assert_true(after.evals_without_better == 3);
        assert_true(isnan(evals[i]) ? isnan(after.last_eval) : after.last_eval == evals[i]);
        assert_memory_equal(&found, &chosen, sizeof found);
        free(json);
    }
}

static void a_text_that_lacks_something_is_refused(void **state)
{
    (void)state;
    stm_progress progress;
    stm_calibration calibration;
    assert_fails(stm_progress_read("c.h5", "{\"n_updates\": 1}", &progress, &calibration), STM_ERR_INPUT,
                 "c.h5: /trainer: attribute trainer: ");
    assert_fails(stm_progress_read("c.h5", "", &progress, &calibration), STM_ERR_INPUT, "c.h5: /trainer: ");
}

static void evaluations_without_a_better_one_are_counted(void **state)
{
    (void)state;
    const double rewards[] = {0.2, 0.3, 0.3, 0.1, 0.4, 0.0};
    const bool better[] = {true, true, false, false, true, false};
    const int64_t without[] = {0, 0, 1, 2, 0, 1}, best_step[] = {0, 10, 10, 10, 40, 40};
    stm_progress progress;
    stm_progress_init(&progress);
    for (size_t i = 0; i < 6; i++) {
        progress.step = 10 * (int64_t)i;
        assert_true(stm_progress_evaluated(&progress, rewards[i]) == better[i]);
        assert_int_equal(progress.evals_without_better, without[i]);
        assert_int_equal(progress.best_step, best_step[i]);
    }
}

static void a_run_stops_early_only_where_it_was_asked_to(void **state)
{
    (void)state;
    stm_options options;
    stm_progress progress;
    assert_ok(stm_options_init(&options));
    stm_progress_init(&progress);
    options.eval.stop_at_reward = 0.9;
    assert_null(stm_progress_early_stop(&progress, &options)); /* no evaluation yet */
    (void)stm_progress_evaluated(&progress, 0.95);
    assert_string_equal(stm_progress_early_stop(&progress, &options), "the evaluation has reached eval.stop_at_reward");
    options.eval.stop_at_reward = 0;
    assert_null(stm_progress_early_stop(&progress, &options));
    options.eval.stop_after = 2;
    (void)stm_progress_evaluated(&progress, 0.95);
    assert_null(stm_progress_early_stop(&progress, &options));
    (void)stm_progress_evaluated(&progress, 0.5);
    assert_string_equal(stm_progress_early_stop(&progress, &options),
                        "eval.stop_after evaluations without a better one");
    stm_options_clear(&options);
}

/* Batches */

static void a_batch_holds_prompts_as_often_as_they_are_drawn(void **state)
{
    (void)state;
    int32_t a[] = {5, 6}, b[] = {7}, answer[] = {8, 9, 2};
    stm_prompt items[] = {{.n = 2, .ids = a, .has_response = true, .n_response = 3, .response = answer},
                          {.n = 1, .ids = b, .has_response = true}};
    const stm_prompts prompts = {.n = 2, .items = items};
    const size_t which[] = {1, 0, 1};
    stm_batch batch;
    size_t n_dropped;
    assert_ok(stm_batch_of_prompts(&prompts, which, 3, &batch));
    assert_int_equal(batch.n_groups, 3);
    assert_int_equal(batch.groups[0].n_prompt, 1);
    assert_memory_equal(batch.groups[1].prompt, a, sizeof a);
    assert_int_equal(batch.groups[2].n_responses, 0);
    stm_batch_clear(&batch);

    assert_ok(stm_batch_of_demonstrations(&prompts, which, 3, &(stm_thought_dropout){0}, &batch, &n_dropped));
    const stm_response *response = &batch.groups[1].responses[0];
    assert_int_equal(response->n, 3);
    assert_memory_equal(response->ids, answer, sizeof answer);
    assert_true(response->mask[0] && response->mask[1] && response->mask[2]);
    assert_int_equal(batch.groups[0].responses[0].n, 0); /* an empty demonstration is legal */
    assert_true(batch.groups[1].temperature == 1.0);
    const stm_batch slice = stm_batch_slice(&batch, 1, 2);
    assert_true(slice.n_groups == 2 && slice.groups == batch.groups + 1);
    stm_batch_clear(&batch);
}

/* The numbers of a step */

static void a_step_is_described_by_its_rewards_and_lengths(void **state)
{
    (void)state;
    double mass[] = {0.5, 1.0};
    stm_response first[] = {{.n = 2, .reward = 1, .has_reward = true, .kept_mass = mass},
                            {.n = 4, .reward = 0, .has_reward = true, .finish = STM_FINISH_LENGTH}};
    stm_response second[] = {{.n = 0, .reward = 1, .has_reward = true, .outcome = {.n_turns = 2}},
                             {.n = 6, .reward = 1, .has_reward = true, .outcome = {.n_turns = 5}}};
    stm_group groups[] = {{.n_responses = 2, .responses = first}, {.n_responses = 2, .responses = second}};
    const stm_batch batch = {.n_groups = 2, .groups = groups};
    stm_record record;
    stm_record_init(&record);
    stm_report_batch(&record, &batch);
    assert_near(record.reward_mean, 0.75, 1e-15);
    assert_near(record.reward_std, sqrt(3.0) / 4.0, 1e-15);
    assert_true(record.reward_min == 0 && record.reward_max == 1);
    assert_true(record.groups == 2 && record.groups_equal == 1);
    assert_true(record.response_tokens_mean == 3 && record.response_tokens_max == 6);
    assert_near(record.turns_mean, 3.5, 1e-15);
    assert_near(record.truncated_share, 0.25, 1e-15);
    assert_near(record.kept_mass, 0.75, 1e-15);
}

static void means_over_updates_leave_out_the_skipped_ones(void **state)
{
    (void)state;
    const stm_update_counts good = {.sums = {.loss = 2, .n_tokens = 10, .n_clipped = 5, .kl_k3 = 1, .entropy = 20},
                                    .grad_norm = 3,
                                    .rows = 7,
                                    .rows_repeated = 14};
    stm_update_counts bad = good;
    bad.skipped = true;
    bad.grad_norm = NAN;
    stm_update_totals totals = {0};
    stm_record record;
    stm_record_init(&record);
    stm_update_totals_add(&totals, &good);
    stm_update_totals_add(&totals, &bad);
    stm_update_totals_add(&totals, &good);
    stm_report_updates(&record, &totals, true);
    assert_true(record.loss == 2 && record.grad_norm == 3 && record.tokens_computed == 21);
    assert_near(record.clip_share, 0.5, 1e-15);
    assert_near(record.entropy, 2.0, 1e-15);
    assert_near(record.kl_reference, 0.1, 1e-15);
    stm_report_updates(&record, &totals, false);
    assert_true(isnan(record.kl_reference));
}

/* Checkpoints of later steps */

static void only_later_checkpoints_are_set_aside(void **state)
{
    (void)state;
    char *folder = stm_test_folder_create(), *where, *checkpoints, *path;
    static const char *const names[] = {"step-00000002.h5", "step-00000005.h5", "step-00000010.h5", "notes.txt"};
    assert_ok(stm_format(&checkpoints, "%s/checkpoints", folder));
    assert_ok(stm_make_folders(checkpoints));
    for (size_t i = 0; i < 4; i++)
        stm_test_write_text(stm_test_path(checkpoints, names[i]), names[i]);
    assert_ok(stm_set_aside_later(checkpoints, 10, &where));
    assert_null(where);
    assert_ok(stm_set_aside_later(checkpoints, 5, &where));
    assert_ok(stm_format(&path, "%s.old", checkpoints));
    assert_string_equal(where, path);
    free(where);
    assert_int_equal(stm_test_count_files(checkpoints), 3);
    assert_true(stm_test_exists(stm_test_path(path, "step-00000010.h5")));
    assert_ok(stm_set_aside_later(checkpoints, -1, &where)); /* again: another folder */
    assert_non_null(strstr(where, "checkpoints.old.2"));
    assert_int_equal(stm_test_count_files(checkpoints), 1); /* what is no checkpoint stays */
    free(where);
    free(path);
    free(checkpoints);
    stm_test_folder_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pass_at_k_is_the_share_of_subsets_that_hold_a_success),
        cmocka_unit_test(pass_at_1_is_the_share_of_successes),
        cmocka_unit_test(pass_at_k_counts_subsets_one_by_one),
        cmocka_unit_test(an_evaluation_averages_over_prompts),
        cmocka_unit_test(progress_survives_its_text),
        cmocka_unit_test(a_text_that_lacks_something_is_refused),
        cmocka_unit_test(evaluations_without_a_better_one_are_counted),
        cmocka_unit_test(a_run_stops_early_only_where_it_was_asked_to),
        cmocka_unit_test(a_batch_holds_prompts_as_often_as_they_are_drawn),
        cmocka_unit_test(a_step_is_described_by_its_rewards_and_lengths),
        cmocka_unit_test(means_over_updates_leave_out_the_skipped_ones),
        cmocka_unit_test(only_later_checkpoints_are_set_aside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
