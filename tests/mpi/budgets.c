/* Thinking that is cut at budgets, with summaries below the cuts: the same on any layout, and joined as the objective
 * reads it. */
#include "support/rollouts.h"

enum { SIZE = 3, N_BUDGETS = 3, N_SUMMARIES = 2, EACH = N_BUDGETS * N_SUMMARIES };

static const double tokens[N_BUDGETS] = {2, 5, 9};
static int32_t closing[] = {7, 21};

static stm_budgets budgets_of(size_t n_closing)
{
    return (stm_budgets){
        .n = N_BUDGETS, .n_summaries = N_SUMMARIES, .tokens = tokens, .n_closing = n_closing, .closing = closing};
}

/* Every fifth id ends a response. */
static void set_up(rollout_fixture *f, const stm_budgets *budgets)
{
    rollout_set_up(f, STM_TEST_QWEN3, &stm_backend_cpu_f64);
    f->budgets = budgets;
    f->model->config.n_eos = 9;
    for (int i = 0; i < 9; i++)
        f->model->config.eos[i] = 5 * i;
}

static void sample(MPI_Comm comm, const rollout_fixture *f, const char *suffix, bool cramped, stm_batch *batch)
{
    const char *const overrides[] = {"rollout.group_size=3",   "rollout.max_new_tokens=6", suffix,
                                     "memory.chunk_tokens=16", "rollout.slots=3",          "tree.across_groups=false"};
    stm_rollout_counts counts;
    assert_ok(rollout_try(comm, f, overrides, cramped ? 6 : 3, batch, &counts));
    double sampled = 0; /* of thinking and summaries, whose tokens alone have loss */
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++)
            for (size_t k = 0; k < batch->groups[g].responses[i].n; k++)
                sampled += batch->groups[g].responses[i].mask[k];
    assert_near(counts.tokens, sampled, 1e-15);
}

static size_t n_ended, n_closed, n_cut; /* of the cuts that were seen */

static void check_thinking(const stm_response *r, size_t member)
{
    assert_true(r->n > 0 && r->n <= tokens[N_BUDGETS - 1]);
    assert_int_equal(r->notes->member, member);
    for (size_t k = 0; k < r->n; k++) {
        assert_int_equal(r->mask[k], 1);
        assert_int_equal(r->notes->segment[k], k < 2 ? 0 : k < 5 ? 1 : 2);
        assert_int_equal(r->notes->answer[k], -1);
    }
}

/* How many tokens of thinking stand before the summary, and whether the closing text must follow. */
static size_t cut_of(const stm_response *thinking, size_t n_closing, size_t budget, bool *closes)
{
    const int32_t last = thinking->ids[thinking->n - 1];
    const bool ended = last % 5 == 0 && last < 45, closed = n_closing == 1 && last == closing[0];
    *closes = true;
    if (thinking->n <= budget && ended) {
        n_ended++;
        return thinking->n - 1;
    }
    if (thinking->n <= budget && closed) {
        n_closed++;
        *closes = false;
        return thinking->n;
    }
    n_cut++;
    assert_true(thinking->n >= budget);
    return budget;
}

static void check_summary(const stm_response *r, const stm_response *thinking, size_t n_closing, size_t member,
                          size_t a)
{
    bool closes;
    const size_t cut = cut_of(thinking, n_closing, (size_t)tokens[a / N_SUMMARIES], &closes);
    const size_t n_before = cut + (closes ? n_closing : 0);
    assert_true(r->n > n_before && r->n <= n_before + 6);
    assert_memory_equal(r->ids, thinking->ids, cut * sizeof *r->ids);
    assert_memory_equal(r->ids + cut, closing, (n_before - cut) * sizeof *r->ids);
    assert_int_equal(r->notes->member, member);
    assert_near(r->reward, (double)(r->n - n_before) * 100 + r->ids[n_before], 1e-15);
    for (size_t k = 0; k < r->n; k++) {
        assert_int_equal(r->mask[k], k >= n_before);
        assert_int_equal(r->notes->segment[k], -1);
        assert_int_equal(r->notes->answer[k], k >= n_before ? (int)a : -1);
    }
}

static void check_joined(const stm_batch *batch, size_t n_closing)
{
    for (size_t g = 0; g < batch->n_groups; g++) {
        const stm_group *group = &batch->groups[g];
        assert_int_equal(group->n_members, SIZE);
        assert_int_equal(group->n_budgets, N_BUDGETS);
        assert_int_equal(group->n_summaries, N_SUMMARIES);
        assert_int_equal(group->n_responses, SIZE * (1 + EACH));
        for (size_t i = 0; i < SIZE; i++) {
            const stm_response *thinking = &group->responses[i * (1 + EACH)];
            double sum = 0;
            check_thinking(thinking, i);
            for (size_t a = 0; a < EACH; a++) {
                check_summary(&thinking[1 + a], thinking, n_closing, i, a);
                assert_near(group->scores[i * EACH + a], thinking[1 + a].reward, 1e-15);
                sum += thinking[1 + a].reward;
            }
            assert_true(thinking->has_reward);
            assert_near(thinking->reward, sum / EACH, 1e-12);
        }
    }
}

static void summaries_stand_below_cuts_of_thinking_on_any_layout(void **state)
{
    (void)state;
    int n_ranks;
    char suffix[32];
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    for (size_t n_closing = 1; n_closing <= 2; n_closing++) {
        const stm_budgets budgets = budgets_of(n_closing);
        rollout_fixture f;
        stm_batch alone, together;
        set_up(&f, &budgets);
        sample(MPI_COMM_SELF, &f, "parallel.suffix=1", false, &alone);
        check_joined(&alone, n_closing);
        for (int size = 1; size <= n_ranks; size++) {
            snprintf(suffix, sizeof suffix, "parallel.suffix=%d", size);
            sample(MPI_COMM_WORLD, &f, suffix, size % 2 == 0, &together);
            rollout_assert_same(&alone, &together);
            check_joined(&together, n_closing);
            stm_batch_clear(&together);
        }
        rollout_compare_with_scores(&f, &alone, 1e-10);
        stm_batch_clear(&alone);
        rollout_tear_down(&f);
    }
    assert_true(n_ended > 0 && n_closed > 0 && n_cut > 0);
}

/* Each summary has its own random numbers, and none of thinking's. */
static void no_two_rollouts_draw_the_same_numbers(void **state)
{
    (void)state;
    const stm_budgets budgets = budgets_of(2);
    rollout_fixture f;
    stm_batch batch;
    size_t n_equal = 0, n = 0;
    set_up(&f, &budgets);
    sample(MPI_COMM_WORLD, &f, "parallel.suffix=1", false, &batch);
    for (size_t g = 0; g < batch.n_groups; g++)
        for (size_t i = 0; i < SIZE; i++)
            for (size_t s = 0; s < N_BUDGETS; s++, n++) {
                const stm_response *a = &batch.groups[g].responses[i * (1 + EACH) + 1 + s * N_SUMMARIES], *b = a + 1;
                n_equal += a->n == b->n && memcmp(a->ids, b->ids, a->n * sizeof *a->ids) == 0;
            }
    assert_true(n_equal < n / 3);
    stm_batch_clear(&batch);
    rollout_tear_down(&f);
}

/* A gradient of trees, in which thinking is computed once, is that of sequences one by one. */
static void the_gradient_is_that_of_repeated_sequences(void **state)
{
    (void)state;
    static const char *const brpo[] = {"objective.advantage_baseline=brpo",
                                       "objective.aggregate=fixed-length",
                                       "objective.max_tokens=9",
                                       "objective.budget_probs=[0.2, 0.3, 0.5]",
                                       "objective.kl_coef=0",
                                       "--forward=repeated",
                                       "tree.min_shared_tokens=1"};
    const stm_budgets budgets = budgets_of(2);
    rollout_fixture f;
    stm_batch batch;
    stm_test_result repeated, tree;
    stm_options options;
    set_up(&f, &budgets);
    sample(MPI_COMM_SELF, &f, "parallel.suffix=1", false, &batch);
    stm_test_options(&options, brpo, 6);
    stm_test_gradient(MPI_COMM_SELF, f.model, &batch, &options, &repeated);
    stm_options_clear(&options);
    stm_test_options(&options, brpo, 7);
    options.forward = STM_FORWARD_TREE;
    stm_test_gradient(MPI_COMM_WORLD, f.model, &batch, &options, &tree);
    assert_true(repeated.loss != 0);
    assert_near(tree.loss, repeated.loss, 1e-12);
    assert_true(stm_test_gradient_difference(f.model, tree.gradient, repeated.gradient) < 1e-12);
    stm_options_clear(&options);
    stm_test_result_clear(&repeated);
    stm_test_result_clear(&tree);
    stm_batch_clear(&batch);
    rollout_tear_down(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(summaries_stand_below_cuts_of_thinking_on_any_layout),
        cmocka_unit_test(no_two_rollouts_draw_the_same_numbers),
        cmocka_unit_test(the_gradient_is_that_of_repeated_sequences),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
