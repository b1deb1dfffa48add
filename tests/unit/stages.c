/* Which stage of a pipeline has which layers and parameters, and that it has memory for no others. */
#include <unistd.h>

#include "model/layout.h"
#include "model/stages.h"
#include "support/device.h"
#include "support/model.h"

enum { MOST_LAYERS = 12 };

/* Of a pipeline's slowest stage. */
static double slowest_of(const stm_model_config *config, const size_t *ends, size_t n_stages)
{
    const double layer = stm_model_layer_flops(config) / (double)config->n_layers;
    double most = 0;
    for (size_t s = 0; s < n_stages; s++) {
        const size_t n = ends[s] - (s ? ends[s - 1] : 0);
        const double head = s + 1 == n_stages ? stm_model_head_flops(config) : 0;
        most = fmax(most, (double)n * layer + head);
    }
    return most;
}

/* The least that any cut of layers [first, n_layers) into stages [s, n_stages) reaches. */
static double best_of(const stm_model_config *config, size_t *ends, size_t s, size_t n_stages)
{
    const size_t first = s ? ends[s - 1] : 0;
    double best = INFINITY;
    if (s + 1 == n_stages) {
        ends[s] = config->n_layers;
        return slowest_of(config, ends, n_stages);
    }
    for (ends[s] = first + 1; ends[s] + (n_stages - s - 1) <= config->n_layers; ends[s]++)
        best = fmin(best, best_of(config, ends, s + 1, n_stages));
    return best;
}

/* Any number of layers; a head that costs as much as `head_layers` layers. */
static stm_model_config config_of(size_t n_layers, double head_layers)
{
    stm_model_config config = stm_test_configs[STM_TEST_LLAMA];
    config.n_layers = n_layers;
    const double layer = stm_model_layer_flops(&config) / (double)n_layers;
    config.vocab_size = (size_t)(head_layers * layer / (2.0 * (double)config.hidden_size)) + 1;
    return config;
}

static void no_cut_has_a_faster_slowest_stage(void **state)
{
    (void)state;
    const double heads[] = {0.01, 1, 2.5, 7};
    for (size_t h = 0; h < sizeof heads / sizeof *heads; h++)
        for (size_t n_layers = 1; n_layers <= MOST_LAYERS; n_layers++)
            for (size_t n_stages = 1; n_stages <= n_layers; n_stages++) {
                const stm_model_config config = config_of(n_layers, heads[h]);
                size_t ends[MOST_LAYERS] = {0}, tried[MOST_LAYERS], before = 0;
                for (size_t s = 0; s < n_stages; s++) {
                    size_t first;
                    stm_stage_layers(&config, n_stages, s, &first, &ends[s]);
                    assert_int_equal(first, before);
                    assert_true(ends[s] > first);
                    before = ends[s];
                }
                assert_int_equal(before, n_layers);
                const double best = best_of(&config, tried, 0, n_stages);
                assert_true(slowest_of(&config, ends, n_stages) <= best * (1 + 1e-12));
            }
}

/* The tensors of the layers, of the embedding (first stage), of final norm and head (last). */
static bool is_of_stage(const stm_model *model, const char *name)
{
    size_t layer;
    if (sscanf(name, "model.layers.%zu.", &layer) == 1)
        return layer >= model->first_layer && layer < model->end_layer;
    return strcmp(name, "model.embed_tokens.weight") == 0 ? model->first_layer == 0
                                                          : model->end_layer == model->config.n_layers;
}

static void stages_own_each_parameter_once(void **state)
{
    (void)state;
    for (stm_test_config c = 0; c < STM_TEST_N_CONFIGS; c++)
        for (size_t n_layers = 1; n_layers <= MOST_LAYERS; n_layers++)
            for (size_t n_stages = 1; n_stages <= n_layers; n_stages++) {
                stm_model_config config = stm_test_configs[c];
                stm_model *model;
                size_t end = 0;
                config.n_layers = n_layers;
                assert_ok(stm_model_lay_out(&config, &model));
                for (size_t s = 0; s < n_stages; s++) {
                    stm_model_hold_stage(model, n_stages, s);
                    assert_int_equal(model->own.first, end);
                    end += model->own.n;
                    for (size_t t = 0; t < model->n_tensors; t++) {
                        const stm_parameter *p = &model->tensors[t];
                        const bool inside = p->offset >= model->own.first && p->offset + p->n <= end;
                        assert_int_equal(inside, is_of_stage(model, p->name));
                    }
                    const bool copies = config.tied && n_stages > 1 && s + 1 == n_stages;
                    assert_int_equal(model->tied_copy.n, copies ? config.vocab_size * config.hidden_size : 0);
                    assert_int_equal(model->tied_copy.first, model->embedding);
                    assert_int_equal(stm_model_is_whole(model), n_stages == 1);
                }
                assert_int_equal(end, model->n_parameters);
                stm_model_destroy(model);
            }
}

/* Arrays */

static size_t resident_bytes(void)
{
    size_t total = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%zu %zu", &total, &resident), 2);
    fclose(file);
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}

/* Whether the system may read a byte there; a fault would end the test. */
static bool may_be_touched(const char *at)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    const bool may = write(ends[1], at, 1) == 1;
    close(ends[0]);
    close(ends[1]);
    return may;
}

static stm_model *large_stage(const device *d, bool tied, size_t n_stages, size_t stage)
{
    stm_model_config config = stm_test_configs[tied ? STM_TEST_LLAMA_TIED : STM_TEST_LLAMA];
    stm_model *model;
    config.n_layers = 4;
    config.vocab_size = 10001;
    config.hidden_size = 240;
    config.intermediate_size = 2001;
    assert_ok(stm_model_lay_out(&config, &model));
    stm_model_hold_stage(model, n_stages, stage);
    model->backend = d->backend;
    model->stream = d->stream;
    return model;
}

static void an_array_of_a_stage_has_memory_for_its_parameters_alone(void **state)
{
    (void)state;
    device d;
    device_open(&d, "cpu", 4, 1);
    for (size_t stage = 0; stage < 3; stage++)
        for (int tied = 0; tied < 2; tied++) {
            stm_model *model = large_stage(&d, tied, 3, stage);
            const size_t all = model->n_parameters * 4, own = stm_model_own_bytes(model);
            const size_t before = resident_bytes();
            char *array;
            assert_ok(stm_model_array_create(model, &array));
            assert_true(resident_bytes() - before < own / 8);
            assert_ok(stm_model_array_zero(model, array));
            const size_t grown = resident_bytes() - before;
            assert_true(own < all * 2 / 3);
            assert_true(grown > own * 7 / 8 && grown < own + ((size_t)1 << 20));
            for (size_t i = 0; i < 2; i++) {
                const stm_range held = stm_model_held(model, i);
                if (held.n > 0)
                    assert_true(may_be_touched(array + 4 * held.first) &&
                                may_be_touched(array + 4 * (held.first + held.n) - 1));
            }
            const size_t middle = model->layers[stage == 1 ? 3 : 1].gate_up;
            if (middle < model->own.first || middle >= model->own.first + model->own.n)
                assert_false(may_be_touched(array + 4 * (middle + 3000)));
            stm_model_array_destroy(model, array);
            assert_false(may_be_touched(array + 4 * (model->own.first + model->own.n / 2)));
            stm_model_destroy(model);
        }
    device_close(&d);
}

static void a_stage_has_the_random_weights_of_the_whole_model(void **state)
{
    (void)state;
    device d;
    device_open(&d, "cpu", 8, 2);
    for (int tied = 0; tied < 2; tied++) {
        stm_model *whole = large_stage(&d, tied, 1, 0);
        assert_ok(stm_model_allocate(whole, d.backend, d.stream));
        assert_ok(stm_model_randomize(whole, 7));
        for (size_t stage = 0; stage < 3; stage++) {
            stm_model *part = large_stage(&d, tied, 3, stage);
            void *copy;
            assert_ok(stm_model_allocate(part, d.backend, d.stream));
            assert_ok(stm_model_randomize(part, 7));
            assert_ok(stm_model_array_create(part, &copy));
            assert_ok(stm_model_array_copy(part, copy, part->weights));
            for (size_t i = 0; i < 2; i++) {
                const stm_range held = stm_model_held(part, i);
                assert_memory_equal(stm_at(d.backend, copy, held.first), stm_at(d.backend, whole->weights, held.first),
                                    held.n * d.backend->real_bytes);
            }
            stm_model_array_destroy(part, copy);
            assert_fails(stm_model_export(part, "/no/such/folder", "float32"), STM_ERR_INPUT,
                         "export: found one stage of a model");
            stm_model_destroy(part);
        }
        stm_model_destroy(whole);
    }
    device_close(&d);
}

/* y = x W^T for all rows of a weight matrix. */
static void multiply(const device *d, const stm_model *model, size_t weight, size_t n, const void *x, float *y)
{
    const size_t k = model->config.hidden_size;
    const stm_gemm g = {.transpose_b = true,
                        .m = 3,
                        .n = n,
                        .k = k,
                        .alpha = 1,
                        .a = x,
                        .b = stm_at(d->backend, model->weights, weight),
                        .c = y,
                        .lda = k,
                        .ldb = k,
                        .ldc = n};
    assert_ok(d->backend->gemm(d->stream, &g));
}

static void both_ranges_of_a_stage_are_rounded(void **state)
{
    (void)state;
    device d;
    const char *why;
    if (!device_open_bf16(&d, 2, &why)) {
        print_message("not here: %s\n", why);
        return;
    }
    stm_model *whole = large_stage(&d, true, 1, 0), *last = large_stage(&d, true, 3, 2);
    stm_model *both[] = {whole, last};
    const size_t n_head = whole->config.vocab_size, n_gate = whole->config.intermediate_size;
    float *y[2][2];
    double *numbers = random_numbers(3, 3 * whole->config.hidden_size);
    const void *x = device_reals(&d, numbers, 3 * whole->config.hidden_size);
    for (size_t i = 0; i < 2; i++) {
        y[i][0] = calloc(3 * n_head, sizeof(float));
        y[i][1] = calloc(3 * n_gate, sizeof(float));
        assert_ok(stm_model_allocate(both[i], d.backend, d.stream));
        assert_ok(stm_model_randomize(both[i], 11));
        multiply(&d, both[i], both[i]->head, n_head, x, y[i][0]);
        multiply(&d, both[i], both[i]->layers[3].gate_up, n_gate, x, y[i][1]);
    }
    assert_memory_equal(y[0][0], y[1][0], 3 * n_head * sizeof(float));
    assert_memory_equal(y[0][1], y[1][1], 3 * n_gate * sizeof(float));
    assert_int_equal(stm_model_weights_bytes(last), 6 * stm_model_n_held(last));
    for (size_t i = 0; i < 4; i++)
        free(y[i / 2][i % 2]);
    free(numbers);
    stm_model_destroy(last);
    stm_model_destroy(whole);
    device_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_cut_has_a_faster_slowest_stage),
        cmocka_unit_test(stages_own_each_parameter_once),
        cmocka_unit_test(an_array_of_a_stage_has_memory_for_its_parameters_alone),
        cmocka_unit_test(a_stage_has_the_random_weights_of_the_whole_model),
        cmocka_unit_test(both_ranges_of_a_stage_are_rounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
