/* How fast attention is, GFLOP/s, forward and backward, on one backend; in bfloat16 beside float32 in the same run.
 * Useful work alone is counted: 4 (forward), 10 (backward) operations a pair, query head and number of head_dim.
 *
 *   bench_attend [cpu|cuda] [threads] */
#include "backend/backend.h"
#include "backend/cpu_features.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    size_t n_rows, n_keys, n_heads, n_kv_heads, head_dim;
    bool causal;  /* the rows' own keys; else all see all */
    bool forward; /* alone, as in decoding */
} shape;

typedef struct {
    const stm_backend *backend;
    stm_stream *stream;
} device;

static void must(stm_status status)
{
    if (status == STM_OK)
        return;
    fprintf(stderr, "%s\n", stm_failure());
    exit(1);
}

/* n numbers in [-1, 1), of so many bytes: bfloat16, float. */
static void *numbers(const device *d, size_t n, size_t bytes)
{
    void *x;
    char *host = malloc(n * bytes);
    uint64_t state = 88172645463325252u;
    if (!host)
        abort();
    must(d->backend->alloc(d->stream, n * bytes, &x));
    for (size_t i = 0; i < n; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        const float value = (float)(2 * (double)(state >> 11) * 0x1p-53 - 1);
        memcpy(host + i * bytes, (const char *)&value + sizeof value - bytes, bytes); /* bfloat16: its upper half */
    }
    must(d->backend->write(d->stream, x, host, n * bytes));
    must(d->backend->synchronize(d->stream));
    free(host);
    return x;
}

/* The fastest call of half a second. */
static double seconds_of(const device *d, const stm_attend *a, bool backward)
{
    double best = INFINITY;
    for (const double end = stm_now_s() + 0.5; stm_now_s() < end;) {
        const double start = stm_now_s();
        must((backward ? d->backend->attend_backward : d->backend->attend)(d->stream, a));
        must(d->backend->synchronize(d->stream));
        best = fmin(best, stm_now_s() - start);
    }
    return best;
}

static void measure(const device *d, const shape *s, double seconds[2])
{
    const size_t n_q = s->n_rows * s->n_heads * s->head_dim, n_kv = s->n_keys * s->n_kv_heads * s->head_dim;
    const size_t real = d->backend->real_bytes, activation = d->backend->activation_bytes;
    void *memory[10];
    size_t n = 0;
    stm_attend_part part = {.n_rows = s->n_rows, .n_keys = s->n_keys, .causal = s->causal};
    part.kv_stride = part.dkv_stride = s->n_keys;
    part.k = memory[n++] = numbers(d, n_kv, activation);
    part.v = memory[n++] = numbers(d, n_kv, activation);
    part.dk = memory[n++] = numbers(d, n_kv, real);
    part.dv = memory[n++] = numbers(d, n_kv, real);
    stm_attend a = {.n_rows = s->n_rows, .n_heads = s->n_heads, .n_kv_heads = s->n_kv_heads, .head_dim = s->head_dim};
    a.scale = 1 / sqrt((double)s->head_dim);
    a.n_parts = 1;
    a.parts = &part;
    a.q = memory[n++] = numbers(d, n_q, activation);
    a.o = memory[n++] = numbers(d, n_q, activation);
    a.lse = memory[n++] = numbers(d, s->n_rows * s->n_heads, real);
    a.d_o = memory[n++] = numbers(d, n_q, activation);
    a.dq = memory[n++] = numbers(d, n_q, activation);
    must(d->backend->attend(d->stream, &a)); /* scratch grows; backward needs o and lse */
    if (!s->forward)
        must(d->backend->attend_backward(d->stream, &a));
    for (int backward = 0; backward < 2 - s->forward; backward++)
        seconds[backward] = seconds_of(d, &a, backward);
    while (n)
        d->backend->free(d->stream, memory[--n]);
}

static device open_device(const char *name, stm_precision precision, int n_threads)
{
    device d;
    must(stm_backend_find(name, precision, &d.backend));
    must(d.backend->choose_device(0));
    must(d.backend->open(n_threads, &d.stream));
    return d;
}

static void compare(const device *f32, const device *bf16, const shape *s)
{
    const double pairs = s->causal ? 0.5 * (double)(s->n_rows + 1) : (double)s->n_keys;
    const double work = pairs * (double)(s->n_rows * s->n_heads * s->head_dim);
    double plain[2], ours[2];
    measure(f32, s, plain);
    measure(bf16, s, ours);
    for (int backward = 0; backward < 2 - s->forward; backward++) {
        const double flops = 1e-9 * work * (backward ? 10 : 4);
        printf("%-8s %5zu x %5zu%-7s %2zu/%zu heads of %3zu %8.1f GFLOP/s, float32 %7.1f: %.2f times, %.1f us\n",
               backward ? "backward" : "forward", s->n_rows, s->n_keys, s->causal ? " causal" : "", s->n_heads,
               s->n_kv_heads, s->head_dim, flops / ours[backward], flops / plain[backward],
               plain[backward] / ours[backward], 1e6 * ours[backward]);
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static const shape of_cpu[] = {
        {2048, 2048, 8, 4, 64, false, false},  {2048, 2048, 8, 4, 64, true, false},
        {1024, 16384, 8, 4, 64, false, false}, {2048, 2048, 14, 2, 64, true, false},
        {1024, 1024, 16, 8, 128, true, false}, {512, 512, 8, 8, 96, true, false},
        {256, 256, 8, 4, 64, true, false},     {64, 64, 8, 4, 64, true, false},
        {16, 2048, 8, 4, 64, false, false},
    };
    /* Of Qwen2.5-1.5B (12 heads, 2 of K and V, 128 numbers) and Llama-3-8B (32, 8, 128): prompts, answers below them,
     * rounds of decoding. */
    static const shape of_gpu[] = {
        {4096, 4096, 12, 2, 128, true, false},  {16384, 16384, 12, 2, 128, true, false},
        {4096, 4096, 12, 2, 128, false, false}, {8192, 16384, 12, 2, 128, false, false},
        {4096, 4096, 32, 8, 128, true, false},  {4096, 4096, 14, 2, 64, true, false},
        {4096, 4096, 16, 4, 256, true, false},  {16, 4096, 12, 2, 128, false, true},
        {16, 16384, 12, 2, 128, false, true},   {64, 16384, 12, 2, 128, false, true},
    };
    const char *name = argc > 1 ? argv[1] : "cpu";
    const int n_threads = argc > 2 ? atoi(argv[2]) : 1;
    const bool is_gpu = strcmp(name, "cpu") != 0;
    const device f32 = open_device(name, STM_FLOAT32, n_threads), bf16 = open_device(name, STM_BFLOAT16, n_threads);
    const shape *shapes = is_gpu ? of_gpu : of_cpu;
    const size_t n = is_gpu ? sizeof of_gpu / sizeof *of_gpu : sizeof of_cpu / sizeof *of_cpu;
    stm_device described;
    bf16.backend->describe(bf16.stream, &described);
    if (is_gpu)
        printf("%s\n", described.name);
    else
        printf("%d threads, AMX: %s\n", n_threads, stm_cpu_has_amx() ? "yes" : "no");
    for (size_t i = 0; i < n; i++)
        compare(&f32, &bf16, &shapes[i]);
    f32.backend->close(f32.stream);
    bf16.backend->close(bf16.stream);
    return 0;
}
