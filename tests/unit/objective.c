#include "objective/objective.h"
#include "support/support.h"

#include <jansson.h>

static const stm_objective_options defaults = {
    .clip_low = 0.2,
    .clip_high = 0.2,
    .kl_estimator = STM_KL_K3,
    .advantage_eps = 1e-6,
    .advantage_scale = STM_SCALE_STD,
    .aggregate = STM_AGGREGATE_SEQUENCE_MEAN,
};

enum { LONGEST = 64 };

static json_t *load(const char *name)
{
    const char *path = stm_fixture(name);
    json_error_t error;
    json_t *document = path ? json_load_file(path, JSON_DECODE_INT_AS_REAL, &error) : NULL;
    if (!document)
        fail_msg("%s: cannot be read", name);
    return document;
}

/* A list of numbers into out; its length. NULL or null: 0. */
static size_t numbers(const json_t *list, double *out)
{
    const size_t n = json_array_size(list);
    assert_true(n <= LONGEST);
    for (size_t i = 0; i < n; i++)
        out[i] = json_number_value(json_array_get(list, i));
    return n;
}

static bool covered(const json_t *one)
{
    static const char *const known[] = {"clip_low",      "clip_high",       "kl_coef",   "kl_estimator",
                                        "advantage_eps", "advantage_scale", "aggregate", "max_tokens"};
    static const char *const others[] = {"batch-std", "whiten", "sequence-sum", "control-split"};
    const char *key;
    json_t *value;
    if (strcmp(json_string_value(json_object_get(one, "objective")), "grpo") != 0 ||
        strcmp(json_string_value(json_object_get(one, "input")), "weights") == 0)
        return false;
    json_object_foreach(json_object_get(one, "options"), key, value)
    {
        bool found = false;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            found = found || strcmp(key, known[i]) == 0;
        for (size_t i = 0; i < sizeof others / sizeof *others; i++)
            found = found && !(json_is_string(value) && strcmp(json_string_value(value), others[i]) == 0);
        if (!found)
            return false;
    }
    return true;
}

static double option(const json_t *options, const char *name, double otherwise)
{
    const json_t *value = json_object_get(options, name);
    return value ? json_number_value(value) : otherwise;
}

static bool says(const json_t *options, const char *name, const char *word)
{
    const json_t *value = json_object_get(options, name);
    return value && strcmp(json_string_value(value), word) == 0;
}

static stm_objective_options options_of(const json_t *one)
{
    const json_t *given = json_object_get(one, "options");
    stm_objective_options o = defaults;
    o.clip_low = option(given, "clip_low", o.clip_low);
    o.clip_high = option(given, "clip_high", o.clip_high);
    o.kl_coef = option(given, "kl_coef", 0);
    o.advantage_eps = option(given, "advantage_eps", o.advantage_eps);
    o.max_tokens = (int64_t)option(given, "max_tokens", 0);
    o.advantage_scale = says(given, "advantage_scale", "none") ? STM_SCALE_NONE : STM_SCALE_STD;
    o.kl_estimator = says(given, "kl_estimator", "k1")   ? STM_KL_K1
                     : says(given, "kl_estimator", "k2") ? STM_KL_K2
                                                         : STM_KL_K3;
    o.aggregate = says(given, "aggregate", "token-mean")     ? STM_AGGREGATE_TOKEN_MEAN
                  : says(given, "aggregate", "fixed-length") ? STM_AGGREGATE_FIXED_LENGTH
                                                             : STM_AGGREGATE_SEQUENCE_MEAN;
    return o;
}

/* One group of the recorded file through the objective; every gradient, advantage, loss and clip fraction is compared.
 * Returns its loss. */
static double check_group(const json_t *group, const json_t *expected, size_t g, const stm_objective_options *o,
                          const stm_totals *totals)
{
    const stm_objective *grpo = stm_objective_find("grpo");
    double rewards[LONGEST], advantage[LONGEST], want[LONGEST];
    const size_t n = numbers(json_object_get(group, "rewards"), rewards);
    stm_objective_sums sums = {0};
    grpo->advantages(o, n, rewards, advantage);
    for (size_t i = 0; i < n; i++) {
        double logp[LONGEST], old[LONGEST], ref[LONGEST], real_mask[LONGEST], dlogp[LONGEST] = {0};
        uint8_t mask[LONGEST];
        size_t n_masked = 0;
        const size_t length = numbers(json_array_get(json_object_get(group, "logp"), i), logp);
        numbers(json_array_get(json_object_get(group, "ref"), i), ref);
        numbers(json_array_get(json_object_get(group, "mask"), i), real_mask);
        const bool has_old = numbers(json_array_get(json_object_get(group, "old"), i), old) == length && length > 0;
        for (size_t k = 0; k < length; k++)
            n_masked += mask[k] = real_mask[k] != 0;
        const double weight = stm_objective_weight(o, totals, n_masked);
        for (size_t first = 0; first < length; first += 2) { /* in ranges: the split must not matter */
            const stm_tokens range = {.n = STM_MIN((size_t)2, length - first),
                                      .logp = logp + first,
                                      .old = has_old ? old + first : NULL,
                                      .ref = ref + first,
                                      .mask = mask + first,
                                      .dlogp = dlogp + first};
            grpo->tokens(o, advantage[i], weight, &range, &sums);
        }
        numbers(json_array_get(json_array_get(json_object_get(expected, "dlogp"), g), i), want);
        for (size_t k = 0; k < length; k++)
            assert_true(fabs(dlogp[k] - want[k]) <= 1e-12 + 1e-10 * fabs(want[k]));
        numbers(json_array_get(json_array_get(json_object_get(expected, "advantage"), g), i), want);
        if (length > 0)
            assert_near(advantage[i], want[0], 1e-10);
    }
    numbers(json_object_get(expected, "group_loss"), want);
    assert_near(sums.loss, want[g], 1e-10);
    numbers(json_object_get(expected, "clip_fraction"), want);
    assert_near(sums.n_tokens > 0 ? sums.n_clipped / sums.n_tokens : 0.0, want[g], 1e-12);
    return sums.loss;
}

static void grpo_agrees_with_recorded_losses_gradients_and_advantages(void **state)
{
    (void)state;
    json_t *document = load("vectors/group.json");
    size_t index, n_cases = 0;
    json_t *one;
    json_array_foreach(json_object_get(document, "cases"), index, one)
    {
        if (!covered(one))
            continue;
        const json_t *totals_of = json_object_get(one, "totals"), *expected = json_object_get(one, "expected");
        const json_t *groups = json_object_get(
            json_object_get(json_object_get(document, "inputs"), json_string_value(json_object_get(one, "input"))),
            "groups");
        const stm_objective_options o = options_of(one);
        const stm_totals totals = {.n_groups = (size_t)option(totals_of, "n_groups", 0),
                                   .n_responses = (size_t)option(totals_of, "n_responses", 0),
                                   .n_tokens = (size_t)option(totals_of, "n_tokens", 0)};
        double loss = 0;
        for (size_t g = 0; g < json_array_size(groups); g++)
            loss += check_group(json_array_get(groups, g), expected, g, &o, &totals);
        assert_near(loss, json_number_value(json_object_get(expected, "loss")), 1e-10);
        n_cases++;
    }
    assert_int_equal(n_cases, 16);
    json_decref(document);
}

/* Numbers of "expected"/test/name in the course's file. */
static size_t course(const json_t *document, const char *test, const char *name, double *out)
{
    const json_t *one = json_object_get(json_object_get(document, "expected"), test);
    return numbers(json_object_get(json_object_get(one, name), "values"), out);
}

/* The course records float32: six digits. */
static void grpo_agrees_with_the_course_vectors(void **state)
{
    (void)state;
    const stm_objective *grpo = stm_objective_find("grpo");
    json_t *document = load("vectors/grpo_vectors.json");
    const json_t *inputs = json_object_get(document, "inputs");
    double logp[LONGEST], old[LONGEST], real_mask[LONGEST], A[LONGEST], want[LONGEST], rewards[LONGEST], got[LONGEST];
    numbers(json_object_get(inputs, "policy_log_probs[2x10]"), logp);
    numbers(json_object_get(inputs, "old_log_probs[2x10]"), old);
    numbers(json_object_get(inputs, "response_mask[2x10]"), real_mask);
    numbers(json_object_get(inputs, "advantages[2]"), A);
    uint8_t mask[20], all[20];
    for (size_t k = 0; k < 20; k++) {
        mask[k] = real_mask[k] != 0;
        all[k] = 1;
    }

    const struct {
        const char *test;
        double clip;
    } clips[] = {{"compute_grpo_clip_loss_large_cliprange", 10.0},
                 {"compute_grpo_clip_loss_small_cliprange", 0.1},
                 {"compute_policy_gradient_loss_grpo_clip", 0.5}};
    for (size_t i = 0; i < 3; i++) {
        stm_objective_options o = defaults;
        o.clip_low = o.clip_high = clips[i].clip;
        assert_int_equal(course(document, clips[i].test, "array", want), 20);
        for (size_t k = 0; k < 20; k++) {
            double dlogp = 0;
            stm_objective_sums sums = {0};
            const stm_tokens token = {.n = 1, .logp = logp + k, .old = old + k, .mask = all + k, .dlogp = &dlogp};
            grpo->tokens(&o, A[k / 10], 1.0, &token, &sums);
            assert_near(sums.loss, want[k], 2e-6);
        }
    }

    stm_objective_options o = defaults;
    o.clip_low = o.clip_high = 0.1;
    const stm_totals totals = {.n_groups = 1, .n_responses = 2, .n_tokens = 14};
    stm_objective_sums sums = {0};
    double dlogp[20] = {0};
    for (size_t i = 0; i < 2; i++) {
        size_t n_masked = 0;
        for (size_t k = 0; k < 10; k++)
            n_masked += mask[10 * i + k];
        const stm_tokens row = {
            .n = 10, .logp = logp + 10 * i, .old = old + 10 * i, .mask = mask + 10 * i, .dlogp = dlogp + 10 * i};
        /* half: the course accumulates over two micro-batches */
        grpo->tokens(&o, A[i], 0.5 * stm_objective_weight(&o, &totals, n_masked), &row, &sums);
    }
    course(document, "grpo_microbatch_train_step_grpo_clip", "loss", want);
    assert_near(sums.loss, want[0], 2e-6);
    course(document, "grpo_microbatch_train_step_grpo_clip", "policy_log_probs_grad", want);
    for (size_t k = 0; k < 20; k++)
        assert_near(dlogp[k], want[k], 2e-6);

    for (int scaled = 0; scaled < 2; scaled++) {
        const char *test = scaled ? "compute_group_normalized_rewards_normalize_by_std"
                                  : "compute_group_normalized_rewards_no_normalize_by_std";
        o.advantage_scale = scaled ? STM_SCALE_STD : STM_SCALE_NONE;
        assert_int_equal(course(document, test, "raw_rewards", rewards), 8);
        course(document, test, "normalized_rewards", want);
        for (size_t g = 0; g < 2; g++)
            grpo->advantages(&o, 4, rewards + 4 * g, got + 4 * g);
        for (size_t i = 0; i < 8; i++)
            assert_near(got[i], want[i], 2e-6);
    }
    json_decref(document);
}

static double loss_at(const stm_objective *objective, const stm_objective_options *o, double advantage, double logp,
                      const double *old, const double *ref, double *dlogp)
{
    const uint8_t mask = 1;
    double mine = 0;
    stm_objective_sums sums = {0};
    const stm_tokens token = {.n = 1, .logp = &logp, .old = old, .ref = ref, .mask = &mask, .dlogp = &mine};
    objective->tokens(o, advantage, 0.3, &token, &sums);
    if (dlogp)
        *dlogp = mine;
    return sums.loss;
}

static void gradients_match_finite_differences(void **state)
{
    (void)state;
    const double advantages[] = {-1.7, 0.0, 0.9}, h = 1e-5;
    const stm_kl_estimator estimators[] = {STM_KL_K1, STM_KL_K2, STM_KL_K3};
    for (size_t name = 0; name < 2; name++)
        for (size_t e = 0; e < 3; e++)
            for (size_t a = 0; a < 3; a++)
                for (double d = -2.05; d < 2.1; d += 0.13) { /* no point lies on a clip bound */
                    const stm_objective *objective = stm_objective_find(name ? "sft" : "grpo");
                    stm_objective_options o = defaults;
                    o.kl_coef = 0.4;
                    o.kl_estimator = estimators[e];
                    const double old = -2.5, ref = -1.9, logp = old + d;
                    double slope;
                    loss_at(objective, &o, advantages[a], logp, &old, &ref, &slope);
                    const double up = loss_at(objective, &o, advantages[a], logp + h, &old, &ref, NULL);
                    const double down = loss_at(objective, &o, advantages[a], logp - h, &old, &ref, NULL);
                    assert_near(slope, (up - down) / (2 * h),
                                1e-6); /* h^2 and rounding/h are both about 1e-10 of a unit loss */
                }
}

static void a_tie_at_the_clip_bound_counts_as_unclipped(void **state)
{
    (void)state;
    const uint8_t mask = 1;
    const double bounds[] = {0.75, 1.5}; /* 1 - (1 - x) and 1 + (x - 1) are exact near them */
    for (size_t i = 0; i < 2; i++) {
        stm_objective_options o = defaults;
        const double old = 0.0, logp = log(bounds[i]), ratio = exp(logp), advantage = i == 0 ? -1.0 : 1.0;
        double *clip = i == 0 ? &o.clip_low : &o.clip_high;
        *clip = i == 0 ? 1.0 - ratio : ratio - 1.0;
        double dlogp = 0;
        stm_objective_sums sums = {0};
        const stm_tokens token = {.n = 1, .logp = &logp, .old = &old, .mask = &mask, .dlogp = &dlogp};
        stm_objective_find("grpo")->tokens(&o, advantage, 1.0, &token, &sums);
        assert_true(dlogp == -advantage * ratio);
        assert_true(sums.n_clipped == 0.0);
        *clip -= 1e-9;
        dlogp = 0;
        stm_objective_find("grpo")->tokens(&o, advantage, 1.0, &token, &sums);
        assert_true(dlogp == 0.0);
        assert_true(sums.n_clipped == 1.0);
    }
}

static void without_old_logprobs_the_ratio_is_one_and_has_a_gradient(void **state)
{
    (void)state;
    double slope;
    const double loss = loss_at(stm_objective_find("grpo"), &defaults, 2.0, -3.0, NULL, NULL, &slope);
    assert_near(loss, -0.6, 1e-15);
    assert_near(slope, -0.6, 1e-15);
}

static void wild_log_ratios_stay_finite_and_keep_their_gradient(void **state)
{
    (void)state;
    stm_objective_options o = defaults;
    o.kl_coef = 0.1;
    double slope;
    const double logps[] = {-1e4, -30.0, 0.0}, olds[] = {-1e4, 0.0}, refs[] = {0.0, -1e4};
    for (size_t i = 0; i < 3; i++)
        for (size_t j = 0; j < 2; j++)
            for (size_t k = 0; k < 2; k++) {
                const double loss = loss_at(stm_objective_find("grpo"), &o, -1.0, logps[i], &olds[j], &refs[k], &slope);
                assert_true(isfinite(loss) && isfinite(slope));
            }
    const double old = -1e4; /* a ratio beyond any number, wanted less: still pushed down */
    o.kl_coef = 0.0;
    loss_at(stm_objective_find("grpo"), &o, -1.0, -1.0, &old, NULL, &slope);
    assert_true(slope > 0.0);
}

static void what_is_not_a_number_reaches_the_loss(void **state)
{
    (void)state;
    stm_objective_options o = defaults;
    const double old = -1.0, ref = -1.0, not_a_number = NAN;
    const stm_objective *grpo = stm_objective_find("grpo");
    assert_true(isnan(loss_at(stm_objective_find("sft"), &o, 1.0, NAN, NULL, NULL, NULL)));
    assert_true(isnan(loss_at(grpo, &o, 1.0, NAN, &old, NULL, NULL)));
    assert_true(isnan(loss_at(grpo, &o, 0.0, NAN, &old, NULL, NULL)));
    assert_true(isnan(loss_at(grpo, &o, 1.0, NAN, NULL, NULL, NULL)));
    assert_true(isnan(loss_at(grpo, &o, -1.0, -1.0, &not_a_number, NULL, NULL)));
    assert_true(isnan(loss_at(grpo, &o, NAN, -1.0, &old, NULL, NULL)));
    o.kl_coef = 1.0;
    assert_true(isnan(loss_at(grpo, &o, 1.0, -1.0, &old, &not_a_number, NULL)));
    assert_false(isnan(loss_at(grpo, &o, 1.0, -1.0, &old, &ref, NULL)));

    double rewards[] = {1.0, NAN, 0.0}, advantage[3];
    grpo->advantages(&defaults, 3, rewards, advantage);
    assert_true(isnan(advantage[0]) && isnan(advantage[1]) && isnan(advantage[2]));
    grpo->advantages(&defaults, 1, rewards + 1, advantage);
    assert_true(isnan(advantage[0]));
}

static void equal_rewards_and_groups_of_one_have_advantage_zero(void **state)
{
    (void)state;
    stm_objective_options o = defaults;
    double rewards[7], advantage[7];
    for (int scaled = 0; scaled < 2; scaled++)
        for (size_t n = 1; n <= 7; n++) {
            o.advantage_scale = scaled ? STM_SCALE_STD : STM_SCALE_NONE;
            o.advantage_eps = 0.0; /* 0/0 were it not looked for */
            for (size_t i = 0; i < n; i++)
                rewards[i] = 0.1; /* its mean over 3 is not 0.1 */
            stm_objective_find("grpo")->advantages(&o, n, rewards, advantage);
            for (size_t i = 0; i < n; i++)
                assert_true(advantage[i] == 0.0);
        }
}

static void masked_tokens_have_neither_loss_nor_gradient_nor_statistics(void **state)
{
    (void)state;
    const double logp[] = {-1.0, NAN}, old[] = {-1.1, NAN}, entropy[] = {0.5, NAN};
    const uint8_t mask[] = {1, 0};
    for (size_t i = 0; i < 2; i++) {
        double dlogp[] = {10.0, 20.0};
        stm_objective_sums sums = {0};
        const stm_tokens t = {.n = 2, .logp = logp, .old = old, .entropy = entropy, .mask = mask, .dlogp = dlogp};
        stm_objective_find(i ? "sft" : "grpo")->tokens(&defaults, 1.0, 1.0, &t, &sums);
        assert_true(dlogp[0] < 10.0 && dlogp[1] == 20.0); /* added, not written */
        assert_true(isfinite(sums.loss) && sums.n_tokens == 1.0 && sums.entropy == 0.5);
    }
}

static void statistics_are_the_ones_of_the_formulas(void **state)
{
    (void)state;
    const double logp[] = {-1.0, -2.0}, old[] = {-1.1, -1.5}, ref[] = {-0.7, -2.0}, entropy[] = {0.5, 0.25};
    const uint8_t mask[] = {1, 1};
    double dlogp[2] = {0};
    stm_objective_sums sums = {0};
    const stm_tokens t = {
        .n = 2, .logp = logp, .old = old, .ref = ref, .entropy = entropy, .mask = mask, .dlogp = dlogp};
    stm_objective_find("grpo")->tokens(&defaults, -1.0, 1.0, &t, &sums);
    assert_near(sums.kl_k3, exp(0.3) - 1.3, 1e-12);
    assert_near(sums.entropy, 0.75, 1e-15);
    assert_near(sums.ratio_minus_one_minus_log, exp(0.1) - 1.1 + exp(-0.5) - 0.5, 1e-12);
    assert_near(sums.logp_difference_max, 0.5, 1e-12);
    assert_near(sums.n_clipped, 1.0, 1e-15); /* the second: wanted less, and already less than 0.8 */
}

static void weights_follow_the_aggregation_and_an_empty_response_weighs_nothing(void **state)
{
    (void)state;
    const stm_totals totals = {.n_groups = 2, .n_responses = 5, .n_tokens = 40};
    stm_objective_options o = defaults;
    assert_near(stm_objective_weight(&o, &totals, 4), 1.0 / 20, 1e-15);
    o.aggregate = STM_AGGREGATE_TOKEN_MEAN;
    assert_near(stm_objective_weight(&o, &totals, 4), 1.0 / 40, 1e-15);
    o.aggregate = STM_AGGREGATE_FIXED_LENGTH;
    o.max_tokens = 16;
    assert_near(stm_objective_weight(&o, &totals, 4), 1.0 / 80, 1e-15);
    const stm_totals nothing = {0};
    for (int a = 0; a < 3; a++) {
        o.aggregate = (stm_aggregate)a;
        assert_true(stm_objective_weight(&o, &nothing, 0) == 0.0);
    }
}

static void totals_count_empty_responses_and_only_tokens_with_loss(void **state)
{
    (void)state;
    uint8_t some[] = {1, 0, 1}, none[] = {0, 0};
    stm_response a[] = {{.n = 3, .mask = some}, {.n = 0}}, b[] = {{.n = 2, .mask = none}};
    stm_group groups[] = {{.n_responses = 2, .responses = a}, {.n_responses = 1, .responses = b}};
    const stm_batch batch = {.n_groups = 2, .groups = groups};
    stm_totals totals;
    stm_totals_of(&batch, &totals);
    assert_int_equal(totals.n_groups, 2);
    assert_int_equal(totals.n_responses, 3);
    assert_int_equal(totals.n_tokens, 2);
}

static void every_registered_name_is_found_and_no_other(void **state)
{
    (void)state;
    const char *const *names;
    const size_t n = stm_objective_names(&names);
    assert_true(n >= 2);
    for (size_t i = 0; i < n; i++)
        assert_string_equal(stm_objective_find(names[i])->name, names[i]);
    assert_null(stm_objective_find("gpro"));
    assert_ok(stm_objective_check_name("grpo"));
    assert_fails(stm_objective_check_name("gpro"), STM_ERR_INPUT,
                 "objective.name: found gpro, expected grpo or sft; did you mean grpo?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grpo_agrees_with_recorded_losses_gradients_and_advantages),
        cmocka_unit_test(grpo_agrees_with_the_course_vectors),
        cmocka_unit_test(gradients_match_finite_differences),
        cmocka_unit_test(a_tie_at_the_clip_bound_counts_as_unclipped),
        cmocka_unit_test(without_old_logprobs_the_ratio_is_one_and_has_a_gradient),
        cmocka_unit_test(wild_log_ratios_stay_finite_and_keep_their_gradient),
        cmocka_unit_test(what_is_not_a_number_reaches_the_loss),
        cmocka_unit_test(equal_rewards_and_groups_of_one_have_advantage_zero),
        cmocka_unit_test(masked_tokens_have_neither_loss_nor_gradient_nor_statistics),
        cmocka_unit_test(statistics_are_the_ones_of_the_formulas),
        cmocka_unit_test(weights_follow_the_aggregation_and_an_empty_response_weighs_nothing),
        cmocka_unit_test(totals_count_empty_responses_and_only_tokens_with_loss),
        cmocka_unit_test(every_registered_name_is_found_and_no_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
