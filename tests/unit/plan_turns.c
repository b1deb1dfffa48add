/* What a plan takes a step to sample, turn by turn: as many tokens as a run samples, below what a run has sampled. */
#include "plan/turns.h"

#include "config/options.h"
#include "support/support.h"

enum { GROUPS = 3, SIZE = 4, PROMPT = 11, ANSWER = 6, MOST = 9 };

static const stm_workload workload = {.n_groups = GROUPS,
                                      .group_size = SIZE,
                                      .n_prompt = PROMPT,
                                      .n_answer = ANSWER,
                                      .most_answer = MOST,
                                      .spread = 0.4,
                                      .seed = 5};

static void draw(const char *const *words, size_t n, const stm_budgets *budgets, stm_options *o, stm_plan_turns *t)
{
    assert_ok(stm_options_init(o));
    assert_ok(stm_options_read_arguments(o, STM_COMMAND_PLAN, (int)n, (char *const *)(void *)words));
    assert_ok(stm_plan_turns_draw(o, &workload, NULL, budgets, false, t));
}

#define DRAW(o, t, budgets, ...)                                                                                       \
    draw((const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *), budgets, o, t)

static void done(stm_options *o, stm_plan_turns *t)
{
    stm_plan_turns_clear(t);
    stm_options_clear(o);
}

static size_t n_sampled(const stm_batch *batch)
{
    size_t n = 0;
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++)
            n += batch->groups[g].responses[i].n;
    return n;
}

static size_t n_in_turns(const stm_plan_turns *t)
{
    size_t n = 0;
    for (size_t k = 0; k < t->n; k++)
        n += n_sampled(&t->items[k].batch);
    return n;
}

static size_t n_with_loss(const stm_batch *batch)
{
    size_t n = 0;
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++)
            for (size_t k = 0; k < batch->groups[g].responses[i].n; k++)
                n += batch->groups[g].responses[i].mask[k] != 0;
    return n;
}

static void assert_begins(const stm_group *group, const stm_group *with)
{
    assert_true(group->n_prompt >= with->n_prompt);
    assert_memory_equal(group->prompt, with->prompt, with->n_prompt * sizeof *with->prompt);
}

static void a_response_of_one_turn_is_sampled_below_its_prompt(void **state)
{
    (void)state;
    stm_options o;
    stm_plan_turns t;
    DRAW(&o, &t, NULL, "rollout.max_new_tokens=9");
    assert_int_equal(t.n, 1);
    assert_false(t.items[0].further);
    assert_int_equal(t.items[0].most, MOST);
    assert_int_equal(t.items[0].batch.n_groups, GROUPS);
    assert_int_equal(n_in_turns(&t), n_with_loss(&t.batch));
    for (size_t g = 0; g < GROUPS; g++)
        for (size_t i = 0; i < SIZE; i++)
            assert_int_equal(t.items[0].batch.groups[g].responses[i].n, t.batch.groups[g].responses[i].n);
    done(&o, &t);
}

/* Those of each cut that training makes, below thinking of the budgets' lengths; all of it is learnt. */
static void summaries_are_sampled_below_the_cuts_of_thinking(void **state)
{
    (void)state;
    static const double tokens[] = {8, 24};
    int32_t closing[] = {1, 2, 3};
    const stm_budgets budgets = {.n = 2, .n_summaries = 5, .tokens = tokens, .n_closing = 3, .closing = closing};
    stm_options o;
    stm_plan_turns t;
    DRAW(&o, &t, &budgets, "rollout.budgets=[8, 24]", "rollout.summaries=5");
    assert_int_equal(t.n, 2);
    assert_int_equal(t.items[0].most, 24);
    assert_int_equal(t.items[1].most, MOST);
    assert_true(t.items[1].further);
    const stm_batch *thinking = &t.items[0].batch, *cuts = &t.items[1].batch;
    const double mean = (double)n_sampled(thinking) / (GROUPS * SIZE);
    assert_true(mean > 12 && mean < 20); /* 24 * ANSWER / MOST, less what the budget cuts off */
    assert_int_equal(cuts->n_groups, GROUPS * SIZE * 2);
    for (size_t c = 0; c < cuts->n_groups; c++) {
        const stm_group *group = &thinking->groups[c / (2 * SIZE)];
        const stm_response *r = &group->responses[c / 2 % SIZE];
        const size_t cut = cuts->groups[c].n_prompt - PROMPT;
        assert_begins(&cuts->groups[c], group);
        assert_true(cut >= STM_MIN(r->n, c % 2 ? (size_t)24 : (size_t)8) && cut <= r->n + 3);
        assert_int_equal(cuts->groups[c].n_responses, 5);
    }
    assert_int_equal(t.batch.groups[0].n_responses, SIZE * (1 + 2 * 5));
    assert_int_equal(n_in_turns(&t), n_with_loss(&t.batch));
    done(&o, &t);
}

static void conversations_go_on_turn_by_turn_below_what_was_said(void **state)
{
    (void)state;
    stm_options o;
    stm_plan_turns t;
    DRAW(&o, &t, NULL, "rollout.environment=cat", "rollout.max_turns=5", "--turns=3", "--reply-tokens=7",
         "rollout.max_environment_tokens=20");
    assert_int_equal(t.n, 3);
    assert_int_equal(n_in_turns(&t), n_with_loss(&t.batch));
    assert_int_equal(n_sampled(&t.batch), n_in_turns(&t) + GROUPS * SIZE * 7);
    size_t before[GROUPS * SIZE];
    for (size_t k = 0; k < 3; k++) {
        const stm_batch *batch = &t.items[k].batch;
        assert_int_equal(t.items[k].further, k > 0);
        assert_int_equal(batch->n_groups, k == 0 ? GROUPS : GROUPS * SIZE);
        for (size_t c = 0; c < GROUPS * SIZE; c++) {
            const stm_group *own = &t.batch.groups[c / SIZE];
            const stm_response *whole = &own->responses[c % SIZE];
            const stm_group *group = &batch->groups[k == 0 ? c / SIZE : c];
            const stm_response *r = &group->responses[k == 0 ? c % SIZE : 0];
            const size_t first = group->n_prompt - PROMPT;
            assert_begins(group, own);
            assert_memory_equal(group->prompt + PROMPT, whole->ids, first * sizeof *whole->ids);
            assert_true(k == 0 ? first == 0 : first == before[c] + (k == 1 ? 3 : 4)); /* of 7 tokens, 3 and 4 */
            for (size_t i = 0; i < r->n; i++)
                assert_int_equal(whole->mask[first + i], 1);
            before[c] = first + r->n;
        }
    }
    done(&o, &t);
    DRAW(&o, &t, NULL, "rollout.environment=cat", "rollout.max_turns=5", "rollout.max_environment_tokens=20");
    assert_int_equal(t.n, 3);
    assert_int_equal(n_sampled(&t.batch), n_in_turns(&t) + GROUPS * SIZE * 10);
    done(&o, &t);
}

/* A group is sampled one response short, and each of these once more. */
static void answers_are_given_again_below_their_critiques(void **state)
{
    (void)state;
    stm_options o;
    stm_plan_turns t;
    DRAW(&o, &t, NULL, "rollout.refine=true");
    assert_int_equal(t.n, 2);
    assert_int_equal(t.items[1].batch.n_groups, GROUPS * (SIZE - 1));
    assert_int_equal(t.batch.groups[0].n_responses, SIZE);
    for (size_t c = 0; c < GROUPS * (SIZE - 1); c++) {
        const stm_group *first = &t.items[0].batch.groups[c / (SIZE - 1)], *again = &t.items[1].batch.groups[c];
        const stm_response *r = &first->responses[c % (SIZE - 1)];
        assert_int_equal(first->n_responses, SIZE - 1);
        assert_begins(again, first);
        assert_memory_equal(again->prompt + PROMPT, r->ids, r->n * sizeof *r->ids);
        assert_true(again->n_prompt > PROMPT + r->n);
        assert_int_equal(again->n_responses, 1);
    }
    done(&o, &t);
}

static void the_reference_samples_its_share_of_each_group(void **state)
{
    (void)state;
    stm_options o;
    stm_plan_turns t;
    DRAW(&o, &t, NULL, "reference.samples=1");
    assert_int_equal(t.n, 2);
    for (size_t g = 0; g < GROUPS; g++) {
        assert_int_equal(t.items[0].batch.groups[g].n_responses, SIZE - 1);
        assert_int_equal(t.items[1].batch.groups[g].n_responses, 1);
        assert_int_equal(t.items[1].batch.groups[g].responses[0].n, t.batch.groups[g].responses[SIZE - 1].n);
    }
    assert_int_equal(n_in_turns(&t), n_with_loss(&t.batch));
    assert_true(t.items[0].n_models == 1 && t.items[1].n_models == 1);
    done(&o, &t);
    DRAW(&o, &t, NULL, "reference.samples=1", "reference.mixture=0.5");
    assert_true(t.items[0].n_models == 1 && t.items[1].n_models == 2);
    done(&o, &t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_response_of_one_turn_is_sampled_below_its_prompt),
        cmocka_unit_test(summaries_are_sampled_below_the_cuts_of_thinking),
        cmocka_unit_test(conversations_go_on_turn_by_turn_below_what_was_said),
        cmocka_unit_test(answers_are_given_again_below_their_critiques),
        cmocka_unit_test(the_reference_samples_its_share_of_each_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
