/* The replay buffer: which groups are helped, by what, and what is kept of it. */
#include "train/replay.h"
#include "support/batch.h"
#include "support/support.h"

#include <malloc.h>

enum { SIZE = 3, N_REWARDS = 2 };

typedef struct {
    stm_options options;
    stm_reward_options rewards[N_REWARDS];
    stm_replay *replay;
} fixture;

static void set_up(fixture *f, int64_t size)
{
    *f = (fixture){0};
    stm_test_options(&f->options, NULL, 0);
    f->options.replay.size = size;
    f->options.reward.n = N_REWARDS;
    assert_ok(stm_replay_create(&f->options, &f->replay));
}

static void tear_down(fixture *f)
{
    f->options.reward.n = 0;
    stm_replay_destroy(f->replay);
    stm_options_clear(&f->options);
}

/* A group below a prompt whose tokens are `prompt` and 7; response i has the token `first` + i, so that it is known
 * again by it, and that many hundredths as log-prob. */
static stm_batch make_long(int32_t prompt, int32_t first, size_t n, const double rewards[SIZE])
{
    stm_batch batch = {.n_groups = 1};
    assert_ok(stm_alloc(1, sizeof *batch.groups, &batch.groups));
    stm_group *group = batch.groups;
    *group = (stm_group){.n_prompt = 2, .n_responses = SIZE, .temperature = 1};
    assert_ok(stm_alloc(2, sizeof *group->prompt, &group->prompt));
    group->prompt[0] = prompt;
    group->prompt[1] = 7;
    assert_ok(stm_alloc(SIZE, sizeof *group->responses, &group->responses));
    for (int32_t i = 0; i < SIZE; i++) {
        stm_response *r = &group->responses[i];
        *r = (stm_response){
            .n = n, .reward = rewards[i], .has_reward = isfinite(rewards[i]), .finish = STM_FINISH_LENGTH};
        assert_ok(stm_alloc(n, sizeof *r->ids, &r->ids));
        assert_ok(stm_alloc(n, sizeof *r->mask, &r->mask));
        assert_ok(stm_alloc(n, sizeof(double), &r->old_logprobs));
        r->ids[0] = first + i;
        r->mask[0] = 1;
        r->old_logprobs[0] = -0.01 * (first + i);
    }
    return batch;
}

static stm_batch make(int32_t prompt, int32_t first, const double rewards[SIZE])
{
    return make_long(prompt, first, 1, rewards);
}

static void note(fixture *f, int32_t prompt, int32_t first, const double rewards[SIZE], size_t from)
{
    double parts[SIZE * N_REWARDS];
    for (int32_t i = 0; i < SIZE * N_REWARDS; i++)
        parts[i] = first + i / N_REWARDS + 0.5 * (i % N_REWARDS);
    stm_batch batch = make(prompt, first, rewards);
    assert_ok(stm_replay_note(f->replay, batch.groups, from, parts));
    batch.groups->responses[SIZE - 1].mask[0] = 0; /* as a rule might, between this and the end of the step */
    stm_batch_clear(&batch);
}

/* The same of responses of n tokens, as rollouts leave them. */
static void note_long(fixture *f, int32_t prompt, size_t n, const double rewards[SIZE])
{
    static const double parts[SIZE * N_REWARDS];
    stm_batch batch = make_long(prompt, 1, n, rewards);
    for (size_t i = 0; i < SIZE; i++)
        assert_ok(stm_alloc(n, sizeof(double), &batch.groups->responses[i].kept_mass));
    assert_ok(stm_replay_note(f->replay, batch.groups, 0, parts));
    stm_batch_clear(&batch);
}

/* The token of the response that helps a group of zeros in this step; 0: none does. */
static int32_t help(const fixture *f, int32_t prompt, uint64_t step, size_t slot)
{
    double parts[N_REWARDS] = {-1, -1};
    bool helped;
    stm_batch batch = make(prompt, 900, (const double[SIZE]){0, 0, 0});
    const stm_response *first = &batch.groups->responses[0];
    assert_ok(stm_replay_help(f->replay, step, slot, batch.groups, parts, &helped));
    const int32_t found = helped ? first->ids[0] : 0;
    if (helped) {
        assert_near(first->reward, 1, 0);
        assert_near(first->old_logprobs[0], -0.01 * found, 1e-15); /* of its own sampling */
        assert_int_equal(first->mask[0], 1);
        assert_int_equal(first->finish, STM_FINISH_LENGTH);
        assert_near(parts[0], found, 0);
        assert_near(parts[1], found + 0.5, 0);
    } else {
        assert_int_equal(first->ids[0], 900);
        assert_near(parts[0], -1, 0);
    }
    assert_int_equal(batch.groups->responses[1].ids[0], 901);
    stm_batch_clear(&batch);
    return found;
}

static void groups_of_low_and_like_rewards_need_a_success(void **state)
{
    (void)state;
    static const struct {
        double rewards[SIZE];
        bool needed;
    } cases[] = {{{0, 0, 0}, true},
                 {{0.19, 0.19, 0.19}, true},
                 {{0.2, 0.2, 0.2}, false},     /* mean */
                 {{0, 0.06, 0.12}, true},      /* population deviation 0.04899, that of a sample 0.06 */
                 {{0, 0.0613, 0.1226}, false}, /* 0.05005 */
                 {{0, 0, NAN}, false},
                 {{-1, -1, -1}, true}};
    fixture f;
    set_up(&f, 2);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        stm_batch batch = make(1, 10, cases[i].rewards);
        assert_int_equal(stm_replay_is_needed(&f.options, batch.groups), cases[i].needed);
        stm_batch_clear(&batch);
    }
    tear_down(&f);
}

static void a_prompt_keeps_its_newest_successes(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, 2);
    note(&f, 1, 10, (const double[SIZE]){1, 0.1, NAN}, 0); /* 0.1 is no success */
    assert_int_equal(help(&f, 1, 0, 0), 0);                /* its step is not over */
    assert_ok(stm_replay_settle(f.replay));
    assert_int_equal(help(&f, 1, 0, 0), 10);
    assert_int_equal(help(&f, 2, 0, 0), 0);            /* another prompt */
    note(&f, 1, 20, (const double[SIZE]){1, 1, 1}, 1); /* the first is a replayed one */
    note(&f, 2, 30, (const double[SIZE]){1, 0, 0}, 0);
    assert_ok(stm_replay_settle(f.replay));
    assert_int_equal(stm_replay_count(f.replay), 3);
    bool seen[2] = {false};
    for (size_t slot = 0; slot < 64; slot++) {
        const int32_t drawn = help(&f, 1, 3, slot);
        assert_true(drawn == 21 || drawn == 22);
        assert_int_equal(drawn, help(&f, 1, 3, slot)); /* a function of step and slot */
        seen[drawn - 21] = true;
    }
    assert_true(seen[0] && seen[1]);
    tear_down(&f);
}

static void queues_survive_their_bytes(void **state)
{
    (void)state;
    fixture f, back, smaller;
    stm_kept kept = {0};
    set_up(&f, 4);
    set_up(&back, 4);
    set_up(&smaller, 1);
    assert_ok(stm_replay_save(f.replay, &kept));
    assert_int_equal(kept.n, 0);
    note(&f, 1, 10, (const double[SIZE]){1, 1, 1}, 0);
    note(&f, 2, 20, (const double[SIZE]){0, 1, 1}, 0);
    assert_ok(stm_replay_settle(f.replay));
    note(&f, 3, 30, (const double[SIZE]){1, 1, 1}, 0); /* not settled: not kept */
    assert_ok(stm_replay_save(f.replay, &kept));
    assert_ok(stm_replay_restore(back.replay, "file", &kept));
    assert_ok(stm_replay_restore(smaller.replay, "file", &kept));
    assert_int_equal(stm_replay_count(back.replay), 5);
    assert_int_equal(help(&back, 3, 0, 0), 0);
    for (size_t slot = 0; slot < 16; slot++)
        for (int32_t prompt = 1; prompt < 3; prompt++)
            assert_int_equal(help(&back, prompt, 5, slot), help(&f, prompt, 5, slot));
    assert_int_equal(help(&smaller, 1, 0, 0), 12); /* the newest */
    note(&back, 2, 20, (const double[SIZE]){0, 1, 1}, 0);
    assert_ok(stm_replay_settle(back.replay)); /* restored queues go on */
    assert_int_equal(stm_replay_count(back.replay), 7);
    for (size_t n = 1; n < kept.n; n++) {
        const stm_kept cut = {.bytes = kept.bytes, .n = n};
        assert_fails(stm_replay_restore(smaller.replay, "step.h5", &cut), STM_ERR_INPUT,
                     "step.h5: /kept/replay: found other bytes than a replay buffer");
    }
    f.options.reward.n = 1; /* another run's rewards: nothing is comparable */
    stm_replay *other;
    assert_ok(stm_replay_create(&f.options, &other));
    assert_ok(stm_replay_restore(other, "file", &kept));
    assert_int_equal(stm_replay_count(other), 0);
    stm_replay_destroy(other);
    free(kept.bytes);
    tear_down(&f);
    tear_down(&back);
    tear_down(&smaller);
}

/* Bytes that the C library has lent. */
static double lent_bytes(void)
{
    const struct mallinfo2 info = mallinfo2();
    return (double)(info.uordblks + info.hblkhd);
}

/* Every prompt has its queue full of responses of full length. */
static void its_bytes_are_those_that_are_planned(void **state)
{
    (void)state;
    enum { N_PROMPTS = 40, N_STEPS = 6, TOKENS = 100 };
    static const double rewards[SIZE] = {1, 1, 1};
    stm_prompt items[N_PROMPTS] = {0};
    const stm_prompts prompts = {.n = N_PROMPTS, .items = items};
    fixture f;
    set_up(&f, 2 * SIZE);
    f.options.run.steps = N_STEPS;
    f.options.rollout.prompts_per_step = N_PROMPTS / 2;
    f.options.rollout.group_size = SIZE;
    f.options.rollout.max_new_tokens = TOKENS;
    for (size_t i = 0; i < N_PROMPTS; i++)
        items[i].n = 2;
    const double planned = (double)stm_replay_bytes(&f.options, &prompts, 0), before = lent_bytes();
    for (int32_t step = 0; step < N_STEPS; step++) {
        for (int32_t p = 0; p < N_PROMPTS / 2; p++)
            note_long(&f, 1 + step % 2 * N_PROMPTS / 2 + p, TOKENS, rewards);
        assert_ok(stm_replay_settle(f.replay));
    }
    assert_int_equal(stm_replay_count(f.replay), N_PROMPTS * 2 * SIZE);
    const double used = lent_bytes() - before;
    assert_true(before == 0 || (planned > 0.9 * used && planned < 1.1 * used)); /* 0: another allocator */
    assert_near((double)stm_replay_bytes(&f.options, NULL, 2) / planned,
                (double)(N_STEPS * N_PROMPTS / 2 * SIZE) / (N_PROMPTS * 2 * SIZE), 0.05);
    f.options.replay.size = 0;
    assert_int_equal(stm_replay_bytes(&f.options, &prompts, 0), 0);
    tear_down(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_of_low_and_like_rewards_need_a_success),
        cmocka_unit_test(a_prompt_keeps_its_newest_successes),
        cmocka_unit_test(queues_survive_their_bytes),
        cmocka_unit_test(its_bytes_are_those_that_are_planned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
