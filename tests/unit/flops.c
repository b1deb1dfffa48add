/* The count of useful work against a loop over every layer, row and key; and the clocks of a pass. */
#include "group/flops.h"

#include "group/profile.h"
#include "support/batch.h"
#include "support/model.h"

enum { VOCAB = 50 };

/* A decoder whose sizes no two of which are alike. */
static const stm_model_config config = {.vocab_size = VOCAB,
                                        .hidden_size = 12,
                                        .intermediate_size = 20,
                                        .n_layers = 3,
                                        .n_heads = 6,
                                        .n_kv_heads = 2,
                                        .head_dim = 4};

/* One row at `position`, layer by layer and key by key. */
static double count_row(const stm_model_config *c, size_t position, bool active)
{
    double flops = 0;
    for (size_t layer = 0; layer < c->n_layers; layer++) {
        const bool whole = active || layer + 1 < c->n_layers;
        for (int kv = 0; kv < 2; kv++) /* [hidden] x [hidden, KV heads * head_dim], of K and of V */
            flops += 2.0 * (double)(c->hidden_size * c->n_kv_heads * c->head_dim);
        if (!whole)
            continue;
        for (int q_and_o = 0; q_and_o < 2; q_and_o++)
            flops += 2.0 * (double)(c->hidden_size * c->n_heads * c->head_dim);
        for (int gate_up_down = 0; gate_up_down < 3; gate_up_down++)
            flops += 2.0 * (double)(c->hidden_size * c->intermediate_size);
        for (size_t key = 0; key <= position; key++)
            for (size_t head = 0; head < c->n_heads; head++)
                flops += 2.0 * (double)c->head_dim + 2.0 * (double)c->head_dim; /* q.k, and p times v */
    }
    return flops + (active ? 2.0 * (double)(c->hidden_size * c->vocab_size) : 0);
}

/* Groups whose prompts begin differently; answers differ from their first token on, and some tokens have no loss. */
static void make_batch(stm_batch *batch)
{
    static const size_t prompts[] = {5, 1, 9}, answers[] = {4, 1, 6, 3};
    *batch = (stm_batch){.n_groups = 3};
    assert_ok(stm_alloc(3, sizeof *batch->groups, &batch->groups));
    for (size_t g = 0; g < 3; g++) {
        stm_group *group = &batch->groups[g];
        *group = (stm_group){.n_prompt = prompts[g], .n_responses = 4, .temperature = 1};
        assert_ok(stm_alloc(prompts[g], sizeof *group->prompt, &group->prompt));
        assert_ok(stm_alloc(4, sizeof *group->responses, &group->responses));
        for (size_t k = 0; k < prompts[g]; k++)
            group->prompt[k] = (int32_t)(10 * g + k);
        for (size_t i = 0; i < 4; i++) {
            stm_response *r = &group->responses[i];
            r->n = answers[i];
            assert_ok(stm_alloc(r->n, sizeof *r->ids, &r->ids));
            assert_ok(stm_alloc(r->n, 1, &r->mask));
            for (size_t k = 0; k < r->n; k++) {
                r->ids[k] = (int32_t)(k == 0 ? 40 + i : k);
                r->mask[k] = k != 1 || r->n == 1;
            }
        }
    }
}

/* Each row counted once by tree, and a prompt's for every answer when repeated. */
static double count_batch(const stm_batch *batch, stm_forward_mode mode)
{
    double flops = 0;
    for (size_t g = 0; g < batch->n_groups; g++) {
        const stm_group *group = &batch->groups[g];
        for (size_t i = 0; i < group->n_responses; i++) {
            const stm_response *r = &group->responses[i];
            for (size_t position = 0; position + 1 < group->n_prompt + r->n; position++) {
                const bool of_prompt = position + 1 < group->n_prompt;
                if (of_prompt && i > 0 && mode != STM_FORWARD_REPEATED)
                    continue;
                flops += count_row(&config, position, !of_prompt && r->mask[position + 1 - group->n_prompt]);
            }
        }
    }
    return flops;
}

static double flops_of(const stm_batch *batch, stm_forward_mode mode, size_t max_segment_tokens)
{
    stm_sequence sequences[12];
    for (size_t i = 0; i < 12; i++) {
        const stm_group *group = &batch->groups[i / 4];
        sequences[i] = (stm_sequence){i / 4, i % 4, group->n_prompt + group->responses[i % 4].n};
    }
    const stm_forest_options options = {
        .mode = mode, .min_shared_tokens = 16, .across_groups = true, .max_segment_tokens = max_segment_tokens};
    stm_forest forest;
    stm_flops flops;
    assert_ok(stm_forest_create(batch, sequences, 12, &options, &forest));
    stm_flops_of_forest(&config, &forest, &flops);
    stm_forest_clear(&forest);
    assert_near(stm_flops_update(&flops), 3 * stm_flops_forward(&flops), 1e-15);
    return stm_flops_forward(&flops);
}

static void count_of_a_forest_is_that_of_a_loop_over_rows_and_keys(void **state)
{
    (void)state;
    stm_batch batch;
    make_batch(&batch);
    for (stm_forward_mode mode = STM_FORWARD_TREE; mode <= STM_FORWARD_REPEATED; mode++)
        for (size_t cut = 0; cut < 4; cut++) /* pieces of a segment cost what the whole does */
            assert_near(flops_of(&batch, mode, cut), count_batch(&batch, mode), 1e-14);
    assert_true(count_batch(&batch, STM_FORWARD_REPEATED) > 1.2 * count_batch(&batch, STM_FORWARD_TREE));
    stm_batch_clear(&batch);
}

static void count_of_sampling_is_that_of_its_rows(void **state)
{
    (void)state;
    stm_flops flops = {0};
    double expected = 0;
    stm_flops_add_sampling(&config, 7, 5, &flops);
    for (size_t position = 6; position < 11; position++)
        expected += count_row(&config, position, true);
    assert_near(stm_flops_forward(&flops), expected, 1e-14);
}

static void visit_nothing(void *context, const stm_visit *visit)
{
    (void)context;
    for (size_t k = 0; visit->dlogp && k < visit->n; k++)
        visit->dlogp[k] += 1;
}

/* Laps lie inside the call, are most of its time (on a machine at work, in one of several tries), and every stage that
 * ran has some; without recomputation none is counted. */
static void profile_of_a_pass_has_its_stages_and_no_more_than_its_time(void **state)
{
    (void)state;
    const stm_backend *backend = &stm_backend_cpu_f32;
    for (stm_recompute recompute = STM_RECOMPUTE_ALWAYS; recompute <= STM_RECOMPUTE_NEVER; recompute++) {
        stm_stream *stream;
        stm_options options;
        stm_batch batch;
        stm_grid grid;
        stm_engine *engine;
        stm_profile profile = {0};
        void *gradient;
        assert_ok(backend->open(1, &stream));
        stm_model *model = stm_test_model(backend, stream, &stm_test_configs[STM_TEST_LLAMA], 1);
        stm_test_batch(1, 4, model->config.vocab_size, &batch);
        stm_test_options(&options, (const char *const[]){"memory.chunk_tokens=16"}, 1);
        options.memory.recompute = recompute;
        assert_ok(stm_grid_create(MPI_COMM_SELF, &(stm_axes){1, 1, 1}, batch.n_groups, &grid));
        assert_ok(stm_engine_create(model, &grid, &options, 0, &engine));
        assert_ok(backend->alloc(stream, model->n_parameters * backend->real_bytes, &gradient));
        assert_ok(backend->zero(stream, gradient, model->n_parameters * backend->real_bytes));
        stm_engine_settings_of(engine)->profile = &profile;
        bool most_is_in_laps = false;
        for (int i = 0; i < 20 && !most_is_in_laps; i++) {
            profile = (stm_profile){0};
            const double start = stm_now_s();
            assert_ok(stm_engine_gradient(engine, &batch, NULL, NULL, visit_nothing, NULL, gradient));
            const double wall_s = stm_now_s() - start;
            double sum = 0;
            for (stm_stage stage = 0; stage < STM_N_STAGES; stage++)
                sum += profile.seconds[stage];
            assert_true(sum <= wall_s);
            most_is_in_laps = sum > 0.3 * wall_s;
        }
        assert_true(most_is_in_laps);
        assert_true(profile.seconds[STM_STAGE_PREFIX] > 0);
        assert_true(profile.seconds[STM_STAGE_SUFFIX] > 0);
        assert_true(profile.seconds[STM_STAGE_HEAD] > 0);
        assert_true(profile.seconds[STM_STAGE_BACKWARD] > 0);
        assert_int_equal(profile.seconds[STM_STAGE_RECOMPUTE] > 0, recompute == STM_RECOMPUTE_ALWAYS);
        backend->free(stream, gradient);
        stm_engine_destroy(engine);
        stm_grid_destroy(&grid);
        stm_options_clear(&options);
        stm_batch_clear(&batch);
        stm_model_destroy(model);
        backend->close(stream);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(count_of_a_forest_is_that_of_a_loop_over_rows_and_keys),
        cmocka_unit_test(count_of_sampling_is_that_of_its_rows),
        cmocka_unit_test(profile_of_a_pass_has_its_stages_and_no_more_than_its_time),
    };
    MPI_Init(&argc, &argv);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    MPI_Finalize();
    return failed;
}
