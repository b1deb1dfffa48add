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

/* A range of a response as the batch would show it, its advantage and weight given. */
static void call(const stm_objective *objective, const stm_objective_options *o, double advantage, double weight,
                 const stm_tokens *tokens, stm_objective_sums *sums)
{
    const stm_totals none = {0};
    stm_tokens t = *tokens;
    t.n_masked = t.n;
    t.advantages = &advantage;
    t.weight = t.control_weight = weight;
    objective->tokens(o, &none, &t, sums);
}

/* Advantages of a group of so many rewards. */
static void advantages_of(const stm_objective_options *o, size_t n, const double *rewards, double *advantage)
{
    stm_response responses[LONGEST] = {0};
    stm_group group = {.n_responses = n, .responses = responses};
    const stm_batch batch = {.n_groups = 1, .groups = &group};
    stm_objective_batch view;
    for (size_t i = 0; i < n; i++)
        responses[i] = (stm_response){.reward = rewards[i], .has_reward = true};
    assert_ok(stm_objective_batch_create(stm_objective_find("grpo"), o, &batch, &view));
    memcpy(advantage, view.advantages, n * sizeof *advantage);
    stm_objective_batch_clear(&view);
}

/* The factor of the tokens of response i. */
static double weight_of(const stm_objective_options *o, const stm_batch *batch, size_t i)
{
    stm_objective_batch view;
    assert_ok(stm_objective_batch_create(stm_objective_find("sft"), o, batch, &view));
    const double weight = stm_objective_view(&view, 0, i, 0, 0, NULL, NULL, NULL).weight;
    stm_objective_batch_clear(&view);
    return weight;
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
            call(grpo, &o, A[k / 10], 1.0, &token, &sums);
            assert_near(sums.loss, want[k], 2e-6);
        }
    }

    stm_objective_options o = defaults;
    o.clip_low = o.clip_high = 0.1;
    stm_objective_sums sums = {0};
    double dlogp[20] = {0};
    for (size_t i = 0; i < 2; i++) {
        size_t n_masked = 0;
        for (size_t k = 0; k < 10; k++)
            n_masked += mask[10 * i + k];
        const stm_tokens row = {
            .n = 10, .logp = logp + 10 * i, .old = old + 10 * i, .mask = mask + 10 * i, .dlogp = dlogp + 10 * i};
        /* half: the course accumulates over two micro-batches */
        call(grpo, &o, A[i], 0.5 / (2.0 * (double)n_masked), &row, &sums);
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
            advantages_of(&o, 4, rewards + 4 * g, got + 4 * g);
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
    call(objective, o, advantage, 0.3, &token, &sums);
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
        call(stm_objective_find("grpo"), &o, advantage, 1.0, &token, &sums);
        assert_true(dlogp == -advantage * ratio);
        assert_true(sums.n_clipped == 0.0);
        *clip -= 1e-9;
        dlogp = 0;
        call(stm_objective_find("grpo"), &o, advantage, 1.0, &token, &sums);
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
    advantages_of(&defaults, 3, rewards, advantage);
    assert_true(isnan(advantage[0]) && isnan(advantage[1]) && isnan(advantage[2]));
    advantages_of(&defaults, 1, rewards + 1, advantage);
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
            advantages_of(&o, n, rewards, advantage);
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
        call(stm_objective_find(i ? "sft" : "grpo"), &defaults, 1.0, 1.0, &t, &sums);
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
    call(stm_objective_find("grpo"), &defaults, -1.0, 1.0, &t, &sums);
    assert_near(sums.kl_k3, exp(0.3) - 1.3, 1e-12);
    assert_near(sums.entropy, 0.75, 1e-15);
    assert_near(sums.ratio_minus_one_minus_log, exp(0.1) - 1.1 + exp(-0.5) - 0.5, 1e-12);
    assert_near(sums.logp_difference_max, 0.5, 1e-12);
    assert_near(sums.n_clipped, 1.0, 1e-15); /* the second: wanted less, and already less than 0.8 */
}

static void weights_follow_the_aggregation_and_an_empty_response_weighs_nothing(void **state)
{
    (void)state;
    uint8_t some[] = {1, 0, 1, 1, 1}, none[] = {0, 0};
    stm_response responses[] = {{.n = 5, .mask = some}, {.n = 0}, {.n = 2, .mask = none}, {.n = 1, .mask = some}};
    stm_group group = {.n_responses = 4, .responses = responses};
    const stm_batch batch = {.n_groups = 1, .groups = &group};
    const double expected[] = {1.0 / 16, 1.0 / 5, 1.0 / 64, 1.0 / 4, 1.0 / 3};
    for (int a = STM_AGGREGATE_SEQUENCE_MEAN; a <= STM_AGGREGATE_CONTROL_SPLIT; a++) {
        stm_objective_options o = defaults;
        o.aggregate = (stm_aggregate)a;
        o.max_tokens = 16;
        o.control_tokens = 1;
        assert_near(weight_of(&o, &batch, 0), expected[a], 1e-15);
        assert_true(weight_of(&o, &batch, 1) == 0.0 && weight_of(&o, &batch, 2) == 0.0);
    }
}

static void totals_count_empty_responses_and_only_tokens_with_loss(void **state)
{
    (void)state;
    uint8_t some[] = {1, 0, 1}, none[] = {0, 0};
    stm_response a[] = {{.n = 3, .mask = some}, {.n = 0}}, b[] = {{.n = 2, .mask = none}};
    stm_group groups[] = {{.n_responses = 2, .responses = a}, {.n_responses = 1, .responses = b}};
    const stm_batch batch = {.n_groups = 2, .groups = groups};
    stm_objective_options o = defaults;
    stm_objective_batch view;
    o.control_tokens = 2;
    assert_ok(stm_objective_batch_create(stm_objective_find("sft"), &o, &batch, &view));
    assert_int_equal(view.totals.n_groups, 2);
    assert_int_equal(view.totals.n_responses, 3);
    assert_int_equal(view.totals.n_tokens, 2);
    assert_int_equal(view.totals.n_control, 1);
    assert_int_equal(view.totals.n_rest, 1);
    stm_objective_batch_clear(&view);
}

static void what_an_objective_needs_and_a_file_lacks_is_named(void **state)
{
    (void)state;
    uint8_t mask[] = {1};
    double old[] = {-1};
    stm_response responses[] = {{.n = 1, .mask = mask, .old_logprobs = old, .has_reward = true},
                                {.n = 1, .mask = mask}};
    stm_group group = {.n_responses = 2, .responses = responses};
    const stm_batch batch = {.n_groups = 1, .groups = &group};
    stm_objective_options o = defaults;
    stm_objective_batch view;
    assert_fails(stm_objective_batch_create(stm_objective_find("grpo"), &o, &batch, &view), STM_ERR_INPUT,
                 "group 0, response 1: found no reward, which objective grpo needs with these options");
    responses[1].has_reward = true;
    o.is_correction = STM_CORRECTION_MASK;
    assert_fails(stm_objective_batch_create(stm_objective_find("grpo"), &o, &batch, &view), STM_ERR_INPUT,
                 "group 0, response 1: found no old_logprobs, which objective grpo needs with these options");
    o = defaults;
    o.kl_coef = 0.1;
    assert_fails(stm_objective_batch_create(stm_objective_find("copg"), &o, &batch, &view), STM_ERR_INPUT,
                 "group 0, response 0: found no ref_logprobs, which objective copg needs with these options");
    o = defaults;
    o.aggregate = STM_AGGREGATE_FIXED_LENGTH;
    assert_fails(stm_objective_batch_create(stm_objective_find("grpo"), &o, &batch, &view), STM_ERR_INPUT,
                 "objective.max_tokens: found 0, expected at least 1 with objective.aggregate=fixed-length");
}

static void what_no_rollout_has_is_refused_before_a_run(void **state)
{
    (void)state;
    stm_objective_options o = defaults;
    o.name = (char *)"grpo";
    assert_ok(stm_objective_check_online(&o, false, false));
    o.seed_alpha = 0.5; /* clusters of answers: the trainer finds them */
    assert_ok(stm_objective_check_online(&o, false, false));
    o.advantage_baseline = STM_BASELINE_BRPO; /* and scores at budgets */
    assert_ok(stm_objective_check_online(&o, false, false));
    o.name = (char *)"self_play";
    assert_fails(stm_objective_check_online(&o, false, false), STM_ERR_INPUT,
                 "objective.oracle: needs recorded preferences");
    assert_ok(stm_objective_check_online(&o, true, false));
    o.name = (char *)"direct_advantage";
    assert_fails(stm_objective_check_online(&o, true, false), STM_ERR_INPUT,
                 "objective.name: needs steps with advantages of recorded responses, which rollouts have not; "
                 "expected with data.groups or `stemma grad`");
}

/* What one option of the preference family asks of recorded responses. */
static void what_only_a_file_has_is_refused_for_preferences(void **state)
{
    (void)state;
    static const struct {
        const char *options[2], *message;
    } cases[] = {
        {{"objective.name=dpo", "objective.reference={twin: 1}"},
         "objective.reference: needs log-probs of a twin of the model, which only chase_coef trains, which "
         "rollouts have not; expected with data.groups or `stemma grad`"},
        {{"objective.name=dpo", "objective.chase_coef=0.5"}, NULL},
        {{"objective.name=dpo", "objective.pairing=origin"},
         "objective.pairing, explore_coef or opponent: needs responses of another model than the policy, "
         "which rollouts have not; expected with data.groups or `stemma grad`, or reference.samples"},
        {{"objective.name=self_play"},
         "objective.oracle: needs recorded preferences, which rollouts have not; expected with data.groups or `stemma "
         "grad`, the reward preference or objective.oracle=reward"},
        {{"objective.name=dpo", "objective.reference={target: 1}"}, NULL},
        {{"objective.name=self_play", "objective.oracle=reward"}, NULL},
        {{"objective.name=dpo"}, NULL},
        {{"objective.name=orpo"}, NULL},
        {{"objective.name=kto"}, NULL},
        {{"objective.name=p3o"}, NULL},
        {{"objective.name=fdpg"}, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        stm_options o;
        assert_ok(stm_options_init(&o));
        assert_ok(stm_options_read_arguments(&o, STM_COMMAND_TRAIN, cases[i].options[1] ? 2 : 1,
                                             (char *const *)(void *)cases[i].options));
        if (cases[i].message)
            assert_fails(stm_objective_check_online(&o.objective, false, false), STM_ERR_INPUT, cases[i].message);
        else
            assert_ok(stm_objective_check_online(&o.objective, false, false));
        stm_options_clear(&o);
    }
}

static void options_that_contradict_each_other_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *options[3], *message;
    } cases[] = {
        {{"objective.name=dpo", "objective.pairing=every"},
         "objective.label: found hard, expected oracle or bt with objective.pairing=every"},
        {{"objective.name=orpo", "objective.pairing=every"},
         "objective.pairing: found every, expected auto, best_worst, all, halves or origin"},
        {{"objective.name=dpo", "objective.pairing=every", "objective.loss=hinge"},
         "objective.pairing: found every, expected auto, best_worst, all, halves or origin"},
        {{"objective.name=dpo", "objective.loss=hinge", "objective.label=bt"},
         "objective.label: found bt, expected hard, or loss sigmoid or ipo of dpo"},
        {{"objective.name=dpo", "objective.loss=robust", "objective.label_smoothing=0.5"},
         "objective.label_smoothing: found 0.5, expected less than 0.5 with objective.loss=robust"},
        {{"objective.name=dpo", "objective.loss=ipo", "objective.label_smoothing=0.1"},
         "objective.label_smoothing: found 0.1, expected 0, or objective.loss=sigmoid or robust"},
        {{"objective.name=orpo", "objective.score=logl"},
         "objective.score: found logl, expected auto, reward or win_rate with pairs"},
        {{"objective.name=disco", "objective.score=win_rate"},
         "objective.score: found win_rate, expected auto, logl or lratio with objective.name=disco"},
        {{"objective.name=kto", "objective.beta=0"},
         "objective.beta: found 0, expected a number above 0 with objective.name=kto"},
        {{"objective.name=dpo", "objective.seed_alpha=0.5"},
         "objective.seed_alpha: found 0.5, expected its default, 0.0, with objective.name=dpo: grpo alone reads it"},
        {{"objective.name=copg", "objective.token_weight_alpha=0.5"},
         "objective.token_weight_alpha: found 0.5, expected its default, 0.0, with objective.name=copg: grpo alone "
         "reads it"},
        {{"objective.name=disco", "objective.reward_combine=normalize-then-sum"},
         "objective.reward_combine: found normalize-then-sum, expected its default, sum, with objective.name=disco: "
         "grpo alone reads it"},
        {{"objective.surrogate=log", "objective.clip_low=0.3"},
         "objective.clip_low: found 0.3, expected its default, 0.2, with objective.surrogate=log: clip, cispo and "
         "geometric read it"},
        {{"objective.name=fdpg", "objective.log_z=2"},
         "objective.log_z: found 2.0, expected its default, 0.0, with objective.normaliser=group: given alone reads "
         "it"},
        {{"objective.name=copg", "objective.tau=2"},
         "objective.tau: found 2.0, expected its default, 1.0, with objective.name=copg: disco and mdpo_regression "
         "read "
         "it"},
        {{"objective.name=grpo", "objective.pair_margin=0.5"},
         "objective.pair_margin: found 0.5, expected its default, 0.0, with objective.name=grpo: dpo, orpo and p3o "
         "read it"},
        {{"objective.name=sft", "objective.reference={old: 1}"},
         "objective.reference: found {old: 1.0}, expected its default, {ref: 1.0}, with objective.name=sft: dpo alone "
         "reads it"},
        {{"objective.name=dpo", "objective.advantage_baseline=brpo"},
         "objective.advantage_baseline: found brpo, expected its default, mean, with objective.name=dpo: grpo alone "
         "reads it"},
        {{"objective.name=dpo", "objective.kl_coef_start=0.5"},
         "objective.kl_coef_start: found 0.5, expected 0, or objective.kl_coef_steps above 0: the steps in which it "
         "goes to kl_coef"},
        {{"objective.name=fdpg", "objective.target=constraint", "objective.divergence=reverse_chi2"},
         "objective.divergence: found reverse_chi2, expected js, kl, tv or chi2 with objective.target=constraint"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        stm_options o;
        assert_ok(stm_options_init(&o));
        assert_ok(stm_options_read_arguments(&o, STM_COMMAND_GRAD, cases[i].options[2] ? 3 : 2,
                                             (char *const *)(void *)cases[i].options));
        assert_fails(stm_objective_check_options(&o), STM_ERR_INPUT, cases[i].message);
        stm_options_clear(&o);
    }
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
    assert_fails(
        stm_objective_check_name("gpro"), STM_ERR_INPUT,
        "objective.name: found gpro, expected grpo, disco, copg, mdpo_regression, direct_advantage, dpo, orpo, kto, "
        "self_play, p3o, fdpg or sft; did you mean grpo?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
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
        cmocka_unit_test(what_an_objective_needs_and_a_file_lacks_is_named),
        cmocka_unit_test(what_no_rollout_has_is_refused_before_a_run),
        cmocka_unit_test(what_only_a_file_has_is_refused_for_preferences),
        cmocka_unit_test(options_that_contradict_each_other_are_refused),
        cmocka_unit_test(every_registered_name_is_found_and_no_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
