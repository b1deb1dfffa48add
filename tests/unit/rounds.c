/* Dynamic sampling: which groups give their places up, and to which. */
#include "train/rounds.h"
#include "support/support.h"

enum { SIZE = 2, N_REWARDS = 3 };

/* A group of two responses for each pair of rewards; prompts are numbered from `first` on, and everything that belongs
 * to a response says whose it is. */
static void make(size_t n, const double (*rewards)[SIZE], size_t first, stm_round *round)
{
    *round = (stm_round){.n = n, .batch.n_groups = n, .verdicts = {.n = n * SIZE, .n_rewards = N_REWARDS}};
    assert_ok(stm_alloc(n, sizeof *round->which, &round->which));
    assert_ok(stm_alloc(n, sizeof *round->batch.groups, &round->batch.groups));
    assert_ok(stm_alloc(n * SIZE, sizeof(double), &round->verdicts.total));
    assert_ok(stm_alloc(n * SIZE * N_REWARDS, sizeof(double), &round->verdicts.parts));
    assert_ok(stm_alloc(n * SIZE, sizeof(char *), &round->verdicts.texts));
    for (size_t g = 0; g < n; g++) {
        stm_group *group = &round->batch.groups[g];
        round->which[g] = first + g;
        assert_ok(stm_alloc(SIZE, sizeof *group->responses, &group->responses));
        group->n_responses = SIZE;
        for (size_t i = 0; i < SIZE; i++) {
            const size_t r = g * SIZE + i;
            group->responses[i] = (stm_response){.reward = rewards[g][i], .has_reward = isfinite(rewards[g][i])};
            round->verdicts.total[r] = rewards[g][i];
            for (size_t k = 0; k < N_REWARDS; k++)
                round->verdicts.parts[r * N_REWARDS + k] = (double)(100 * (first + g) + 10 * i + k);
            assert_ok(stm_format(&round->verdicts.texts[r], "%zu.%zu", first + g, i));
        }
    }
}

/* Prompt `which` stands at g, with all that belongs to it. */
static void assert_place(const stm_round *round, size_t g, size_t which, double a, double b)
{
    const double rewards[SIZE] = {a, b};
    assert_int_equal(round->which[g], which);
    for (size_t i = 0; i < SIZE; i++) {
        const size_t r = g * SIZE + i;
        char text[32];
        snprintf(text, sizeof text, "%zu.%zu", which, i);
        assert_string_equal(round->verdicts.texts[r], text);
        if (isfinite(rewards[i])) {
            assert_near(round->batch.groups[g].responses[i].reward, rewards[i], 0);
            assert_near(round->verdicts.total[r], rewards[i], 0);
        }
        for (size_t k = 0; k < N_REWARDS; k++)
            assert_near(round->verdicts.parts[r * N_REWARDS + k], (double)(100 * which + 10 * i + k), 0);
    }
}

static void equal_groups_give_their_places_to_others_in_order(void **state)
{
    (void)state;
    static const double kept_rewards[][SIZE] = {{1, 1}, {0, 1}, {0, 0}, {NAN, 0}, {1, 1}};
    static const double more_rewards[][SIZE] = {{0, 0}, {0.5, 1}, {NAN, 1}, {1, 0}};
    stm_round kept, more;
    make(5, kept_rewards, 10, &kept);
    make(4, more_rewards, 20, &more);
    assert_int_equal(stm_round_n_idle(&kept), 3); /* the failed one is none of them */
    stm_round_replace(&kept, &more);
    assert_place(&kept, 0, 21, 0.5, 1);
    assert_place(&kept, 1, 11, 0, 1);
    assert_place(&kept, 2, 23, 1, 0);
    assert_place(&kept, 3, 13, NAN, 0);
    assert_place(&kept, 4, 14, 1, 1); /* nobody was left for it */
    assert_place(&more, 1, 10, 1, 1);
    assert_int_equal(stm_round_n_idle(&kept), 1);
    stm_round_clear(&kept);
    stm_round_clear(&more);
}

static void a_step_with_nothing_equal_keeps_its_groups(void **state)
{
    (void)state;
    static const double rewards[][SIZE] = {{1, 0}, {0, 1}};
    stm_round kept, more;
    make(2, rewards, 0, &kept);
    make(2, rewards, 5, &more);
    assert_int_equal(stm_round_n_idle(&kept), 0);
    stm_round_replace(&kept, &more);
    assert_place(&kept, 0, 0, 1, 0);
    assert_place(&kept, 1, 1, 0, 1);
    stm_round_clear(&kept);
    stm_round_clear(&more);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_groups_give_their_places_to_others_in_order),
        cmocka_unit_test(a_step_with_nothing_equal_keeps_its_groups),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
