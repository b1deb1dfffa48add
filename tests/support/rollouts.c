#include "support/rollouts.h"

#include <stdlib.h>

#include "group/device_reach.h"
#include "model/stages.h"
#include "support/support.h"

void rollout_set_up(rollout_fixture *f, stm_test_config config, const stm_backend *backend)
{
    *f = (rollout_fixture){0};
    assert_ok(backend->open(1, &f->stream));
    f->model = stm_test_model(backend, f->stream, &stm_test_configs[config], 5);
}

void rollout_set_up_deep(rollout_fixture *f, stm_test_config config, const stm_backend *backend)
{
    *f = (rollout_fixture){0};
    stm_model_config deep = stm_test_configs[config];
    deep.n_layers = 5;
    assert_ok(backend->open(1, &f->stream));
    f->model = stm_test_model(backend, f->stream, &deep, 5);
}

void rollout_tear_down(rollout_fixture *f)
{
    const stm_backend *backend = f->model->backend;
    stm_model_destroy(f->model);
    backend->close(f->stream);
}

/* The prompts of a ragged batch, without its responses. */
static void make_prompts(const rollout_fixture *f, stm_batch *batch)
{
    stm_test_batch(3, STM_TEST_PROMPTS, f->model->config.vocab_size, batch);
    for (size_t g = 0; g < batch->n_groups; g++) {
        stm_batch shell = {.n_groups = 1};
        assert_ok(stm_alloc(1, sizeof *shell.groups, &shell.groups));
        shell.groups[0] = batch->groups[g];
        assert_ok(stm_alloc(batch->groups[g].n_prompt, sizeof(int32_t), &batch->groups[g].prompt));
        memcpy(batch->groups[g].prompt, shell.groups[0].prompt, batch->groups[g].n_prompt * sizeof(int32_t));
        batch->groups[g].responses = NULL;
        batch->groups[g].n_responses = 0;
        stm_batch_clear(&shell);
    }
}

/* Without the groups of another rollout. */
static void leave_out(size_t n, stm_batch *batch)
{
    for (size_t g = 0; g < n; g++)
        free(batch->groups[g].prompt);
    batch->n_groups -= n;
    memmove(batch->groups, batch->groups + n, batch->n_groups * sizeof *batch->groups);
}

/* Rewards that tell summaries apart. */
static void reward_all(stm_batch *cuts)
{
    for (size_t g = 0; g < cuts->n_groups; g++)
        for (size_t i = 0; i < cuts->groups[g].n_responses; i++) {
            stm_response *r = &cuts->groups[g].responses[i];
            r->has_reward = true;
            r->reward = (double)(r->n * 100) + (double)r->ids[0];
        }
}

static stm_status roll_out_cut(const stm_budgets *budgets, stm_engine *engine, const stm_model *model,
                               const stm_grid *grid, stm_sampling *sampling, stm_batch *batch,
                               stm_rollout_counts *counts)
{
    stm_batch cuts = {0};
    sampling->use = STM_RANDOM_TRAIN;
    stm_status status = stm_budgets_roll_out(budgets, engine, model, grid, sampling, batch, &cuts, counts);
    reward_all(&cuts);
    if (status == STM_OK)
        status = stm_budgets_join(budgets, true, &cuts, batch);
    stm_batch_clear(&cuts);
    return status;
}

/* On the layout that the overrides ask for; a pipeline must divide the ranks of comm. counts may be NULL. */
stm_status rollout_try(MPI_Comm comm, const rollout_fixture *f, const char *const *overrides, size_t n,
                       stm_batch *batch, stm_rollout_counts *counts)
{
    stm_options options;
    stm_grid grid;
    stm_engine *engine;
    stm_sampling sampling;
    stm_model stage = *f->model; /* the same memory */
    assert_ok(stm_options_init(&options));
    assert_ok(
        stm_options_read_arguments(&options, STM_COMMAND_GENERATE, (int)n, (char *const *)(void *)(size_t)overrides));
    make_prompts(f, batch);
    leave_out(f->n_before, batch);
    const int64_t n_stages = STM_MAX((int64_t)1, options.parallel.pipeline);
    assert_ok(stm_grid_create(comm, &(stm_axes){n_stages, options.parallel.suffix, options.parallel.replica},
                              batch->n_groups, &grid));
    const stm_reach *reach;
    assert_ok(stm_device_reach_open(stage.backend, stage.stream, &reach));
    assert_ok(stm_grid_take_reach(&grid, reach));
    stm_model_hold_stage(&stage, (size_t)n_stages, (size_t)grid.stage);
    assert_ok(stm_engine_create(&stage, &grid, &options, 0, &engine));
    stm_sampling_init(&options, f->model, NULL, STM_RANDOM_GENERATE, 0, &sampling);
    sampling.watch = f->watch;
    sampling.first_slot = f->n_before;
    sampling.partner = f->partner;
    if (f->partner) {
        sampling.max_turns = (size_t)options.rollout.max_turns;
        sampling.max_appended = (size_t)options.rollout.max_environment_tokens;
    }
    const stm_status status = f->budgets ? roll_out_cut(f->budgets, engine, &stage, &grid, &sampling, batch, counts)
                                         : stm_rollout(engine, &stage, &grid, &sampling, batch, counts);
    stm_engine_destroy(engine);
    stm_grid_destroy(&grid);
    stm_device_reach_close(reach);
    stm_options_clear(&options);
    return status;
}

void rollout_assert_same(const stm_batch *a, const stm_batch *b)
{
    assert_int_equal(a->n_groups, b->n_groups);
    for (size_t g = 0; g < a->n_groups; g++) {
        assert_int_equal(a->groups[g].n_responses, b->groups[g].n_responses);
        for (size_t i = 0; i < a->groups[g].n_responses; i++) {
            const stm_response *x = &a->groups[g].responses[i], *y = &b->groups[g].responses[i];
            assert_int_equal(x->n, y->n);
            assert_int_equal(x->finish, y->finish);
            assert_memory_equal(x->ids, y->ids, x->n * sizeof *x->ids);
            assert_memory_equal(x->mask, y->mask, x->n);
            for (size_t k = 0; k < x->n; k++) {
                assert_near(x->old_logprobs[k], y->old_logprobs[k], 1e-12);
                assert_near(x->kept_mass[k], y->kept_mass[k], 1e-12);
            }
        }
    }
}

/* Sampled log-probs against those of the engine that trains, per token. */
void rollout_compare_with_scores(const rollout_fixture *f, const stm_batch *batch, double tolerance)
{
    stm_options options;
    stm_scores scores;
    stm_test_options(&options, NULL, 0);
    stm_test_scores(MPI_COMM_WORLD, f->model, batch, &options, &scores);
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++) {
            const stm_response *r = &batch->groups[g].responses[i];
            const double *logp = scores.logp + scores.first[scores.response_0[g] + i];
            for (size_t k = 0; k < r->n; k++)
                assert_true(!r->mask[k] || fabs(logp[k] - r->old_logprobs[k]) < tolerance);
        }
    stm_scores_clear(&scores);
    stm_options_clear(&options);
}

void rollout_end_often(rollout_fixture *f)
{
    f->model->config.n_eos = 9;
    for (int i = 0; i < 9; i++)
        f->model->config.eos[i] = 2 * i;
}

void rollout_assert_nan_is_said(const rollout_fixture *f, const char *const *overrides, size_t n)
{
    const double nan = NAN;
    const stm_model *model = f->model;
    assert_ok(model->backend->write(model->stream, stm_at(model->backend, model->weights, model->final_norm), &nan,
                                    sizeof nan));
    for (int i = 0; i < 2; i++) {
        stm_batch batch;
        assert_int_equal(rollout_try(MPI_COMM_WORLD, f, overrides, n, &batch, NULL), STM_ERR_NUMERIC);
        assert_non_null(strstr(stm_failure(), "token 0: the log-prob is not a finite number"));
        stm_batch_clear(&batch);
    }
}

int rollout_fourth_look(void *context)
{
    return ++*(int *)context > 3;
}
