/* tests/support/device.h: runs a backend's operations on arrays of double, whatever its `real` and wherever its memory
 * is. */
#ifndef STM_TESTS_DEVICE_H
#define STM_TESTS_DEVICE_H

#include "backend/backend.h"
#include "support/support.h"

/* A backend with one stream; remembers what was taken from it. */
typedef struct {
    const stm_backend *backend;
    stm_stream *stream;
    void *taken[64];
    size_t n_taken;
} device;

/* "cpu", or what the environment's STEMMA_TEST_BACKEND says: the same tests hold for every backend. */
const char *backend_under_test(void);

void device_open(device *d, const char *name, size_t real_bytes, int n_threads); /* float64 (8) or float32 (4) */

/* bfloat16, where this build and this processor or GPU have it; else false, and *why says what is missing. */
bool device_open_bf16(device *d, int n_threads, const char **why);
void device_close(device *d);   /* frees all that was taken, too */
void device_release(device *d); /* frees all that was taken */

void *device_bytes(device *d, const void *bytes, size_t n); /* a copy on the device */
void *device_reals(device *d, const double *x,
                   size_t n); /* a copy as reals; x NULL: NaN everywhere, to see what is not written */
void device_read(device *d, const void *reals, double *x, size_t n);

/* The same of activations, rounded where they are smaller than reals. */
void *device_activations(device *d, const double *x, size_t n);
void device_read_activations(device *d, const void *activations, double *x, size_t n);

/* n numbers in [-1, 1) that depend on seed alone; the caller frees. */
double *random_numbers(uint64_t seed, size_t n);

/* To 8 significant bits, which bfloat16 holds. */
void round_to_bf16(double *x, size_t n);

/* Checks dx [n] against central differences of f over x, which it restores. */
void assert_gradient(double (*f)(void *context), void *context, double *x, const double *dx, size_t n,
                     double tolerance);

/* Runs a test over backends: float64 with 1 and 3 threads, float32 with 2. */
typedef struct {
    size_t real_bytes;
    int n_threads;
    double tolerance; /* float64: rounding; float32: a few hundred ulps, since sums run over tens of terms */
} device_kind;
extern const device_kind device_kinds[3];

/* From one kind to the next: the number of threads is nothing to a GPU. */
size_t device_kind_step(void);

/* True where a GPU's threads take turns on the host (tests/emulated): a hundred times slower, so tests repeat less. */
bool device_is_emulated(void);

#endif
