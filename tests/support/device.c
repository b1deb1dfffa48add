#include "support/device.h"

#include "base/random.h"

const device_kind device_kinds[3] = {{8, 1, 1e-11}, {8, 3, 1e-11}, {4, 2, 3e-5}};

const char *backend_under_test(void)
{
    const char *name = getenv("STEMMA_TEST_BACKEND");
    return name ? name : "cpu";
}

size_t device_kind_step(void)
{
    return strcmp(backend_under_test(), "cpu") == 0 ? 1 : 2;
}

bool device_is_emulated(void)
{
    return strcmp(backend_under_test(), "cpu") != 0 && getenv("STEMMA_MODULES") != NULL;
}

void device_open(device *d, const char *name, size_t real_bytes, int n_threads)
{
    *d = (device){0};
    assert_ok(stm_backend_find(name, real_bytes == 8 ? STM_FLOAT64 : STM_FLOAT32, &d->backend));
    assert_ok(d->backend->open(n_threads, &d->stream));
}

bool device_open_bf16(device *d, int n_threads, const char **why)
{
    *d = (device){0};
    const stm_status status = stm_backend_find(backend_under_test(), STM_BFLOAT16, &d->backend);
    *why = stm_failure();
    if (status != STM_OK) {
        assert_int_equal(status, STM_ERR_INPUT);
        return false;
    }
    assert_ok(d->backend->open(n_threads, &d->stream));
    return true;
}

void device_release(device *d)
{
    for (size_t i = 0; i < d->n_taken; i++)
        d->backend->free(d->stream, d->taken[i]);
    d->n_taken = 0;
}

void device_close(device *d)
{
    device_release(d);
    d->backend->close(d->stream);
}

void *device_bytes(device *d, const void *bytes, size_t n)
{
    void *memory;
    assert_true(d->n_taken < sizeof d->taken / sizeof *d->taken);
    assert_ok(d->backend->alloc(d->stream, n, &memory));
    d->taken[d->n_taken++] = memory;
    assert_ok(d->backend->write(d->stream, memory, bytes, n));
    return memory;
}

/* A number of 8, 4 or 2 bytes: those of 2 are bfloat16, the upper half of a float. */
static void put(double x, size_t bytes, char *to)
{
    const float narrow = (float)x;
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    bits += isnan(narrow) ? 0 : 0x7fff + (bits >> 16 & 1); /* to nearest even */
    const uint16_t upper = (uint16_t)(bits >> 16);
    memcpy(to, bytes == 8 ? (const void *)&x : bytes == 4 ? (const void *)&narrow : &upper, bytes);
}

static double get(const char *from, size_t bytes)
{
    double wide;
    float narrow = 0;
    if (bytes == 8) {
        memcpy(&wide, from, bytes);
        return wide;
    }
    memcpy((char *)&narrow + sizeof narrow - bytes, from, bytes); /* the last bytes of a float are its upper ones */
    return (double)narrow;
}

static void *copy_of(device *d, const double *x, size_t n, size_t bytes)
{
    char *numbers = malloc(n * bytes + 1);
    for (size_t i = 0; i < n; i++)
        put(x ? x[i] : NAN, bytes, numbers + i * bytes);
    void *memory = device_bytes(d, numbers, n * bytes);
    free(numbers);
    return memory;
}

static void read_back(device *d, const void *array, double *x, size_t n, size_t bytes)
{
    char *host = malloc(n * bytes + 1);
    assert_ok(d->backend->read(d->stream, host, array, n * bytes));
    for (size_t i = 0; i < n; i++)
        x[i] = get(host + i * bytes, bytes);
    free(host);
}

void *device_reals(device *d, const double *x, size_t n)
{
    return copy_of(d, x, n, d->backend->real_bytes);
}

void device_read(device *d, const void *reals, double *x, size_t n)
{
    read_back(d, reals, x, n, d->backend->real_bytes);
}

void *device_activations(device *d, const double *x, size_t n)
{
    return copy_of(d, x, n, d->backend->activation_bytes);
}

void device_read_activations(device *d, const void *activations, double *x, size_t n)
{
    read_back(d, activations, x, n, d->backend->activation_bytes);
}

void round_to_bf16(double *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int exponent;
        const double fraction = frexp(x[i], &exponent);
        x[i] = ldexp(nearbyint(ldexp(fraction, 8)), exponent - 8);
    }
}

double *random_numbers(uint64_t seed, size_t n)
{
    double *x = malloc((n + 1) * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = 2 * stm_random_uniform(&(stm_random_key){.seed = seed, .use = STM_RANDOM_INIT, .step = i}) - 1;
    return x;
}

void assert_gradient(double (*f)(void *context), void *context, double *x, const double *dx, size_t n, double tolerance)
{
    const double h = 1e-5; /* truncation and rounding both near 1e-10 */
    for (size_t i = 0; i < n; i++) {
        const double at = x[i];
        x[i] = at + h;
        const double above = f(context);
        x[i] = at - h;
        const double below = f(context);
        x[i] = at;
        assert_near((above - below) / (2 * h), dx[i], tolerance);
    }
}
