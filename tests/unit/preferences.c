/* Pairs, win rates and whole responses, where recorded vectors do not reach: draws, oracles made of rewards, numbers
 * held at a bound, what is missing. */
#include "objective/objective.h"
#include "support/support.h"

enum { MOST = 4, LENGTH = 3 };

/* A group of responses of LENGTH tokens, log-probs that differ, one id each. */
typedef struct {
    stm_response responses[MOST];
    int32_t ids[MOST][LENGTH];
    uint8_t mask[MOST][LENGTH];
    double logp[MOST * LENGTH], old[MOST][LENGTH], ref[MOST][LENGTH];
    stm_group group;
    stm_batch batch;
    stm_options options;
    stm_objective_batch view;
    double dlogp[MOST * LENGTH];
    stm_objective_sums sums;
} fixture;

static void init(fixture *f, size_t n, const double *rewards)
{
    *f = (fixture){.group = {.n_responses = n, .temperature = 1}};
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < LENGTH; k++) {
            f->ids[i][k] = (int32_t)(7 * i + k);
            f->mask[i][k] = 1;
            f->logp[i * LENGTH + k] = f->old[i][k] = -0.5 - 0.1 * (double)((3 * i + k) % 5);
            f->ref[i][k] = f->old[i][k] - 0.1 * (double)k;
        }
        f->responses[i] = (stm_response){.n = LENGTH,
                                         .ids = f->ids[i],
                                         .mask = f->mask[i],
                                         .old_logprobs = f->old[i],
                                         .ref_logprobs = f->ref[i],
                                         .reward = rewards[i],
                                         .has_reward = true};
    }
    assert_ok(stm_options_init(&f->options));
}

static stm_status prepare(fixture *f, const char *const *overrides, size_t n)
{
    f->group.responses = f->responses;
    f->batch = (stm_batch){1, &f->group};
    assert_ok(stm_options_read_arguments(&f->options, STM_COMMAND_GRAD, (int)n, (char *const *)(void *)overrides));
    return stm_objective_batch_create(stm_objective_find(f->options.objective.name), &f->options.objective, &f->batch,
                                      &f->view);
}

static void done(fixture *f)
{
    stm_objective_batch_clear(&f->view);
    stm_options_clear(&f->options);
}

#define PREPARE(f, ...)                                                                                                \
    prepare(f, (const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

static void evaluate(fixture *f)
{
    f->sums = (stm_objective_sums){0};
    memset(f->dlogp, 0, sizeof f->dlogp);
    stm_objective_group(&f->view, 0, f->logp, NULL, f->dlogp, &f->sums);
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static void rewards_can_stand_for_an_oracle(void **state)
{
    (void)state;
    fixture f;
    init(&f, 3, (const double[]){1, 0, 0.25});
    assert_ok(PREPARE(&f, "objective.name=self_play", "objective.oracle=reward", "objective.label_scale=2"));
    assert_near(f.view.advantages[0], (sigmoid(2) + sigmoid(1.5)) / 2 - 0.5, 1e-14);
    assert_near(f.view.advantages[1], (sigmoid(-2) + sigmoid(-0.5)) / 2 - 0.5, 1e-14);
    done(&f);
    init(&f, 1, (const double[]){1});
    assert_ok(PREPARE(&f, "objective.name=self_play", "objective.oracle=reward"));
    assert_true(f.view.advantages[0] == 0); /* no opponent: 1/2 */
    done(&f);
}

/* SPO: the win rate is a reward like another. */
static void a_policy_gradient_takes_win_rates_for_rewards(void **state)
{
    (void)state;
    double preferences[] = {0.5, 0.8, 0.2, 0.5};
    fixture f;
    init(&f, 2, (const double[]){0, 0});
    f.group.preferences = preferences;
    assert_ok(PREPARE(&f, "objective.name=grpo", "objective.score=win_rate", "objective.advantage_scale=none",
                      "objective.skip_equal_groups=true"));
    assert_near(f.view.advantages[0], 0.3, 1e-14);
    assert_near(f.view.advantages[1], -0.3, 1e-14);
    assert_false(stm_objective_skips_equal(f.view.objective, &f.options.objective)); /* rewards are, win rates not */
    done(&f);
}

/* RSO: the worse of two stays with probability 1/e: 368 of 1000 pairs, deviation 15. */
static void a_filter_keeps_responses_with_their_probability(void **state)
{
    (void)state;
    size_t n = 0, again = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int trial = 0; trial < 1000; trial++) {
            fixture f;
            init(&f, 2, (const double[]){1, 0.5});
            f.ids[0][0] = f.ids[1][1] = 1000 + trial;
            assert_ok(PREPARE(&f, "objective.name=dpo", "objective.pairing=all", "objective.pair_filter=0.5"));
            *(pass ? &again : &n) += f.view.totals.n_pairs;
            done(&f);
        }
    assert_true(n > 320 && n < 416);
    assert_int_equal(n, again);
}

/* Nothing clipped, samples of the policy, every pair: leave-one-out REINFORCE. */
static void unclipped_p3o_is_reinforce_with_a_leave_one_out_baseline(void **state)
{
    (void)state;
    static const double rewards[] = {1, 0, 0.25, -0.5};
    static const char *const variants[] = {"objective.variant=separate", "objective.variant=joint"};
    for (int v = 0; v < 2; v++) {
        fixture f;
        init(&f, 4, rewards);
        assert_ok(PREPARE(&f, "objective.name=p3o", variants[v]));
        evaluate(&f);
        for (size_t i = 0; i < 4; i++) {
            const double others = (0.75 - rewards[i]) / 3;
            for (size_t k = 0; k < LENGTH; k++)
                assert_near(f.dlogp[i * LENGTH + k], -(rewards[i] - others) / 4, 1e-14);
        }
        assert_true(f.sums.n_sides == (v ? 6 : 12) && f.sums.n_sides_clipped == 0);
        done(&f);
    }
}

static void check_finite(const fixture *f)
{
    assert_true(isfinite(f->sums.loss));
    for (size_t k = 0; k < f->view.n_tokens; k++)
        assert_true(isfinite(f->dlogp[k]));
}

static void what_would_overflow_is_held_and_counted(void **state)
{
    (void)state;
    fixture f;
    init(&f, 2, (const double[]){1, 0});
    for (size_t k = 0; k < LENGTH; k++)
        f.logp[k] = 0; /* certain: odds without limit */
    assert_ok(PREPARE(&f, "objective.name=orpo"));
    evaluate(&f);
    check_finite(&f);
    assert_true(f.sums.n_clamped == 1 && f.dlogp[0] == 0 && f.dlogp[LENGTH] > 0);
    done(&f);

    init(&f, 2, (const double[]){1, 0});
    f.old[0][0] = -400; /* ratio e^399 */
    assert_ok(PREPARE(&f, "objective.name=p3o"));
    evaluate(&f);
    check_finite(&f);
    assert_true(f.sums.n_clamped == 1);
    done(&f);

    init(&f, 2, (const double[]){1, 0});
    f.ref[0][0] = 800; /* t of -800: e^800 */
    assert_ok(PREPARE(&f, "objective.name=fdpg", "objective.divergence=kl", "objective.normaliser=given"));
    evaluate(&f);
    check_finite(&f);
    assert_true(f.sums.n_clamped == 1);
    done(&f);
}

static void statistics_tell_how_the_policy_orders_pairs(void **state)
{
    (void)state;
    fixture f;
    init(&f, 3, (const double[]){1, 0, 0.5});
    f.ref[0][0] -= 1; /* the best has the largest h: 0.3 + 1 */
    assert_ok(PREPARE(&f, "objective.name=dpo", "objective.pairing=all"));
    evaluate(&f);
    assert_true(f.sums.n_pairs == 3 && f.sums.n_samples == 3);
    assert_near(f.sums.h_winners, 1.3 + 1.3 + 0.3, 1e-12);
    assert_near(f.sums.h_losers, 0.3 * 3, 1e-12);
    assert_near(f.sums.h_samples, 1.3 + 0.3 * 2, 1e-12);
    assert_near(f.sums.rho * f.sums.rho / f.sums.rho_squares, 3, 1e-12);
    const double p = exp(1) / (exp(1) + 2), q = 1 / (exp(1) + 2);
    assert_near(f.sums.spread, -p * log(p) - 2 * q * log(q), 1e-12);
    assert_true(f.sums.n_spread == 1);
    done(&f);
    init(&f, 2, (const double[]){1, 0});
    f.ref[1][0] -= 1;
    assert_ok(PREPARE(&f, "objective.name=dpo"));
    evaluate(&f);
    assert_true(f.sums.n_pairs == 1 && f.sums.n_pairs_right == 0);
    done(&f);
}

static void what_is_missing_is_named(void **state)
{
    (void)state;
    fixture f;
    init(&f, 2, (const double[]){1, 0});
    assert_fails(PREPARE(&f, "objective.name=dpo", "objective.chase_coef=1"), STM_ERR_INPUT,
                 "group 0, response 0: found no twin_logprobs, which objective dpo needs with these options");
    done(&f);
    init(&f, 2, (const double[]){1, 0});
    assert_fails(PREPARE(&f, "objective.name=dpo", "objective.reference={target: 1}"), STM_ERR_INPUT,
                 "group 0, response 0: found no target_logprobs, which objective dpo needs with these options");
    done(&f);
    init(&f, 2, (const double[]){1, 0});
    assert_fails(PREPARE(&f, "objective.name=dpo", "objective.label=oracle"), STM_ERR_INPUT,
                 "group 0, response 0: found no preferences, which objective dpo needs with these options");
    done(&f);
    init(&f, 2, (const double[]){1, 0});
    f.responses[1].old_logprobs = NULL;
    assert_fails(PREPARE(&f, "objective.name=fdpg"), STM_ERR_INPUT,
                 "group 0, response 1: found no old_logprobs, which objective fdpg needs with these options");
    done(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rewards_can_stand_for_an_oracle),
        cmocka_unit_test(a_policy_gradient_takes_win_rates_for_rewards),
        cmocka_unit_test(a_filter_keeps_responses_with_their_probability),
        cmocka_unit_test(unclipped_p3o_is_reinforce_with_a_leave_one_out_baseline),
        cmocka_unit_test(what_would_overflow_is_held_and_counted),
        cmocka_unit_test(statistics_tell_how_the_policy_orders_pairs),
        cmocka_unit_test(what_is_missing_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
