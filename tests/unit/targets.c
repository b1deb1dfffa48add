/* What f-DPG keeps from step to step, where all answers can be listed: log Z against the sum itself. */
#include "train/targets.h"
#include "objective/objective.h"
#include "support/support.h"

enum { N_ANSWERS = 3, MOST = 4, N_PROMPTS = 5 };

/* Answers of one token: the reference's probabilities, rewards, and two policies of which four samples can have exactly
 * the right shares. */
static const double reference[N_ANSWERS] = {0.2, 0.5, 0.3}, rewards[N_ANSWERS] = {1, -0.5, 0.25};
static const double policies[2][N_ANSWERS] = {{0.5, 0.25, 0.25}, {0.25, 0.25, 0.5}};
static const size_t whole[2][4] = {{0, 0, 1, 2}, {0, 1, 2, 2}};
static const double BETA = 0.5;

static double true_log_z(void)
{
    double z = 0;
    for (size_t y = 0; y < N_ANSWERS; y++)
        z += reference[y] * exp(rewards[y] / BETA);
    return log(z);
}

typedef struct {
    int32_t ids[MOST];
    uint8_t mask[MOST];
    double old[MOST], ref[MOST];
    stm_response responses[MOST];
    stm_group group;
} answers;

/* So many answers, sampled by a policy. */
static void answer(answers *a, size_t policy, size_t n, const size_t *which)
{
    *a = (answers){.group = {.n_responses = n, .temperature = 1}};
    for (size_t i = 0; i < n; i++) {
        a->ids[i] = (int32_t)which[i];
        a->mask[i] = 1;
        a->old[i] = log(policies[policy][which[i]]);
        a->ref[i] = log(reference[which[i]]);
        a->responses[i] = (stm_response){.n = 1,
                                         .ids = &a->ids[i],
                                         .mask = &a->mask[i],
                                         .old_logprobs = &a->old[i],
                                         .ref_logprobs = &a->ref[i],
                                         .reward = rewards[which[i]],
                                         .has_reward = true};
    }
    a->group.responses = a->responses;
}

typedef struct {
    stm_options options;
    stm_targets *targets;
} fixture;

#define SET_UP(f, ...)                                                                                                 \
    set_up(f, (const char *const[]){"objective.name=fdpg", "objective.target_beta=0.5", __VA_ARGS__},                  \
           2 + sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

static void set_up(fixture *f, const char *const *overrides, size_t n)
{
    assert_ok(stm_options_init(&f->options));
    assert_ok(stm_options_read_arguments(&f->options, STM_COMMAND_TRAIN, (int)n, (char *const *)(void *)overrides));
    assert_true(stm_targets_are_needed(&f->options.objective));
    assert_ok(stm_targets_create(&f->options.objective, N_PROMPTS, &f->targets));
}

static void tear_down(fixture *f)
{
    stm_targets_destroy(f->targets);
    stm_options_clear(&f->options);
}

/* Of one group. */
static double take(const fixture *f, size_t prompt, answers *a)
{
    double baseline = 7;
    stm_batch batch = {1, &a->group};
    stm_targets_take(f->targets, &prompt, &batch, &baseline);
    a->group = batch.groups[0];
    return baseline;
}

static void log_z_is_that_of_all_samples_of_a_prompt(void **state)
{
    (void)state;
    fixture f;
    answers a;
    SET_UP(&f, "objective.normaliser=running");
    answer(&a, 0, 2, whole[0]);
    assert_near(take(&f, 3, &a), 7, 0); /* no window */
    assert_true(a.group.has_log_z);
    assert_near(a.group.log_z, log(reference[0] * exp(rewards[0] / BETA) / policies[0][0]), 1e-14);
    answer(&a, 1, 1, whole[1]);
    take(&f, 4, &a); /* another prompt has nothing to do with it */
    answer(&a, 0, 2, whole[0] + 2);
    take(&f, 3, &a);
    assert_near(a.group.log_z, true_log_z(), 1e-14);
    answer(&a, 1, 4, whole[1]); /* the policy has changed, Z has not */
    take(&f, 3, &a);
    assert_near(a.group.log_z, true_log_z(), 1e-14);
    tear_down(&f);
}

/* What it is kept for: the group alone has a third of the answers, and the gradient is that of the true Z. */
static void the_gradient_is_that_of_the_true_sum(void **state)
{
    (void)state;
    static const char *const given[] = {"objective.normaliser=given", "objective.normaliser=group"};
    fixture f;
    answers a;
    double dlogp[3][1] = {{0}};
    SET_UP(&f, "objective.normaliser=running", "objective.divergence=kl");
    answer(&a, 0, 4, whole[0]);
    take(&f, 0, &a);
    answer(&a, 1, 3, whole[1] + 1);
    take(&f, 0, &a);
    answer(&a, 1, 1, whole[1]);
    take(&f, 0, &a);
    const stm_batch batch = {1, &a.group};
    for (size_t i = 0; i < 3; i++) {
        stm_objective_batch view;
        stm_objective_sums sums = {0};
        if (i > 0)
            assert_ok(
                stm_options_read_arguments(&f.options, STM_COMMAND_GRAD, 1, (char *const *)(void *)&given[i - 1]));
        f.options.objective.log_z = true_log_z();
        assert_ok(stm_objective_batch_create(stm_objective_find("fdpg"), &f.options.objective, &batch, &view));
        stm_objective_group(&view, 0, a.old, NULL, dlogp[i], &sums);
        stm_objective_batch_clear(&view);
    }
    assert_near(dlogp[0][0], dlogp[1][0], 1e-13);
    assert_true(fabs(dlogp[0][0] - dlogp[2][0]) > 0.1);
    tear_down(&f);
}

static void two_groups_of_a_prompt_are_told_the_same(void **state)
{
    (void)state;
    fixture f;
    answers a[2];
    double baseline;
    SET_UP(&f, "objective.normaliser=running");
    answer(&a[0], 0, 2, whole[0]);
    answer(&a[1], 0, 2, whole[0] + 2);
    stm_group groups[] = {a[0].group, a[1].group};
    stm_batch batch = {2, groups};
    stm_targets_take(f.targets, (const size_t[]){1, 1}, &batch, &baseline);
    assert_near(groups[0].log_z, true_log_z(), 1e-14);
    assert_true(groups[0].log_z == groups[1].log_z);
    tear_down(&f);
}

static void what_has_no_loss_and_what_meets_no_constraint(void **state)
{
    (void)state;
    fixture f;
    answers a;
    stm_objective_batch view;
    stm_objective_sums sums = {0};
    double dlogp[2] = {0};
    SET_UP(&f, "objective.normaliser=running", "objective.target=constraint", "objective.baseline_window=8");
    answer(&a, 0, 2, (const size_t[]){1, 0});
    a.mask[1] = 0; /* it alone would meet the constraint */
    assert_near(take(&f, 2, &a), 0, 0);
    assert_true(a.group.has_log_z && a.group.log_z == -INFINITY);
    const stm_batch batch = {1, &a.group};
    assert_ok(stm_objective_batch_create(stm_objective_find("fdpg"), &f.options.objective, &batch, &view));
    stm_objective_group(&view, 0, a.old, NULL, dlogp, &sums);
    assert_true(sums.loss == 0 && dlogp[0] == 0 && dlogp[1] == 0);
    stm_objective_batch_clear(&view);
    answer(&a, 0, 3, (const size_t[]){0, 0, 2});
    assert_near(take(&f, 2, &a), 0, 0); /* what had no target left nothing in the window */
    assert_near(a.group.log_z, log(reference[0] + reference[2]), 1e-14);
    tear_down(&f);
}

/* reverse_kl: -f'(e^t) = log (a / policy) - log Z - 1. */
static double reward_of(size_t policy, size_t y, double log_z)
{
    return log(reference[y] / policies[policy][y]) + rewards[y] / BETA - log_z - 1;
}

static void the_baseline_is_the_mean_of_the_latest_before_the_step(void **state)
{
    (void)state;
    fixture f;
    answers a;
    SET_UP(&f, "objective.normaliser=given", "objective.log_z=0.25", "objective.divergence=reverse_kl",
           "objective.baseline_window=3");
    answer(&a, 0, 2, (const size_t[]){0, 1});
    assert_near(take(&f, 0, &a), 0, 0);
    assert_false(a.group.has_log_z);
    answer(&a, 1, 2, (const size_t[]){2, 0});
    assert_near(take(&f, 1, &a), (reward_of(0, 0, 0.25) + reward_of(0, 1, 0.25)) / 2, 1e-14);
    answer(&a, 0, 1, (const size_t[]){1});
    assert_near(take(&f, 1, &a), (reward_of(0, 1, 0.25) + reward_of(1, 2, 0.25) + reward_of(1, 0, 0.25)) / 3, 1e-14);
    assert_near(take(&f, 1, &a), (reward_of(1, 2, 0.25) + reward_of(1, 0, 0.25) + reward_of(0, 1, 0.25)) / 3, 1e-14);
    tear_down(&f);
}

static void it_comes_back_bit_for_bit(void **state)
{
    (void)state;
    fixture f, back, shorter;
    stm_kept kept = {0}, again = {0};
    answers a;
    SET_UP(&f, "objective.normaliser=running", "objective.baseline_window=3");
    assert_ok(stm_targets_save(f.targets, &kept));
    assert_int_equal(kept.n, 0);
    for (size_t i = 0; i < 3; i++) {
        answer(&a, i % 2, 4 - i, whole[i % 2]);
        take(&f, 2 * i, &a);
    }
    SET_UP(&back, "objective.normaliser=running", "objective.baseline_window=3");
    SET_UP(&shorter, "objective.normaliser=group", "objective.baseline_window=1");
    assert_ok(stm_targets_save(f.targets, &kept));
    assert_ok(stm_targets_restore(back.targets, "file", &kept));
    assert_ok(stm_targets_restore(shorter.targets, "file", &kept));
    assert_ok(stm_targets_save(back.targets, &again));
    assert_true(kept.n == again.n && memcmp(kept.bytes, again.bytes, kept.n) == 0);
    answer(&a, 1, 1, whole[1]);
    const double baseline = take(&f, 4, &a), log_z = a.group.log_z;
    assert_true(take(&back, 4, &a) == baseline && a.group.log_z == log_z);
    assert_true(take(&shorter, 4, &a) != baseline);

    stm_targets *other;
    assert_ok(stm_targets_create(&f.options.objective, N_PROMPTS + 1, &other));
    assert_fails(stm_targets_restore(other, "file", &kept), STM_ERR_INPUT,
                 "file: /kept/targets: found those of another set, expected estimates of 6 prompts");
    stm_targets_destroy(other);
    for (size_t n = 1; n < kept.n; n++) { /* cut off: refused, but where it ends with a number of the window */
        const stm_kept cut = {kept.bytes, n, n};
        const size_t window = 16 + 3 * 24;
        assert_ok(stm_targets_create(&f.options.objective, N_PROMPTS, &other));
        if (n >= window && (n - window) % 8 == 0)
            assert_ok(stm_targets_restore(other, "file", &cut));
        else
            assert_fails(stm_targets_restore(other, "file", &cut), STM_ERR_INPUT,
                         "file: /kept/targets: found other bytes, expected estimates of 5 prompts");
        stm_targets_destroy(other);
    }
    free(kept.bytes);
    free(again.bytes);
    tear_down(&f);
    tear_down(&back);
    tear_down(&shorter);
}

static void a_log_z_that_nobody_keeps_is_missed(void **state)
{
    (void)state;
    fixture f;
    answers a;
    stm_objective_batch view;
    SET_UP(&f, "objective.normaliser=running");
    answer(&a, 0, 2, whole[0]);
    const stm_batch batch = {1, &a.group};
    assert_fails(stm_objective_batch_create(stm_objective_find("fdpg"), &f.options.objective, &batch, &view),
                 STM_ERR_INPUT,
                 "group 0, response 0: found no log Z of its group (kept by `stemma train`), which objective fdpg "
                 "needs with these options");
    stm_objective_batch_clear(&view);
    assert_ok(stm_objective_check_recorded(&f.options.objective, &batch));
    f.options.objective.baseline = 0.5;
    f.options.objective.baseline_window = 16;
    assert_fails(stm_objective_check_options(&f.options), STM_ERR_INPUT,
                 "objective.baseline: found 0.5, expected 0 with objective.baseline_window=16");
    tear_down(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(log_z_is_that_of_all_samples_of_a_prompt),
        cmocka_unit_test(the_gradient_is_that_of_the_true_sum),
        cmocka_unit_test(two_groups_of_a_prompt_are_told_the_same),
        cmocka_unit_test(what_has_no_loss_and_what_meets_no_constraint),
        cmocka_unit_test(the_baseline_is_the_mean_of_the_latest_before_the_step),
        cmocka_unit_test(it_comes_back_bit_for_bit),
        cmocka_unit_test(a_log_z_that_nobody_keeps_is_missed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
