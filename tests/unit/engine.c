/* The engine's gradient against finite differences of its own loss, for every tensor of every architecture. */
#include "base/random.h"
#include "support/batch.h"
#include "support/model.h"

static double uniform(uint64_t tensor, size_t i)
{
    const stm_random_key key = {.seed = 17, .use = STM_RANDOM_INIT, .step = tensor, .token = (uint32_t)i};
    return 2 * stm_random_uniform(&key) - 1;
}

/* Without old log-probs the ratio is 1 whatever the weights: a gradient that no difference of losses can see. */
static void give_old_logprobs(stm_batch *batch)
{
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++) {
            stm_response *r = &batch->groups[g].responses[i];
            if (r->old_logprobs)
                continue;
            assert_ok(stm_alloc(r->n, sizeof(double), &r->old_logprobs));
            memcpy(r->old_logprobs, r->ref_logprobs, r->n * sizeof(double));
        }
}

static double loss_of(const stm_model *model, const stm_batch *batch, const stm_options *options)
{
    stm_test_result result;
    stm_test_gradient(MPI_COMM_SELF, model, batch, options, &result);
    const double loss = result.loss;
    stm_test_result_clear(&result);
    return loss;
}

/* (L(w + e v) - L(w - e v)) / 2e for a random direction v of one tensor. */
static double slope(stm_model *model, const stm_parameter *p, uint64_t tensor, const stm_batch *batch,
                    const stm_options *options)
{
    static const double step = 2e-6;
    double *weights = (double *)model->weights + p->offset, losses[2];
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < p->n; i++)
            weights[i] += (side == 0 ? step : -2 * step) * uniform(tensor, i);
        losses[side] = loss_of(model, batch, options);
    }
    for (size_t i = 0; i < p->n; i++)
        weights[i] += step * uniform(tensor, i);
    return (losses[0] - losses[1]) / (2 * step);
}

static void check_gradient(stm_test_config config, const char *const *overrides, size_t n)
{
    stm_stream *stream;
    assert_ok(stm_backend_cpu_f64.open(1, &stream));
    stm_model *model = stm_test_model(&stm_backend_cpu_f64, stream, &stm_test_configs[config], 9);
    stm_batch batch;
    stm_options options;
    stm_test_result result;
    stm_test_batch(4, 5, model->config.vocab_size, &batch);
    give_old_logprobs(&batch);
    stm_test_options(&options, overrides, n);
    stm_test_gradient(MPI_COMM_SELF, model, &batch, &options, &result);
    for (size_t t = 0; t < model->n_tensors; t++) {
        const stm_parameter *p = &model->tensors[t];
        double expected = 0, norm = 0;
        for (size_t i = 0; i < p->n; i++) {
            expected += result.gradient[p->offset + i] * uniform(t, i);
            norm += result.gradient[p->offset + i] * result.gradient[p->offset + i];
        }
        /* rounding of the loss, 1e-15 / step, and the third derivative leave about this */
        const double difference = fabs(slope(model, p, t, &batch, &options) - expected);
        if (!(difference < 1e-6 * sqrt(norm) + 1e-8))
            fail_msg("%s of configuration %d: off by %g of %g", p->name, (int)config, difference, expected);
    }
    stm_test_result_clear(&result);
    stm_options_clear(&options);
    stm_batch_clear(&batch);
    stm_model_destroy(model);
    stm_backend_cpu_f64.close(stream);
}

static void the_gradient_of_every_tensor_matches_finite_differences(void **state)
{
    (void)state;
    static const char *const overrides[] = {"objective.name=sft", "memory.chunk_tokens=96"};
    for (stm_test_config config = 0; config < STM_TEST_N_CONFIGS; config++)
        check_gradient(config, overrides, 2);
}

/* One of each scope whose gradient has no constants: token, response (twice), group (twice). */
static void so_it_does_whatever_an_objective_couples(void **state)
{
    (void)state;
    static const char *const overrides[][4] = {
        {"objective.name=grpo", "objective.proximal_coef=0.5", "objective.surrogate=none", "memory.chunk_tokens=96"},
        {"objective.name=grpo", "objective.ratio_level=sequence", "objective.surrogate=none", "memory.chunk_tokens=32"},
        {"objective.name=mdpo_regression", "objective.tau=0.2", "memory.recompute=always", "memory.chunk_tokens=96"},
        {"objective.name=copg", "objective.kl_coef=0.1", "memory.recompute=always", "memory.chunk_tokens=96"},
        {"objective.name=disco", "objective.tau=2", "objective.penalty_coef=0", "memory.chunk_tokens=96"}};
    for (size_t i = 0; i < sizeof overrides / sizeof *overrides; i++)
        check_gradient(STM_TEST_LLAMA, overrides[i], 4);
}

/* 30 rollouts of a long prompt: the prompt's rows are computed once. */
static void a_group_costs_one_prompt(void **state)
{
    (void)state;
    stm_stream *stream;
    assert_ok(stm_backend_cpu_f64.open(1, &stream));
    stm_model *model = stm_test_model(&stm_backend_cpu_f64, stream, &stm_test_configs[STM_TEST_LLAMA], 9);
    stm_batch batch;
    stm_options options;
    stm_test_result result;
    stm_test_batch(4, 3, model->config.vocab_size, &batch);
    stm_test_options(&options, NULL, 0);
    stm_test_gradient(MPI_COMM_SELF, model, &batch, &options, &result);
    assert_true(result.counts.rows < 0.7 * stm_engine_rows_repeated(&batch, true));
    assert_true(result.counts.rows_again == 0);
    stm_test_result_clear(&result);
    stm_options_clear(&options);
    stm_batch_clear(&batch);
    stm_model_destroy(model);
    stm_backend_cpu_f64.close(stream);
}

int main(void)
{
    int provided;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_gradient_of_every_tensor_matches_finite_differences),
        cmocka_unit_test(so_it_does_whatever_an_objective_couples),
        cmocka_unit_test(a_group_costs_one_prompt),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    MPI_Finalize();
    return failed;
}
