/* What the trainer does on ranks, against one rank and against plain loops: an update, the reference, the agreement
 * between two steps. Of a backend under test. */
#include <signal.h>
#include <time.h>

#include "group/device_reach.h"
#include "model/layout.h"
#include "support/batch.h"
#include "support/device.h"
#include "support/model.h"
#include "support/mpi.h"
#include "train/boundary.h"
#include "train/expect.h"
#include "train/optimizer.h"
#include "train/others.h"
#include "train/reference.h"

enum { N_GROUPS = 7 };

typedef struct {
    stm_options options;
    stm_stream *stream;
    stm_model *model;
    stm_batch batch;
    const stm_reach *reach;
    stm_grid grid;
    stm_policy policy;
} fixture;

static void set_up(fixture *f, MPI_Comm comm, const char *const *overrides, size_t n)
{
    const stm_backend *backend;
    *f = (fixture){0};
    assert_ok(stm_backend_find(backend_under_test(), STM_FLOAT64, &backend));
    stm_test_options(&f->options, overrides, n);
    f->options.optim.lr = 0.01;
    f->options.optim.weight_decay = 0.1;
    assert_ok(backend->open(1, &f->stream));
    f->model = stm_test_model(backend, f->stream, &stm_test_configs[STM_TEST_QWEN3], 5);
    stm_test_batch(3, N_GROUPS, f->model->config.vocab_size, &f->batch);
    assert_ok(stm_device_reach_open(backend, f->stream, &f->reach));
    assert_ok(stm_grid_create(comm, &(stm_axes){1, STM_AUTO, STM_AUTO}, N_GROUPS, &f->grid));
    assert_ok(stm_grid_take_reach(&f->grid, f->reach));
    f->policy = (stm_policy){.options = &f->options, .model = f->model, .grid = &f->grid};
    assert_ok(stm_engine_create(f->model, &f->grid, &f->options, 0, &f->policy.engine));
}

static void tear_down(fixture *f)
{
    const stm_backend *backend = f->model->backend;
    stm_engine_destroy(f->policy.engine);
    stm_grid_destroy(&f->grid);
    stm_batch_clear(&f->batch);
    stm_model_destroy(f->model);
    stm_device_reach_close(f->reach);
    backend->close(f->stream);
    stm_options_clear(&f->options);
}

static void update(fixture *f, stm_optimizer *optimizer, stm_update_counts *counts)
{
    assert_ok(stm_optimizer_update(optimizer, &f->policy, &f->batch, stm_objective_find(f->options.objective.name),
                                   &f->options.objective, f->options.optim.lr, counts));
}

/* AdamW in plain loops over whole arrays: Loshchilov and Hutter, arXiv:1711.05101, the clipped gradient as in Pascanu
 * et al., arXiv:1211.5063. Returns the norm before clipping. */
static double plain_update(const stm_options *o, int step, size_t n, const double *gradient, double *m, double *v,
                           double *weights)
{
    double squares = 0;
    for (size_t i = 0; i < n; i++)
        squares += gradient[i] * gradient[i];
    const double norm = sqrt(squares), scale = o->optim.clip > 0 ? fmin(1.0, o->optim.clip / norm) : 1.0;
    const double b1 = o->optim.betas[0], b2 = o->optim.betas[1];
    for (size_t i = 0; i < n; i++) {
        const double g = scale * gradient[i];
        m[i] = b1 * m[i] + (1 - b1) * g;
        v[i] = b2 * v[i] + (1 - b2) * g * g;
        weights[i] -= o->optim.lr * o->optim.weight_decay * weights[i];
        weights[i] -= o->optim.lr * (m[i] / (1 - pow(b1, step))) / (sqrt(v[i] / (1 - pow(b2, step))) + o->optim.eps);
    }
    return norm;
}

enum { FINE_BUCKET = 1000 }; /* smaller than any model of use would have, so that a rank owns several ranges */

/* clip_to_norm: the clip as a multiple of the first gradient's norm; 0: no clipping. */
static void compare_updates(double clip_to_norm)
{
    fixture f;
    stm_optimizer optimizer;
    stm_update_counts counts;
    stm_test_result result;
    set_up(&f, MPI_COMM_WORLD, NULL, 0);
    const size_t n = f.model->n_parameters;
    double *m = calloc(n, sizeof *m), *v = calloc(n, sizeof *v), *expected = stm_test_weights(f.model);
    assert_ok(stm_optimizer_create(f.model, &f.grid, STM_SHARD_OPTIMIZER, FINE_BUCKET, &optimizer));
    assert_true(stm_shards_n_ranges(&optimizer.shards) > 2);
    for (int step = 1; step <= 3; step++) {
        stm_test_gradient(MPI_COMM_SELF, f.model, &f.batch, &f.options, &result);
        if (step == 1) {
            double squares = 0;
            for (size_t i = 0; i < n; i++)
                squares += result.gradient[i] * result.gradient[i];
            f.options.optim.clip = clip_to_norm * sqrt(squares);
        }
        const double norm = plain_update(&f.options, step, n, result.gradient, m, v, expected);
        update(&f, &optimizer, &counts);
        assert_false(counts.skipped);
        assert_near(counts.grad_norm, norm, 1e-12);
        assert_near(counts.sums.loss, result.loss, 1e-12);
        double *found = stm_test_weights(f.model);
        /* AdamW divides by the root of a second moment: where that is tiny, the gradient's rounding is not */
        assert_true(stm_relative_difference(found, expected, n) < 1e-8);
        free(found);
        stm_test_result_clear(&result);
    }
    assert_int_equal(optimizer.n_updates, 3);
    stm_optimizer_destroy(&optimizer, f.model);
    free(m);
    free(v);
    free(expected);
    tear_down(&f);
}

static void an_update_is_adamw_on_the_whole_gradient(void **state)
{
    (void)state;
    compare_updates(0);
}

static void a_gradient_longer_than_the_clip_is_scaled_to_it(void **state)
{
    (void)state;
    compare_updates(1e-3);
}

static void a_gradient_shorter_than_the_clip_is_left_alone(void **state)
{
    (void)state;
    compare_updates(10);
}

static void an_update_that_is_no_number_changes_nothing(void **state)
{
    (void)state;
    fixture f;
    stm_optimizer optimizer;
    stm_update_counts counts;
    set_up(&f, MPI_COMM_WORLD, NULL, 0);
    const size_t n = f.model->n_parameters;
    assert_ok(stm_optimizer_create(f.model, &f.grid, STM_SHARD_OPTIMIZER, FINE_BUCKET, &optimizer));
    double *before = stm_test_weights(f.model);
    for (size_t i = 0; i < f.batch.groups[0].n_responses; i++) /* a reward that no judge would let pass */
        f.batch.groups[0].responses[i].reward = NAN;
    update(&f, &optimizer, &counts);
    assert_true(counts.skipped);
    assert_non_null(strstr(stm_failure(), f.model->tensors[0].name)); /* on every rank */
    assert_int_equal(optimizer.n_updates, 0);
    double *after = stm_test_weights(f.model);
    assert_memory_equal(after, before, n * sizeof *after);
    free(before);
    free(after);
    stm_optimizer_destroy(&optimizer, f.model);
    tear_down(&f);
}

static void groups_that_are_skipped_are_not_counted_as_repeated(void **state)
{
    (void)state;
    fixture f;
    stm_optimizer optimizer;
    stm_update_counts counts;
    set_up(&f, MPI_COMM_WORLD, (const char *const[]){"--forward=repeated"}, 1);
    f.options.objective.kl_coef = 0;
    f.options.objective.skip_equal_groups = true;
    for (size_t i = 0; i < f.batch.groups[3].n_responses; i++)
        f.batch.groups[3].responses[i].reward = 0.5;
    assert_ok(stm_optimizer_create(f.model, &f.grid, STM_SHARD_OPTIMIZER, FINE_BUCKET, &optimizer));
    update(&f, &optimizer, &counts);
    assert_near(counts.rows, counts.rows_repeated, 1e-15);
    assert_true(counts.rows_repeated < stm_engine_rows_repeated(&f.batch, true));
    stm_optimizer_destroy(&optimizer, f.model);
    tear_down(&f);
}

static void the_reference_keeps_the_weights_of_its_making(void **state)
{
    (void)state;
    fixture f;
    stm_parameter_set *reference;
    stm_scores start, now;
    stm_timers timers;
    set_up(&f, MPI_COMM_WORLD, NULL, 0);
    stm_timers_init(&timers);
    f.policy.timers = &timers;
    assert_ok(stm_score_batch(f.policy.engine, &f.grid, &f.batch, &start));
    assert_ok(stm_parameter_set_create(f.model, &f.grid, FINE_BUCKET, &reference));
    assert_ok(stm_model_randomize(f.model, 99));
    double *before = stm_test_weights(f.model);
    assert_ok(stm_reference_score(reference, &f.policy, STM_ROW_REF, &f.batch));
    assert_true(stm_timers_self_s(&timers, STM_PHASE_GATHER) > 0); /* what the reference costs besides its rows */
    assert_int_equal(timers.depth, 0);
    double *after = stm_test_weights(f.model);
    assert_memory_equal(after, before, f.model->n_parameters * sizeof *after); /* the policy has its own back */
    assert_ok(stm_score_batch(f.policy.engine, &f.grid, &f.batch, &now));
    assert_true(stm_relative_difference(now.logp, start.logp, now.n_tokens) > 1e-3);
    for (size_t g = 0; g < f.batch.n_groups; g++)
        for (size_t i = 0; i < f.batch.groups[g].n_responses; i++) {
            const stm_response *response = &f.batch.groups[g].responses[i];
            const double *expected = start.logp + start.first[start.response_0[g] + i];
            for (size_t k = 0; k < response->n; k++)
                assert_true(response->ref_logprobs[k] == expected[k]);
        }
    stm_scores_clear(&start);
    stm_scores_clear(&now);
    free(before);
    free(after);
    stm_parameter_set_destroy(reference);
    tear_down(&f);
}

/* Responses beside the policy's. The policy has other weights than the reference, which is the start model. */

enum { N_OWN = 2, N_OTHERS = 3 };

typedef struct {
    fixture f;
    stm_parameter_set *reference;
} others_fixture;

static void take_responses_out(stm_batch *batch)
{
    for (size_t g = 0; g < batch->n_groups; g++) {
        for (size_t i = 0; i < batch->groups[g].n_responses; i++)
            stm_response_clear(&batch->groups[g].responses[i]);
        free(batch->groups[g].responses);
        batch->groups[g].responses = NULL;
        batch->groups[g].n_responses = 0;
    }
}

static void set_up_others(others_fixture *o, MPI_Comm comm)
{
    set_up(&o->f, comm, NULL, 0);
    o->f.options.rollout.max_new_tokens = 4;
    take_responses_out(&o->f.batch);
    assert_ok(stm_parameter_set_create(o->f.model, &o->f.grid, FINE_BUCKET, &o->reference));
    assert_ok(stm_model_randomize(o->f.model, 99));
}

static void tear_down_others(others_fixture *o)
{
    stm_parameter_set_destroy(o->reference);
    tear_down(&o->f);
}

/* Groups of the policy's and the others' responses, with the reference's log-probs. */
static void sample_others(others_fixture *o, double mixture, double temperature)
{
    stm_others *others;
    stm_sampling sampling;
    stm_rollout_counts counts;
    take_responses_out(&o->f.batch);
    assert_ok(stm_others_create(&o->f.policy, o->reference, mixture, &others));
    double *before = stm_test_weights(o->f.model);
    stm_sampling_init(&o->f.options, o->f.model, NULL, STM_RANDOM_TRAIN, 0, &sampling);
    sampling.group_size = N_OWN;
    sampling.temperature = temperature;
    assert_ok(stm_rollout(o->f.policy.engine, o->f.model, &o->f.grid, &sampling, &o->f.batch, NULL));
    assert_ok(stm_others_roll_out(others, &o->f.policy, &sampling, N_OTHERS, &o->f.batch, &counts));
    double *after = stm_test_weights(o->f.model);
    assert_memory_equal(after, before, o->f.model->n_parameters * sizeof *after);
    assert_ok(stm_reference_score(o->reference, &o->f.policy, STM_ROW_REF, &o->f.batch));
    for (size_t g = 0; g < o->f.batch.n_groups; g++) {
        assert_int_equal(o->f.batch.groups[g].n_responses, N_OWN + N_OTHERS);
        for (size_t i = 0; i < N_OWN + N_OTHERS; i++) {
            const stm_response *r = &o->f.batch.groups[g].responses[i];
            assert_true((r->notes && r->notes->other_origin) == (i >= N_OWN));
        }
    }
    free(before);
    free(after);
    stm_others_destroy(others);
}

/* The reference gives its responses the log-probs by which they were sampled, and the policy its own. */
static void others_are_sampled_by_the_reference(void **state)
{
    (void)state;
    others_fixture o;
    set_up_others(&o, MPI_COMM_WORLD);
    sample_others(&o, 1, 1);
    for (size_t g = 0; g < o.f.batch.n_groups; g++)
        for (size_t i = 0; i < N_OWN + N_OTHERS; i++) {
            const stm_response *r = &o.f.batch.groups[g].responses[i];
            const double difference = stm_relative_difference(r->old_logprobs, r->ref_logprobs, r->n);
            assert_true(i < N_OWN ? difference > 1e-3 : difference < 1e-10);
        }
    tear_down_others(&o);
}

/* The same tokens, and log-probs of them. */
static void compare_others(const stm_batch *a, const stm_batch *b, double tolerance)
{
    for (size_t g = 0; g < a->n_groups; g++)
        for (size_t i = 0; i < N_OWN + N_OTHERS; i++) {
            const stm_response *x = &a->groups[g].responses[i], *y = &b->groups[g].responses[i];
            assert_int_equal(x->n, y->n);
            assert_memory_equal(x->ids, y->ids, x->n * sizeof *x->ids);
            for (size_t k = 0; k < x->n; k++)
                assert_near(x->old_logprobs[k], y->old_logprobs[k], tolerance);
        }
}

/* A share too small to change a number, by two models, samples what one does. */
static void a_mixture_ends_in_either_model(void **state)
{
    (void)state;
    static const double pairs[][2] = {{0, 1e-300}, {1, 1 - 0x1p-53}};
    others_fixture one, two;
    set_up_others(&one, MPI_COMM_WORLD);
    set_up_others(&two, MPI_COMM_WORLD);
    for (size_t i = 0; i < 2; i++) {
        sample_others(&one, pairs[i][0], 1);
        sample_others(&two, pairs[i][1], 1);
        compare_others(&one.f.batch, &two.f.batch, 1e-12);
    }
    tear_down_others(&one);
    tear_down_others(&two);
}

static void a_mixture_does_not_depend_on_the_ranks(void **state)
{
    (void)state;
    others_fixture alone, together;
    set_up_others(&alone, MPI_COMM_SELF);
    set_up_others(&together, MPI_COMM_WORLD);
    together.f.options.rollout.slots = 2; /* so that rollouts wait, and go to other ranks */
    sample_others(&alone, 0.4, 1);
    sample_others(&together, 0.4, 1);
    compare_others(&alone.f.batch, &together.f.batch, 1e-11);
    tear_down_others(&alone);
    tear_down_others(&together);
}

/* Its rounds are recorded then, both models' at once: the same bits. */
static void a_mixture_that_runs_ahead_is_the_one_that_is_awaited(void **state)
{
    (void)state;
    others_fixture awaited, ahead;
    set_up_others(&awaited, MPI_COMM_WORLD);
    set_up_others(&ahead, MPI_COMM_WORLD);
    awaited.f.options.rollout.max_new_tokens = ahead.f.options.rollout.max_new_tokens = 12;
    awaited.f.options.rollout.min_new_tokens = ahead.f.options.rollout.min_new_tokens = 2;
    awaited.f.options.rollout.rounds_ahead = 0;
    for (int64_t n = 1; n < 4; n += 2) {
        ahead.f.options.rollout.rounds_ahead = n;
        ahead.f.options.rollout.slots = n == 1 ? 64 : 4;
        sample_others(&awaited, 0.4, 1);
        sample_others(&ahead, 0.4, 1);
        compare_others(&awaited.f.batch, &ahead.f.batch, 1e-13);
    }
    tear_down_others(&awaited);
    tear_down_others(&ahead);
}

/* log of the probabilities of all ids after the first n of a response: each as a response of one token, scored. */
static void next_token(const others_fixture *o, const stm_group *group, const stm_response *r, size_t n, double *policy,
                       double *reference)
{
    const size_t vocab = o->f.model->config.vocab_size, n_prompt = group->n_prompt + n;
    stm_batch batch = {.n_groups = 1};
    stm_scores scores;
    assert_ok(stm_alloc(1, sizeof *batch.groups, &batch.groups));
    stm_group *all = batch.groups;
    *all = (stm_group){.n_prompt = n_prompt, .n_responses = vocab, .temperature = 1};
    assert_ok(stm_alloc(n_prompt, sizeof *all->prompt, &all->prompt));
    assert_ok(stm_alloc(vocab, sizeof *all->responses, &all->responses));
    memcpy(all->prompt, group->prompt, group->n_prompt * sizeof *all->prompt);
    memcpy(all->prompt + group->n_prompt, r->ids, n * sizeof *all->prompt);
    for (size_t v = 0; v < vocab; v++) {
        stm_response *one = &all->responses[v];
        *one = (stm_response){.n = 1};
        assert_ok(stm_alloc(1, sizeof *one->ids, &one->ids));
        assert_ok(stm_alloc(1, 1, &one->mask));
        one->ids[0] = (int32_t)v;
        one->mask[0] = 1;
    }
    assert_ok(stm_score_batch(o->f.policy.engine, &o->f.grid, &batch, &scores));
    memcpy(policy, scores.logp, vocab * sizeof *policy);
    stm_scores_clear(&scores);
    assert_ok(stm_reference_score(o->reference, &o->f.policy, STM_ROW_REF, &batch));
    for (size_t v = 0; v < vocab; v++)
        reference[v] = all->responses[v].ref_logprobs[0];
    stm_batch_clear(&batch);
}

/* What a token's log-prob must be, and which the most probable one is: policy^(1 - share) reference^share, normalised.
 */
static double mixed_logprob(const others_fixture *o, const stm_group *group, const stm_response *r, size_t n,
                            double share, int32_t *best)
{
    const size_t vocab = o->f.model->config.vocab_size;
    double *numbers, sum = 0;
    assert_ok(stm_alloc(2 * vocab, sizeof *numbers, &numbers));
    next_token(o, group, r, n, numbers, numbers + vocab);
    *best = 0;
    for (size_t v = 0; v < vocab; v++) {
        numbers[v] = (1 - share) * numbers[v] + share * numbers[vocab + v];
        sum += exp(numbers[v]);
        *best = numbers[v] > numbers[*best] ? (int32_t)v : *best;
    }
    const double logp = numbers[r->ids[n]] - log(sum);
    free(numbers);
    return logp;
}

static void a_mixture_is_the_two_distributions_product(void **state)
{
    (void)state;
    static const double temperatures[] = {1, 0};
    const double share = 0.3;
    others_fixture o;
    size_t n_unlike = 0; /* tokens that the policy alone would have taken another for */
    set_up_others(&o, MPI_COMM_WORLD);
    for (size_t t = 0; t < 2; t++) {
        sample_others(&o, share, temperatures[t]);
        for (size_t g = 0; g < 2; g++) {
            const stm_group *group = &o.f.batch.groups[g];
            const stm_response *r = &group->responses[N_OWN];
            for (size_t k = 0; k < r->n; k++) {
                int32_t best, own;
                assert_near(r->old_logprobs[k], mixed_logprob(&o, group, r, k, share, &best), 1e-10);
                assert_true(temperatures[t] > 0 || r->ids[k] == best);
                (void)mixed_logprob(&o, group, r, k, 0, &own);
                n_unlike += own != best;
            }
        }
    }
    assert_true(n_unlike > 0);
    tear_down_others(&o);
}

/* Arenas of both engines against what was said to come: K and V of prompts and slots, twice. */
static void the_memory_of_two_models_is_planned(void **state)
{
    (void)state;
    others_fixture o;
    stm_model shared;
    stm_mixture mixture = {.model = &shared, .share = 0.4};
    stm_sampling sampling;
    set_up_others(&o, MPI_COMM_WORLD);
    o.f.options.reference.samples = N_OTHERS;
    o.f.options.reference.mixture = mixture.share;
    o.f.options.rollout.group_size = N_OTHERS;
    o.f.options.rollout.max_new_tokens = 40;
    assert_ok(stm_expect_rollouts(&o.f.policy, &o.f.batch));
    const double planned = (double)stm_engine_planned_bytes(o.f.policy.engine);
    assert_ok(stm_model_share(o.f.model, &shared));
    assert_ok(stm_engine_create(&shared, &o.f.grid, &o.f.options, 0, &mixture.engine));
    stm_sampling_init(&o.f.options, o.f.model, NULL, STM_RANDOM_OTHERS, 0, &sampling);
    sampling.group_size = N_OTHERS;
    sampling.mixture = &mixture;
    assert_ok(stm_rollout(o.f.policy.engine, o.f.model, &o.f.grid, &sampling, &o.f.batch, NULL));
    const double one = (double)stm_engine_peak_bytes(o.f.policy.engine),
                 other = (double)stm_engine_peak_bytes(mixture.engine);
    /* Tables of a few bytes a row are not in the plan; this model is small. */
    assert_true(one + other < 1.1 * planned && planned < 1.1 * (one + other));
    stm_engine_destroy(mixture.engine);
    stm_model_unshare(&shared);
    tear_down_others(&o);
}

/* Boundaries */

static void the_limit_counts_from_the_start_of_the_job(void **state)
{
    (void)state;
    const double start_s = stm_now_s() - 5; /* this process is a little older, or as old */
    const double now = (double)time(NULL);
    assert_true(stm_boundary_limit_s(start_s, 0, 0) == 0);
    assert_near(stm_boundary_limit_s(start_s, 2, now - 3600), 3605, 2.0 / 3605);
    assert_true(stm_boundary_limit_s(start_s, 1, now - 7200) > 0); /* none is left, which is not that none is set */
    assert_true(stm_boundary_limit_s(start_s, 1, now - 7200) < 1);
    assert_near(stm_boundary_limit_s(stm_now_s(), 1, 0), 3600, 60.0 / 3600); /* since the process began */
    assert_true(stm_boundary_limit_s(stm_now_s(), 1, 0) <= 3601);
}

static void restore_signals(void)
{
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGUSR1, SIG_DFL);
}

static void what_one_rank_sees_all_ranks_do(void **state)
{
    (void)state;
    stm_grid grid;
    stm_boundary boundary;
    assert_ok(stm_grid_create(MPI_COMM_WORLD, &(stm_axes){1, STM_AUTO, STM_AUTO}, 4, &grid));
    for (int who = 0; who < grid.n_ranks; who++) {
        stm_boundary_init(&boundary, stm_now_s(), 0, 1);
        assert_int_equal(stm_boundary_agree(&boundary, &grid, 0), 0);
        if (grid.rank == who)
            raise(SIGUSR1);
        assert_int_equal(stm_boundary_agree(&boundary, &grid, 0), STM_BOUNDARY_SAVE);
        stm_boundary_saved(&boundary);
        assert_int_equal(stm_boundary_agree(&boundary, &grid, 0), 0);
    }
    if (grid.rank == grid.n_ranks - 1)
        raise(grid.rank % 2 ? SIGTERM : SIGINT);
    assert_int_equal(stm_boundary_agree(&boundary, &grid, 0), STM_BOUNDARY_SIGNAL);
    if (grid.rank == grid.n_ranks - 1)
        raise(SIGTERM); /* at once: a launcher says it twice, and the process is still there */
    assert_int_equal(stm_boundary_agree(&boundary, &grid, 0), STM_BOUNDARY_SIGNAL);
    restore_signals();
    stm_grid_destroy(&grid);
}

static void the_time_limit_leaves_room_for_what_is_next_and_a_save(void **state)
{
    (void)state;
    stm_grid grid;
    stm_boundary boundary;
    assert_ok(stm_grid_create(MPI_COMM_WORLD, &(stm_axes){1, STM_AUTO, STM_AUTO}, 4, &grid));
    stm_boundary_init(&boundary, stm_now_s() - 3000, grid.rank == 0 ? 3600.0 : 0.0, 100); /* 600 s are left */
    stm_boundary_measured(&boundary.step_s, 300);
    stm_boundary_measured(&boundary.step_s, 200);                               /* the longest counts */
    assert_int_equal(stm_boundary_agree(&boundary, &grid, boundary.step_s), 0); /* 400 s and a tenth */
    stm_boundary_measured(&boundary.save_s, 260);
    assert_int_equal(stm_boundary_agree(&boundary, &grid, boundary.step_s), STM_BOUNDARY_TIME);
    restore_signals();
    stm_grid_destroy(&grid);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_update_is_adamw_on_the_whole_gradient),
        cmocka_unit_test(a_gradient_longer_than_the_clip_is_scaled_to_it),
        cmocka_unit_test(a_gradient_shorter_than_the_clip_is_left_alone),
        cmocka_unit_test(an_update_that_is_no_number_changes_nothing),
        cmocka_unit_test(groups_that_are_skipped_are_not_counted_as_repeated),
        cmocka_unit_test(others_are_sampled_by_the_reference),
        cmocka_unit_test(a_mixture_ends_in_either_model),
        cmocka_unit_test(a_mixture_does_not_depend_on_the_ranks),
        cmocka_unit_test(a_mixture_that_runs_ahead_is_the_one_that_is_awaited),
        cmocka_unit_test(a_mixture_is_the_two_distributions_product),
        cmocka_unit_test(the_memory_of_two_models_is_planned),
        cmocka_unit_test(the_reference_keeps_the_weights_of_its_making),
        cmocka_unit_test(the_limit_counts_from_the_start_of_the_job),
        cmocka_unit_test(the_time_limit_leaves_room_for_what_is_next_and_a_save),
        cmocka_unit_test(what_one_rank_sees_all_ranks_do), /* last: the process remembers that it was asked to end */
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
