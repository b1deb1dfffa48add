/* Rollouts of several turns at any number of ranks: the same conversations, which are those of one rollout where nobody
 * adds anything to them. */
#include "rollout/turns.h"

#include <stdlib.h>

#include "support/rollouts.h"

/* What the partner does. */
typedef struct {
    enum { SILENT, TALKATIVE, FORGETFUL } kind;
    int32_t vocab_size;
    size_t n_calls, n_words; /* n_words: how many tokens of a reply, at most */
} partner_state;

/* A function of the conversation and the turn alone. */
static stm_status reply(void *context, size_t n, const stm_turn *turns, stm_reply *replies)
{
    partner_state *p = context;
    p->n_calls++;
    for (size_t i = 0; i < n && p->kind != SILENT; i++) {
        const uint64_t about[] = {turns[i].group, turns[i].rollout, turns[i].number};
        const uint64_t hash = stm_hash(about, sizeof about);
        if (p->kind == FORGETFUL)
            return stm_fail(STM_ERR_MEMORY, "out of memory");
        replies[i].ends = hash % 11 == 0;
        replies[i].failed = hash % 17 == 0;
        replies[i].has_reward = hash % 3 == 0;
        replies[i].reward = (double)turns[i].number;
        replies[i].n = (hash >> 8) % (p->n_words + 1);
        STM_TRY(stm_alloc(replies[i].n, sizeof *replies[i].ids, &replies[i].ids));
        for (size_t k = 0; k < replies[i].n; k++)
            replies[i].ids[k] = (int32_t)((hash >> 16) % 1000 + 31 * k) % p->vocab_size;
    }
    return STM_OK;
}

/* A model of which every fifth token ends a turn. */
static void set_up(rollout_fixture *f, partner_state *p, stm_partner *partner)
{
    rollout_set_up_deep(f, STM_TEST_LLAMA, &stm_backend_cpu_f64);
    f->model->config.n_eos = 16;
    for (int i = 0; i < 16; i++)
        f->model->config.eos[i] = 5 * i;
    *partner = (stm_partner){.reply = reply, .context = p};
    p->vocab_size = (int32_t)f->model->config.vocab_size;
    f->partner = partner;
}

static void sample(MPI_Comm comm, const rollout_fixture *f, stm_batch *batch, const char *const *overrides, size_t n)
{
    assert_ok(rollout_try(comm, f, overrides, n, batch, NULL));
}

#define SAMPLE(comm, f, batch, ...)                                                                                    \
    sample(comm, f, batch, (const char *const[]){__VA_ARGS__},                                                         \
           sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

/* Each turn computes K and V of what was said before anew, but what conversations share once, and finds the same
 * numbers. */
static void turns_without_replies_are_one_rollout(void **state)
{
    (void)state;
    rollout_fixture f;
    partner_state p = {.kind = SILENT};
    stm_partner partner;
    stm_batch whole, turns;
    stm_rollout_counts counts, unshared;
    set_up(&f, &p, &partner);
    static const char *const options[] = {"rollout.group_size=6", "rollout.max_new_tokens=40", "rollout.max_turns=99",
                                          "tree.min_shared_tokens=2"};
    assert_ok(rollout_try(MPI_COMM_WORLD, &f, options, 4, &turns, &counts));
    assert_near(counts.tokens, 40.0 * 6 * STM_TEST_PROMPTS, 1e-15);
    stm_batch_clear(&turns);
    static const char *const apart[] = {"rollout.group_size=6", "rollout.max_new_tokens=40", "rollout.max_turns=99",
                                        "tree.min_shared_tokens=1000"};
    assert_ok(rollout_try(MPI_COMM_WORLD, &f, apart, 4, &turns, &unshared));
    assert_true(unshared.tokens == counts.tokens && unshared.prompt_rows > 1.5 * counts.prompt_rows);
    f.partner = NULL;
    SAMPLE(MPI_COMM_WORLD, &f, &whole, "rollout.group_size=6", "rollout.max_new_tokens=40", "rollout.ignore_eos=true");
    rollout_assert_same(&whole, &turns);
    stm_batch_clear(&turns);
    stm_batch_clear(&whole);
    rollout_tear_down(&f);
}

static void assert_same_outcomes(const stm_batch *a, const stm_batch *b)
{
    rollout_assert_same(a, b);
    for (size_t g = 0; g < a->n_groups; g++)
        for (size_t i = 0; i < a->groups[g].n_responses; i++) {
            const stm_outcome *x = &a->groups[g].responses[i].outcome, *y = &b->groups[g].responses[i].outcome;
            assert_int_equal(x->failed, y->failed);
            assert_true(x->n_turns == y->n_turns && x->n_turns > 0);
            assert_int_equal(x->has_reward, y->has_reward);
            assert_true(x->reward == y->reward);
        }
}

static void conversations_do_not_depend_on_the_layout(void **state)
{
    (void)state;
    rollout_fixture f;
    partner_state p = {.kind = TALKATIVE, .n_words = 7};
    stm_partner partner;
    stm_batch alone, together;
    int n_ranks, rank;
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    set_up(&f, &p, &partner);
    SAMPLE(MPI_COMM_SELF, &f, &alone, "rollout.group_size=6", "rollout.max_new_tokens=30");
    assert_true(p.n_calls > 3);
    static const char *const layouts[][2] = {
        {"rollout.slots=64", "tree.min_shared_tokens=2"},
        {"rollout.slots=3", "memory.chunk_tokens=16"},
        {"rollout.slots=64", "parallel.suffix"},
        {"rollout.slots=4", "parallel.pipeline"},
    };
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        char all[64];
        if (strchr(layouts[i][1], '='))
            snprintf(all, sizeof all, "%s", layouts[i][1]);
        else
            snprintf(all, sizeof all, "%s=%d", layouts[i][1], n_ranks);
        p.n_calls = 0;
        SAMPLE(MPI_COMM_WORLD, &f, &together, "rollout.group_size=6", "rollout.max_new_tokens=30", layouts[i][0], all);
        assert_true(rank == 0 ? p.n_calls > 3 : p.n_calls == 0);
        assert_same_outcomes(&alone, &together);
        stm_batch_clear(&together);
    }
    stm_batch_clear(&alone);
    rollout_tear_down(&f);
}

/* Tokens of either kind, and how often the second follows the first or begins. */
static void count(const stm_response *r, size_t *n_sampled, size_t *n_turns)
{
    *n_sampled = *n_turns = 0;
    for (size_t k = 0; k < r->n; k++) {
        *n_sampled += r->mask[k];
        *n_turns += r->mask[k] && (k == 0 || !r->mask[k - 1] || r->ids[k - 1] % 5 == 0);
        assert_true(r->mask[k] || (r->old_logprobs[k] == 0.0 && r->kept_mass[k] == 1.0));
    }
}

static void limits_hold_and_scoring_finds_the_log_probs(void **state)
{
    (void)state;
    rollout_fixture f;
    partner_state p = {.kind = TALKATIVE, .n_words = 7};
    stm_partner partner;
    stm_batch batch;
    size_t n_full = 0, n_most = 0, n_refused = 0, n_replies = 0;
    set_up(&f, &p, &partner);
    SAMPLE(MPI_COMM_WORLD, &f, &batch, "rollout.group_size=8", "rollout.max_new_tokens=25", "rollout.max_turns=4",
           "rollout.max_environment_tokens=12", "rollout.temperature=0.7");
    for (size_t g = 0; g < batch.n_groups; g++)
        for (size_t i = 0; i < batch.groups[g].n_responses; i++) {
            const stm_response *r = &batch.groups[g].responses[i];
            size_t n_sampled, n_turns;
            count(r, &n_sampled, &n_turns);
            assert_int_equal(r->outcome.n_turns, n_turns);
            assert_true(n_sampled <= 25 && n_turns <= 4 && r->n - n_sampled <= 12);
            assert_true(r->mask[0] && r->mask[r->n - 1]); /* a reply stands between two turns */
            n_full += n_sampled == 25;
            n_most += n_turns == 4;
            n_refused += r->finish == STM_FINISH_LENGTH && n_sampled < 25 && n_turns < 4;
            n_replies += r->n > n_sampled;
        }
    assert_true(n_full > 0 && n_most > 0 && n_refused > 0 && n_replies > 0);
    rollout_compare_with_scores(&f, &batch, 1e-11);
    stm_batch_clear(&batch);
    rollout_tear_down(&f);
}

static void a_partner_that_cannot_is_heard_of_by_all(void **state)
{
    (void)state;
    rollout_fixture f;
    partner_state p = {.kind = FORGETFUL};
    stm_partner partner;
    stm_batch batch;
    set_up(&f, &p, &partner);
    assert_int_equal(rollout_try(MPI_COMM_WORLD, &f, (const char *const[]){"rollout.group_size=2"}, 1, &batch, NULL),
                     STM_ERR_MEMORY);
    assert_string_equal(stm_failure(), "out of memory");
    stm_batch_clear(&batch);
    rollout_tear_down(&f);
}

enum { LEAVE = 1 };

static int look(void *context)
{
    int *n = context;
    return --*n < 0 ? LEAVE : 0;
}

/* In the first turn, or a later one. */
static void conversations_are_left_by_all_when_one_rank_says_so(void **state)
{
    (void)state;
    rollout_fixture f;
    partner_state p = {.kind = SILENT};
    stm_partner partner;
    int rank, n_ranks;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    set_up(&f, &p, &partner);
    for (int from = 2; from < 200; from *= 4) {
        stm_batch batch;
        stm_rollout_counts counts;
        int n = rank == n_ranks - 1 ? from : 1 << 30;
        stm_watch watch = {.look = look, .context = &n, .leave = LEAVE};
        f.watch = &watch;
        assert_ok(rollout_try(MPI_COMM_WORLD, &f,
                              (const char *const[]){"rollout.max_new_tokens=1000", "rollout.max_turns=1000"}, 2, &batch,
                              &counts));
        assert_true(watch.leaves && counts.decode_rounds < 1000);
        stm_batch_clear(&batch);
    }
    rollout_tear_down(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turns_without_replies_are_one_rollout),
        cmocka_unit_test(conversations_do_not_depend_on_the_layout),
        cmocka_unit_test(limits_hold_and_scoring_finds_the_log_probs),
        cmocka_unit_test(a_partner_that_cannot_is_heard_of_by_all),
        cmocka_unit_test(conversations_are_left_by_all_when_one_rank_says_so),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
