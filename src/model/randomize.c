#include "base/random.h"
#include "model/stages.h"

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

typedef struct {
    uint64_t seed;
    double range, output_deviation;
    double *doubles; /* [PORTION] */
    float *floats;
} randomizing;

/* Elements [first, first + n) of a tensor, n at most PORTION. */
static stm_status randomize_portion(const randomizing *r, stm_model *model, size_t t, size_t first, size_t n)
{
    const stm_backend *backend = model->backend;
    const stm_parameter *tensor = &model->tensors[t];
    const bool is_output = ends_with(tensor->name, "o_proj.weight") || ends_with(tensor->name, "down_proj.weight");
    const double deviation = is_output ? r->output_deviation : r->range;
    const float constant = ends_with(tensor->name, ".bias") ? 0.0f : 1.0f;
#pragma omp parallel for
    for (size_t i = 0; i < n; i++) {
        r->floats[i] = tensor->n_dims == 1 ? constant : value_of(r->seed, t, first + i, deviation);
        r->doubles[i] = (double)r->floats[i];
    }
    const void *reals = backend->real_bytes == sizeof(double) ? (const void *)r->doubles : r->floats;
    STM_TRY(backend->write(model->stream, stm_at(backend, model->weights, tensor->offset + first), reals,
                           n * backend->real_bytes));
    return backend->synchronize(model->stream); /* the portion is written again */
}

/* What is held of a tensor. */
static stm_status randomize_tensor(const randomizing *r, stm_model *model, size_t t)
{
    const stm_parameter *tensor = &model->tensors[t];
    for (size_t i = 0; i < 2; i++) {
        const stm_range held = stm_model_held_of(model, i, tensor->offset, tensor->n);
        for (size_t at = 0; at < held.n; at += PORTION)
            STM_TRY(randomize_portion(r, model, t, held.first - tensor->offset + at,
                                      STM_MIN((size_t)PORTION, held.n - at)));
    }
    return STM_OK;
}

stm_status stm_model_randomize(stm_model *model, uint64_t seed)
{
    const double range = model->config.initializer_range > 0 ? model->config.initializer_range : 0.02;
    randomizing r = {
        .seed = seed, .range = range, .output_deviation = range / sqrt(2.0 * (double)model->config.n_layers)};
    stm_status status = STM_OK;
    STM_GOTO_OUT(stm_alloc(PORTION, sizeof *r.doubles, &r.doubles));
    STM_GOTO_OUT(stm_alloc(PORTION, sizeof *r.floats, &r.floats));
    for (size_t t = 0; t < model->n_tensors; t++)
        STM_GOTO_OUT(randomize_tensor(&r, model, t));
    model->hash = 0;
    STM_GOTO_OUT(stm_model_weights_changed(model));
out:
    free(r.doubles);
    free(r.floats);
    return status;
}
