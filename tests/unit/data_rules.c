/* Rules that choose what is learnt from, as pure functions: responses with hardly any advantage. */
#include "objective/objective.h"
#include "support/batch.h"
#include "support/support.h"

enum { SIZE = 4, LENGTH = 3 };

typedef struct {
    stm_options options;
    stm_group group;
    stm_response responses[SIZE];
    int32_t ids[LENGTH];
    uint8_t masks[SIZE][LENGTH];
    stm_batch batch;
} fixture;

static void set_up(fixture *f, const double *rewards, size_t n, const char *const *overrides)
{
    *f = (fixture){.ids = {1, 2, 3}};
    stm_test_options(&f->options, overrides, n);
    for (size_t i = 0; i < SIZE; i++) {
        memset(f->masks[i], 1, LENGTH);
        f->responses[i] =
            (stm_response){.n = LENGTH, .ids = f->ids, .mask = f->masks[i], .reward = rewards[i], .has_reward = true};
    }
    f->group = (stm_group){.n_responses = SIZE, .responses = f->responses, .temperature = 1};
    f->batch = (stm_batch){.n_groups = 1, .groups = &f->group};
}

#define SET_UP(f, rewards, ...)                                                                                        \
    set_up(f, rewards, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *), (const char *const[]){__VA_ARGS__})

static stm_status drop(fixture *f, size_t *n)
{
    const stm_objective_options *o = &f->options.objective;
    return stm_objective_drop(stm_objective_find(o->name), o, &f->batch, n);
}

/* Leave-one-out advantages of 1, 0, 0.504, 0.5: 4/3 of the distance from the mean, 0.501. */
static void responses_with_hardly_any_advantage_have_no_loss(void **state)
{
    (void)state;
    const double rewards[SIZE] = {1, 0, 0.504, 0.5};
    fixture f;
    size_t n;
    stm_objective_batch before, after;
    SET_UP(&f, rewards, "objective.kl_coef=0", "objective.advantage_baseline=leave-one-out",
           "objective.advantage_scale=none", "objective.min_advantage=0.003");
    assert_ok(stm_objective_batch_create(stm_objective_find("grpo"), &f.options.objective, &f.batch, &before));
    assert_true(fabs(before.advantages[2]) > 0.003 && fabs(before.advantages[3]) < 0.003);
    assert_ok(drop(&f, &n));
    assert_int_equal(n, 1);
    for (size_t i = 0; i < SIZE; i++)
        for (size_t k = 0; k < LENGTH; k++)
            assert_int_equal(f.masks[i][k], i != 3);
    assert_ok(stm_objective_batch_create(stm_objective_find("grpo"), &f.options.objective, &f.batch, &after));
    assert_memory_equal(after.advantages, before.advantages, SIZE * sizeof(double)); /* the others keep theirs */
    assert_int_equal(after.totals.n_responses, SIZE);
    assert_int_equal(after.totals.n_tokens, (SIZE - 1) * LENGTH);
    assert_ok(drop(&f, &n));
    assert_int_equal(n, 0); /* it is gone already */
    stm_objective_batch_clear(&before);
    stm_objective_batch_clear(&after);
    stm_options_clear(&f.options);
}

static void without_the_option_nothing_is_dropped(void **state)
{
    (void)state;
    const double rewards[SIZE] = {1, 1, 1, 1};
    fixture f;
    size_t n;
    SET_UP(&f, rewards, "objective.kl_coef=0");
    assert_ok(drop(&f, &n));
    assert_int_equal(n, 0);
    assert_int_equal(f.masks[0][0], 1);
    stm_options_clear(&f.options);
}

static void advantages_that_tokens_take_part_in_are_refused(void **state)
{
    (void)state;
    const struct {
        const char *option, *message;
    } cases[] = {{"objective.advantage_scale=whiten", "objective.advantage_scale=whiten, expected 0"},
                 {"objective.seed_alpha=0.1", "objective.seed_alpha, expected 0"},
                 {"objective.name=dpo", "objective.name=dpo, expected 0: it has no advantages"}};
    const double rewards[SIZE] = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f;
        SET_UP(&f, rewards, "objective.min_advantage=0.01", cases[i].option);
        assert_int_equal(stm_objective_check_options(&f.options.objective), STM_ERR_INPUT);
        if (!strstr(stm_failure(), cases[i].message))
            fail_msg("%s", stm_failure());
        stm_options_clear(&f.options);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(responses_with_hardly_any_advantage_have_no_loss),
        cmocka_unit_test(without_the_option_nothing_is_dropped),
        cmocka_unit_test(advantages_that_tokens_take_part_in_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
