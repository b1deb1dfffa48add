/* How fast attention in bfloat16 is, GFLOP/s, beside float32's on the same threads in the same run, forward and
 * backward. Useful work alone is counted: 4 (forward), 10 (backward) operations a pair, query head and number of
 * head_dim.
 *
 *   bench_attend_bf16 [threads] */
#include "backend/backend.h"
#include "backend/cpu_features.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    size_t n_rows, n_keys, n_heads, n_kv_heads, head_dim;
    bool causal; /* the rows' own keys; else all see all */
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

/* n floats in [-1, 1). */
static float *numbers(const device *d, size_t n)
{
    float *x;
    uint64_t state = 88172645463325252u;
    must(d->backend->alloc(d->stream, n * sizeof *x, &x));
    for (size_t i = 0; i < n; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        x[i] = (float)(2 * (double)(state >> 11) * 0x1p-53 - 1);
    }
    return x;
}

/* The fastest call of half a second. */
static double seconds_of(const device *d, const stm_attend *a, bool backward)
{
    double best = INFINITY;
    for (const double end = stm_now_s() + 0.5; stm_now_s() < end;) {
        const double start = stm_now_s();
        must((backward ? d->backend->attend_backward : d->backend->attend)(d->stream, a));
        best = fmin(best, stm_now_s() - start);
    }
    return best;
}

static void measure(const device *d, const shape *s, double seconds[2])
{
    const size_t n_q = s->n_rows * s->n_heads * s->head_dim, n_kv = s->n_keys * s->n_kv_heads * s->head_dim;
    float *memory[10];
    size_t n = 0;
    stm_attend_part part = {.n_rows = s->n_rows, .n_keys = s->n_keys, .causal = s->causal};
    part.kv_stride = part.dkv_stride = s->n_keys;
    part.k = memory[n++] = numbers(d, n_kv);
    part.v = memory[n++] = numbers(d, n_kv);
    part.dk = memory[n++] = numbers(d, n_kv);
    part.dv = memory[n++] = numbers(d, n_kv);
    stm_attend a = {.n_rows = s->n_rows, .n_heads = s->n_heads, .n_kv_heads = s->n_kv_heads, .head_dim = s->head_dim};
    a.scale = 1 / sqrt((double)s->head_dim);
    a.n_parts = 1;
    a.parts = &part;
    a.q = memory[n++] = numbers(d, n_q);
    a.o = memory[n++] = numbers(d, n_q);
    a.lse = memory[n++] = numbers(d, s->n_rows * s->n_heads);
    a.d_o = memory[n++] = numbers(d, n_q);
    a.dq = memory[n++] = numbers(d, n_q);
    must(d->backend->attend(d->stream, &a)); /* scratch grows; backward needs o and lse */
    must(d->backend->attend_backward(d->stream, &a));
    for (int backward = 0; backward < 2; backward++)
        seconds[backward] = seconds_of(d, &a, backward);
    while (n)
        d->backend->free(d->stream, memory[--n]);
}

int main(int argc, char **argv)
{
    static const shape shapes[] = {
        {2048, 2048, 8, 4, 64, false}, {2048, 2048, 8, 4, 64, true},   {1024, 16384, 8, 4, 64, false},
        {2048, 2048, 14, 2, 64, true}, {1024, 1024, 16, 8, 128, true}, {512, 512, 8, 8, 96, true},
        {256, 256, 8, 4, 64, true},    {64, 64, 8, 4, 64, true},       {16, 2048, 8, 4, 64, false},
    };
    const int n_threads = argc > 1 ? atoi(argv[1]) : 1;
    device f32, bf16;
    must(stm_backend_find("cpu", STM_FLOAT32, &f32.backend));
    must(stm_backend_find("cpu", STM_BFLOAT16, &bf16.backend));
    must(f32.backend->open(n_threads, &f32.stream));
    must(bf16.backend->open(n_threads, &bf16.stream));
    printf("%d threads, AMX: %s\n", n_threads, stm_cpu_has_amx() ? "yes" : "no");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const shape *s = &shapes[i];
        const double pairs = s->causal ? 0.5 * (double)(s->n_rows + 1) : (double)s->n_keys;
        const double work = pairs * (double)(s->n_rows * s->n_heads * s->head_dim);
        double plain[2], ours[2];
        measure(&f32, s, plain);
        measure(&bf16, s, ours);
        for (int backward = 0; backward < 2; backward++) {
            const double flops = 1e-9 * work * (backward ? 10 : 4);
            printf("%-8s %5zu x %5zu%-7s %2zu/%zu heads of %3zu %8.1f GFLOP/s, float32 %7.1f: %.2f times\n",
                   backward ? "backward" : "forward", s->n_rows, s->n_keys, s->causal ? " causal" : "", s->n_heads,
                   s->n_kv_heads, s->head_dim, flops / ours[backward], flops / plain[backward],
                   plain[backward] / ours[backward]);
        }
        fflush(stdout);
    }
    f32.backend->close(f32.stream);
    bf16.backend->close(bf16.stream);
    return 0;
}
