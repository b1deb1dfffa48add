/* Rollouts at any number of ranks: the same tokens whoever draws them, and log-probs that scoring finds again. */
#include "rollout/rollout.h"

#include "rollout/shares.h"
#include "support/rollouts.h"

/* MPI's profiling interface: with `strict`, a send is through only when its receive has begun: MPI buffers nothing. */
static bool strict;

int MPI_Isend(const void *buffer, int n, MPI_Datatype type, int to, int tag, MPI_Comm comm, MPI_Request *request)
{
    return strict ? PMPI_Issend(buffer, n, type, to, tag, comm, request)
                  : PMPI_Isend(buffer, n, type, to, tag, comm, request);
}

static void sample(MPI_Comm comm, const rollout_fixture *f, const char *const *overrides, size_t n, stm_batch *batch)
{
    assert_ok(rollout_try(comm, f, overrides, n, batch, NULL));
}

#define SAMPLE(comm, f, batch, ...)                                                                                    \
    sample(comm, f, (const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *),   \
           batch)

static void tokens_do_not_depend_on_ranks_slots_or_memory(void **state)
{
    (void)state;
    for (stm_test_config config = 0; config < STM_TEST_N_CONFIGS; config++) {
        rollout_fixture f;
        stm_batch alone, together;
        rollout_set_up(&f, config, &stm_backend_cpu_f64);
        SAMPLE(MPI_COMM_SELF, &f, &alone, "rollout.group_size=7", "rollout.max_new_tokens=19", "rollout.top_k=40");
        SAMPLE(MPI_COMM_WORLD, &f, &together, "rollout.group_size=7", "rollout.max_new_tokens=19", "rollout.top_k=40");
        rollout_assert_same(&alone, &together);
        stm_batch_clear(&together);
        SAMPLE(MPI_COMM_WORLD, &f, &together, "rollout.group_size=7", "rollout.max_new_tokens=19", "rollout.top_k=40",
               "rollout.slots=3", "memory.chunk_tokens=16", "tree.min_shared_tokens=2", "tree.across_groups=false");
        rollout_assert_same(&alone, &together);
        stm_batch_clear(&together);
        stm_batch_clear(&alone);
        rollout_tear_down(&f);
    }
}

static void groups_may_be_sampled_in_several_rounds(void **state)
{
    (void)state;
    rollout_fixture f;
    stm_batch whole, rest;
    rollout_set_up(&f, STM_TEST_QWEN3, &stm_backend_cpu_f64);
    SAMPLE(MPI_COMM_SELF, &f, &whole, "rollout.group_size=3", "rollout.max_new_tokens=9");
    f.n_before = 2;
    SAMPLE(MPI_COMM_WORLD, &f, &rest, "rollout.group_size=3", "rollout.max_new_tokens=9");
    const stm_batch tail = {.n_groups = whole.n_groups - 2, .groups = whole.groups + 2};
    rollout_assert_same(&tail, &rest);
    stm_batch_clear(&whole);
    stm_batch_clear(&rest);
    rollout_tear_down(&f);
}

static void teams_sample_the_same(void **state)
{
    (void)state;
    int n_ranks;
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    rollout_fixture f;
    stm_batch alone, together;
    rollout_set_up(&f, STM_TEST_LLAMA, &stm_backend_cpu_f64);
    SAMPLE(MPI_COMM_SELF, &f, &alone, "rollout.group_size=3", "rollout.max_new_tokens=11");
    for (int suffix = 1; suffix <= n_ranks; suffix++) {
        char text[64];
        snprintf(text, sizeof text, "parallel.suffix=%d", suffix);
        SAMPLE(MPI_COMM_WORLD, &f, &together, "rollout.group_size=3", "rollout.max_new_tokens=11", text);
        rollout_assert_same(&alone, &together);
        stm_batch_clear(&together);
    }
    stm_batch_clear(&alone);
    rollout_tear_down(&f);
}

/* Stages */

static void make_stop_often(const rollout_fixture *f)
{
    f->model->config.n_eos = 9;
    for (int i = 0; i < 9; i++)
        f->model->config.eos[i] = 2 * i;
}

/* Few slots, so that rollouts wait for them: and batches have fewer rows than there are stages, or none. */
static const char *const slot_options[] = {"rollout.slots=64", "rollout.slots=7", "rollout.slots=3", "rollout.slots=1"};

static void sample_by_stages(MPI_Comm comm, const rollout_fixture *f, int n_stages, int suffix, bool one_team,
                             const stm_batch *alone, const stm_rollout_counts *expected)
{
    char pipeline[64], team[64];
    snprintf(pipeline, sizeof pipeline, "parallel.pipeline=%d", n_stages);
    snprintf(team, sizeof team, "parallel.suffix=%d", suffix);
    for (size_t i = 0; i < sizeof slot_options / sizeof *slot_options; i++) {
        const char *const overrides[] = {"rollout.group_size=7", "rollout.max_new_tokens=23", slot_options[i], pipeline,
                                         team};
        stm_batch together;
        stm_rollout_counts counts;
        strict = i % 2 == 1;
        assert_ok(rollout_try(comm, f, overrides, sizeof overrides / sizeof *overrides, &together, &counts));
        strict = false;
        rollout_assert_same(alone, &together);
        assert_near(counts.tokens, expected->tokens, 1e-15);
        if (one_team) /* of several, each computes what its prompts share with another's */
            assert_near(counts.prompt_rows, expected->prompt_rows, 1e-15);
        stm_batch_clear(&together);
    }
}

static void stages_sample_the_same(void **state)
{
    (void)state;
    static const stm_test_config configs[] = {STM_TEST_LLAMA, STM_TEST_QWEN3 /* tied */};
    int rank, n_ranks;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    for (size_t c = 0; c < sizeof configs / sizeof *configs; c++) {
        rollout_fixture f;
        stm_batch alone;
        stm_rollout_counts counts;
        rollout_set_up_deep(&f, configs[c], &stm_backend_cpu_f64);
        make_stop_often(&f);
        static const char *const plain[] = {"rollout.group_size=7", "rollout.max_new_tokens=23"};
        assert_ok(rollout_try(MPI_COMM_SELF, &f, plain, 2, &alone, &counts));
        for (int n_stages = 1; n_stages <= n_ranks; n_stages++) {
            MPI_Comm used; /* as many columns as there are ranks for */
            const int n_columns = n_ranks / n_stages;
            MPI_Comm_split(MPI_COMM_WORLD, rank < n_columns * n_stages ? 0 : MPI_UNDEFINED, rank, &used);
            for (int suffix = 1; used != MPI_COMM_NULL && suffix <= n_columns; suffix++)
                sample_by_stages(used, &f, n_stages, suffix, suffix == n_columns, &alone, &counts);
            if (used != MPI_COMM_NULL)
                MPI_Comm_free(&used);
        }
        stm_batch_clear(&alone);
        rollout_tear_down(&f);
    }
}

static void what_is_not_a_number_is_said_by_all(void **state)
{
    (void)state;
    int n_ranks;
    rollout_fixture f;
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    rollout_set_up_deep(&f, STM_TEST_LLAMA, &stm_backend_cpu_f64);
    double *weights = f.model->weights;
    weights[f.model->final_norm] = NAN;
    for (int n_stages = 1; n_stages <= n_ranks; n_stages += n_ranks > 1 ? n_ranks - 1 : 1) {
        char pipeline[64];
        stm_batch batch;
        snprintf(pipeline, sizeof pipeline, "parallel.pipeline=%d", n_stages);
        const char *const overrides[] = {"rollout.slots=2", pipeline};
        assert_int_equal(rollout_try(MPI_COMM_WORLD, &f, overrides, 2, &batch, NULL), STM_ERR_NUMERIC);
        assert_non_null(strstr(stm_failure(), "the log-prob is not a finite number"));
        stm_batch_clear(&batch);
    }
    rollout_tear_down(&f);
}

/* Shares */

/* Rounds of a rank that decodes responses [first, end) of the batch, and nothing else, in n_slots slots. */
static double rounds_of_share(const stm_batch *batch, size_t group_size, size_t first, size_t end, size_t n_slots)
{
    size_t free_at[8] = {0}, latest = 0; /* the round after which a slot is free */
    for (size_t i = first; i < end; i++) {
        size_t slot = 0;
        for (size_t k = 1; k < n_slots; k++)
            slot = free_at[k] < free_at[slot] ? k : slot;
        free_at[slot] += batch->groups[i / group_size].responses[i % group_size].n;
        latest = STM_MAX(latest, free_at[slot]);
    }
    return (double)latest;
}

/* Greedy responses to one prompt are all alike, so that some ranks have long ones only, and others short ones. */
static void ranks_with_free_slots_take_what_waits_elsewhere(void **state)
{
    (void)state;
    enum { SIZE = 40, SLOTS = 2 };
    int n_ranks;
    rollout_fixture f;
    stm_batch batch, alone;
    stm_rollout_counts counts;
    char team[64];
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    rollout_set_up_deep(&f, STM_TEST_LLAMA, &stm_backend_cpu_f64);
    make_stop_often(&f);
    snprintf(team, sizeof team, "parallel.suffix=%d", n_ranks);
    const char *const overrides[] = {"rollout.group_size=40", "rollout.slots=2",          "rollout.max_new_tokens=60",
                                     "rollout.temperature=0", "tree.across_groups=false", team};
    assert_ok(rollout_try(MPI_COMM_WORLD, &f, overrides, 6, &batch, &counts));
    assert_ok(rollout_try(MPI_COMM_SELF, &f, overrides, 5, &alone, NULL));
    rollout_assert_same(&alone, &batch);
    const size_t all = STM_TEST_PROMPTS * SIZE;
    double fixed = 0, sum = 0;
    for (size_t r = 0; r < (size_t)n_ranks; r++) {
        const double rounds =
            rounds_of_share(&batch, SIZE, all * r / (size_t)n_ranks, all * (r + 1) / (size_t)n_ranks, SLOTS);
        fixed = rounds > fixed ? rounds : fixed;
        sum += rounds;
    }
    /* Two times of STM_SHARES_ROUNDS to hear of a free slot and to act, and none is lost where nothing is to move. */
    assert_true(counts.decode_rounds <= STM_MIN(fixed, sum / n_ranks + 2 * STM_SHARES_ROUNDS));
    if (n_ranks > 2)
        assert_true(counts.decode_rounds < 0.9 * fixed);
    stm_batch_clear(&alone);
    stm_batch_clear(&batch);
    rollout_tear_down(&f);
}

/* Leaving */

enum { LEAVE = 1, NOTE = 2 };

/* Looks of one rank: flags are seen from the n-th on. */
typedef struct {
    int flags, from, n;
} looks;

static int look(void *context)
{
    looks *l = context;
    return ++l->n > l->from ? l->flags : 0;
}

/* On every layout, with few slots (rollouts wait, shares) and many waves of prompts; `who` sees it, and all leave. */
static void a_rollout_is_left_by_all_when_one_rank_says_so(void **state)
{
    (void)state;
    int rank, n_ranks;
    rollout_fixture f;
    stm_rollout_counts counts;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    rollout_set_up_deep(&f, STM_TEST_LLAMA, &stm_backend_cpu_f64);
    f.model->config.n_eos = 0;
    for (int n_stages = 1; n_stages <= n_ranks; n_stages++)
        for (int who = 0; who < n_ranks && n_ranks % n_stages == 0; who++) {
            char pipeline[64], team[64];
            stm_batch batch;
            looks mine = {.flags = rank == who ? LEAVE : 0, .from = 3};
            stm_watch one = {.look = look, .context = &mine, .leave = LEAVE};
            snprintf(pipeline, sizeof pipeline, "parallel.pipeline=%d", n_stages);
            snprintf(team, sizeof team, "parallel.suffix=%d", who % 2 ? n_ranks / n_stages : 1);
            const char *const overrides[] = {"rollout.max_new_tokens=2000",
                                             "rollout.group_size=9",
                                             who % 3 ? "rollout.slots=2" : "rollout.slots=64",
                                             who == 1 ? "memory.limit=3MiB" : "memory.limit=1GiB",
                                             pipeline,
                                             team};
            f.watch = &one;
            assert_ok(rollout_try(MPI_COMM_WORLD, &f, overrides, 6, &batch, &counts));
            f.watch = NULL;
            assert_true(one.leaves && counts.decode_rounds < 1000); /* of 2000 for one rollout */
            assert_int_equal(one.seen, LEAVE);
            stm_batch_clear(&batch);
        }
    rollout_tear_down(&f);
}

static void what_does_not_leave_changes_no_token(void **state)
{
    (void)state;
    int rank, n_ranks;
    rollout_fixture f;
    stm_batch alone, together;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    rollout_set_up(&f, STM_TEST_LLAMA, &stm_backend_cpu_f64);
    SAMPLE(MPI_COMM_SELF, &f, &alone, "rollout.group_size=3", "rollout.max_new_tokens=40");
    looks mine = {.flags = rank == n_ranks - 1 ? NOTE : 0, .from = 1};
    stm_watch one = {.look = look, .context = &mine, .leave = LEAVE};
    f.watch = &one;
    SAMPLE(MPI_COMM_WORLD, &f, &together, "rollout.group_size=3", "rollout.max_new_tokens=40");
    f.watch = NULL;
    rollout_assert_same(&alone, &together);
    assert_false(one.leaves);
    assert_int_equal(one.seen, NOTE);
    stm_batch_clear(&together);
    stm_batch_clear(&alone);
    rollout_tear_down(&f);
}

static void scoring_finds_the_log_probs_that_sampling_recorded(void **state)
{
    (void)state;
    rollout_fixture f;
    stm_batch batch;
    rollout_set_up(&f, STM_TEST_QWEN3, &stm_backend_cpu_f64);
    SAMPLE(MPI_COMM_WORLD, &f, &batch, "rollout.temperature=0.6", "rollout.max_new_tokens=30");
    rollout_compare_with_scores(&f, &batch, 1e-11);
    stm_batch_clear(&batch);
    SAMPLE(MPI_COMM_WORLD, &f, &batch, "rollout.temperature=0",
           "rollout.max_new_tokens=12"); /* greedy: recorded at 1 */
    for (size_t i = 1; i < batch.groups[2].n_responses; i++)
        assert_memory_equal(batch.groups[2].responses[i].ids, batch.groups[2].responses[0].ids,
                            batch.groups[2].responses[0].n * sizeof(int32_t));
    rollout_compare_with_scores(&f, &batch, 1e-11);
    stm_batch_clear(&batch);
    rollout_tear_down(&f);
    rollout_set_up(&f, STM_TEST_LLAMA, &stm_backend_cpu_f32);
    SAMPLE(MPI_COMM_WORLD, &f, &batch, "rollout.max_new_tokens=40");
    rollout_compare_with_scores(&f, &batch, 1e-4); /* the promise for float32 */
    stm_batch_clear(&batch);
    rollout_tear_down(&f);
}

static void end_ids_end_a_response_unless_ignored_or_early(void **state)
{
    (void)state;
    rollout_fixture f;
    stm_batch batch;
    rollout_set_up(&f, STM_TEST_LLAMA, &stm_backend_cpu_f64);
    f.model->config.n_eos = 16;
    for (int i = 0; i < 16; i++)
        f.model->config.eos[i] = 3 * i;
    SAMPLE(MPI_COMM_WORLD, &f, &batch, "rollout.max_new_tokens=60", "rollout.min_new_tokens=4");
    size_t n_stopped = 0;
    for (size_t g = 0; g < batch.n_groups; g++)
        for (size_t i = 0; i < batch.groups[g].n_responses; i++) {
            const stm_response *r = &batch.groups[g].responses[i];
            const bool ends = r->ids[r->n - 1] % 3 == 0 && r->ids[r->n - 1] < 48;
            assert_true(r->n > 4);
            assert_int_equal(ends, r->finish == STM_FINISH_STOP);
            assert_true(ends || r->n == 60);
            for (size_t k = 0; k + 1 < r->n; k++)
                assert_false(r->ids[k] % 3 == 0 && r->ids[k] < 48);
            n_stopped += ends;
        }
    assert_true(n_stopped > 0);
    stm_batch_clear(&batch);
    SAMPLE(MPI_COMM_WORLD, &f, &batch, "rollout.max_new_tokens=10", "rollout.ignore_eos=true");
    for (size_t g = 0; g < batch.n_groups; g++)
        assert_int_equal(batch.groups[g].responses[0].n, 10);
    stm_batch_clear(&batch);
    rollout_tear_down(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_do_not_depend_on_ranks_slots_or_memory),
        cmocka_unit_test(groups_may_be_sampled_in_several_rounds),
        cmocka_unit_test(teams_sample_the_same),
        cmocka_unit_test(stages_sample_the_same),
        cmocka_unit_test(what_is_not_a_number_is_said_by_all),
        cmocka_unit_test(ranks_with_free_slots_take_what_waits_elsewhere),
        cmocka_unit_test(a_rollout_is_left_by_all_when_one_rank_says_so),
        cmocka_unit_test(what_does_not_leave_changes_no_token),
        cmocka_unit_test(scoring_finds_the_log_probs_that_sampling_recorded),
        cmocka_unit_test(end_ids_end_a_response_unless_ignored_or_early),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
