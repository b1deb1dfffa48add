/* Random weights. */
#include <omp.h>

#include "support/device.h"
#include "support/model.h"

static void random_weights_depend_on_the_seed_alone(void **state)
{
    (void)state;
    device d;
    device_open(&d, "cpu", 8, 1);
    const int n_threads = omp_get_max_threads();
    stm_model *model;
    assert_ok(stm_model_create(&stm_test_configs[STM_TEST_QWEN2], d.backend, d.stream, &model));
    omp_set_num_threads(1);
    assert_ok(stm_model_randomize(model, 5));
    double *a = stm_test_weights(model);
    omp_set_num_threads(3);
    assert_ok(stm_model_randomize(model, 5));
    double *b = stm_test_weights(model);
    assert_memory_equal(a, b, model->n_parameters * sizeof *a);
    assert_ok(stm_model_randomize(model, 6));
    double *c = stm_test_weights(model);
    assert_true(memcmp(a, c, model->n_parameters * sizeof *a) != 0);
    omp_set_num_threads(n_threads);

    for (size_t t = 0; t < model->n_tensors; t++) {
        const stm_parameter *tensor = &model->tensors[t];
        const bool output = strstr(tensor->name, "o_proj") || strstr(tensor->name, "down_proj");
        double sum = 0, squares = 0;
        for (size_t i = 0; i < tensor->n; i++) {
            sum += a[tensor->offset + i];
            squares += a[tensor->offset + i] * a[tensor->offset + i];
        }
        if (tensor->n_dims == 1) {
            assert_near(sum, strstr(tensor->name, ".bias") ? 0.0 : (double)tensor->n, 0);
        } else { /* the deviation of n draws is known to sqrt(1 / 2n), here 3 %: five of these */
            assert_near(sqrt(squares / (double)tensor->n) / 0.02, output ? 0.5 : 1.0,
                        0.16); /* 1 / sqrt(2 * 2 layers) */
        }
    }
    const size_t n = stm_test_parameter(model, "model.layers.0.mlp.gate_proj.weight")->n;
    const double *gate = a + model->layers[0].gate_up;
    assert_true(memcmp(gate, gate + n, n * sizeof *gate) != 0);                     /* another tensor */
    assert_true(memcmp(gate, a + model->layers[1].gate_up, n * sizeof *gate) != 0); /* another layer */
    free(a);
    free(b);
    free(c);
    stm_model_destroy(model);

    const stm_model_config wide = {"llama", 200, 64, 64, 1, 4, 4, 16, 32, .initializer_range = 0.08, .rope_theta = 1e4};
    assert_ok(stm_model_create(&wide, d.backend, d.stream, &model));
    assert_ok(stm_model_randomize(model, 5));
    a = stm_test_weights(model);
    double squares = 0;
    for (size_t i = 0; i < 200 * 64; i++)
        squares += a[model->embedding + i] * a[model->embedding + i];
    assert_near(sqrt(squares / (200 * 64)) / 0.08, 1.0, 0.04); /* known to 0.6 % */
    free(a);
    stm_model_destroy(model);

    stm_model_config large = stm_test_configs[STM_TEST_MISTRAL];
    large.vocab_size = 30011;
    assert_ok(stm_model_create(&large, d.backend, d.stream, &model));
    assert_ok(stm_model_randomize(model, 5));
    a = stm_test_weights(model);
    for (size_t first = 1024; first <= 1 << 18; first *= 2)
        assert_true(memcmp(a, a + first, 1024 * sizeof *a) != 0); /* nothing comes again */
    free(a);
    stm_model_destroy(model);
    device_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_weights_depend_on_the_seed_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
