#include "model/layout.h"

#include <math.h>
#include <stdlib.h>

void stm_rope_frequencies(const stm_model_config *c, double *frequencies)
{
    const double two_pi = 6.283185307179586, original = (double)c->rope_original_positions;
    for (size_t i = 0; i < c->head_dim / 2; i++) {
        double f = 1.0 / pow(c->rope_theta, (double)(2 * i) / (double)c->head_dim);
        if (c->rope == STM_ROPE_LINEAR)
            f /= c->rope_factor;
        if (c->rope == STM_ROPE_LLAMA3) {
            const double wavelength = two_pi / f;
            const double low = c->rope_low_freq_factor, high = c->rope_high_freq_factor;
            const double kept = (original / wavelength - low) / (high - low);
            if (wavelength > original / low)
                f /= c->rope_factor;
            else if (wavelength >= original / high)
                f = (1 - kept) * f / c->rope_factor + kept * f;
        }
        frequencies[i] = f;
    }
}

enum { ROWS = 512 };

stm_status stm_model_fill_rope(stm_model *model)
{
    const stm_backend *backend = model->backend;
    const size_t half = model->config.head_dim / 2, n = model->config.max_positions, real_bytes = backend->real_bytes;
    stm_status status = STM_OK;
    double *frequencies = NULL;
    char *cosine = NULL, *sine = NULL; /* [ROWS, half] reals */
    STM_GOTO_OUT(backend->alloc(model->stream, n * half * real_bytes, &model->cosine));
    STM_GOTO_OUT(backend->alloc(model->stream, n * half * real_bytes, &model->sine));
    STM_GOTO_OUT(stm_alloc(half, sizeof *frequencies, &frequencies));
    STM_GOTO_OUT(stm_alloc(ROWS * half, real_bytes, &cosine));
    STM_GOTO_OUT(stm_alloc(ROWS * half, real_bytes, &sine));
    stm_rope_frequencies(&model->config, frequencies);
    for (size_t first = 0; first < n; first += ROWS) {
        const size_t n_rows = STM_MIN((size_t)ROWS, n - first);
#pragma omp parallel for
        for (size_t r = 0; r < n_rows; r++) {
            for (size_t i = 0; i < half; i++) {
                const double angle = (double)(first + r) * frequencies[i];
                if (real_bytes == sizeof(double)) {
                    ((double *)cosine)[r * half + i] = cos(angle);
                    ((double *)sine)[r * half + i] = sin(angle);
                } else {
                    ((float *)cosine)[r * half + i] = (float)cos(angle);
                    ((float *)sine)[r * half + i] = (float)sin(angle);
                }
            }
        }
        STM_GOTO_OUT(backend->write(model->stream, stm_at(backend, model->cosine, first * half), cosine,
                                    n_rows * half * real_bytes));
        STM_GOTO_OUT(backend->write(model->stream, stm_at(backend, model->sine, first * half), sine,
                                    n_rows * half * real_bytes));
        STM_GOTO_OUT(backend->synchronize(model->stream)); /* the rows are written again */
    }
out:
    free(frequencies);
    free(cosine);
    free(sine);
    return status;
}
