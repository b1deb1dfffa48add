#include "base/random.h"
#include "model/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PORTION = 1 << 18 };

static bool ends_with(const char *text, const char *ending)
{
    const size_t n = strlen(text), m = strlen(ending);
    return n >= m && strcmp(text + n - m, ending) == 0;
}

/* Rounded to float in each precision, so that runs in float32 and float64 start from the same model. */
static float value_of(uint64_t seed, size_t tensor, size_t element, double deviation)
{
    const stm_random_key key = {.seed = seed,
                                .use = STM_RANDOM_INIT,
                                .step = tensor,
                                .slot = (uint32_t)((uint64_t)element >> 32),
                                .token = (uint32_t)element};
    return (float)(deviation * stm_random_normal(&key));
}

stm_status stm_model_randomize(stm_model *model, uint64_t seed)
{
    const stm_backend *backend = model->backend;
    const double range = model->config.initializer_range > 0 ? model->config.initializer_range : 0.02;
    const double output_deviation = range / sqrt(2.0 * (double)model->config.n_layers);
    stm_status status = STM_OK;
    double *doubles = NULL;
    float *floats = NULL;
    STM_GOTO_OUT(stm_alloc(PORTION, sizeof *doubles, &doubles));
    STM_GOTO_OUT(stm_alloc(PORTION, sizeof *floats, &floats));
    for (size_t t = 0; t < model->n_tensors; t++) {
        const stm_parameter *tensor = &model->tensors[t];
        const bool is_output = ends_with(tensor->name, "o_proj.weight") || ends_with(tensor->name, "down_proj.weight");
        const double deviation = is_output ? output_deviation : range;
        const float constant = ends_with(tensor->name, ".bias") ? 0.0f : 1.0f;
        for (size_t first = 0; first < tensor->n; first += PORTION) {
            const size_t n = STM_MIN((size_t)PORTION, tensor->n - first);
#pragma omp parallel for
            for (size_t i = 0; i < n; i++) {
                floats[i] = tensor->n_dims == 1 ? constant : value_of(seed, t, first + i, deviation);
                doubles[i] = (double)floats[i];
            }
            const void *reals = backend->real_bytes == sizeof(double) ? (const void *)doubles : floats;
            void *device = stm_at(backend, model->weights, tensor->offset + first);
            STM_GOTO_OUT(backend->write(model->stream, device, reals, n * backend->real_bytes));
            STM_GOTO_OUT(backend->synchronize(model->stream)); /* the portion is written again */
        }
    }
    model->hash = 0;
    STM_GOTO_OUT(stm_model_weights_changed(model));
out:
    free(doubles);
    free(floats);
    return status;
}
