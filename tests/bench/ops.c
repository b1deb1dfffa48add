/* How fast the CPU backend's operations are, each beside a plain alternative, in one run: GFLOP/s or GB/s, the best of
 * several repetitions.
 *
 *   bench_ops [float32|float64] [threads] [words that a line must hold to be measured] */
#include "backend/backend.h"
#include "base/random.h"

#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const stm_backend *backend;
static stm_stream *stream;
static int n_threads;
static const char *only;

static void must(stm_status status)
{
    if (status == STM_OK)
        return;
    fprintf(stderr, "%s\n", stm_failure());
    exit(1);
}

static bool wanted(const char *name)
{
    return !only || strstr(name, only);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of one call: the fastest of batches that last a few milliseconds each, for a third of a second. */
static double seconds_of(void (*f)(void *), void *context)
{
    size_t batch = 1;
    double best = INFINITY;
    f(context);
    for (const double end = now_s() + 0.33; now_s() < end;) {
        const double start = now_s();
        for (size_t i = 0; i < batch; i++)
            f(context);
        const double spent = now_s() - start;
        best = fmin(best, spent / (double)batch);
        if (spent < 2e-3)
            batch *= 2;
    }
    return best;
}

/* work: of one call, in units of 1e9 per second; the alternative may be NULL. */
static void report(const char *name, const char *unit, double work, void (*ours)(void *), void (*plain)(void *),
                   void *context)
{
    const double t = seconds_of(ours, context);
    printf("%-58s %9.1f us %8.1f %s", name, 1e6 * t, 1e-9 * work / t, unit);
    if (plain) {
        const double other = seconds_of(plain, context);
        printf("   plain %8.1f, ours is %.2f times as fast", 1e-9 * work / other, other / t);
    }
    printf("\n");
    fflush(stdout);
}

static void *taken[64];
static size_t n_taken;

static void *room(size_t bytes)
{
    must(backend->alloc(stream, bytes, &taken[n_taken]));
    memset(taken[n_taken], 0, bytes);
    return taken[n_taken++];
}

static void release(void)
{
    while (n_taken)
        backend->free(stream, taken[--n_taken]);
}

static void set(void *x, size_t i, double value)
{
    if (backend->real_bytes == 4)
        ((float *)x)[i] = (float)value;
    else
        ((double *)x)[i] = value;
}

static double get(const void *x, size_t i)
{
    return backend->real_bytes == 4 ? (double)((const float *)x)[i] : ((const double *)x)[i];
}

/* n reals in [-1, 1). */
static void *reals(size_t n)
{
    void *x = room(n * backend->real_bytes);
    uint64_t state = 88172645463325252u;
    for (size_t i = 0; i < n; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        set(x, i, 2 * (double)(state >> 11) * 0x1p-53 - 1);
    }
    return x;
}

/* ---- products ---- */

static void gemm_ours(void *context)
{
    must(backend->gemm(stream, context));
}

static void gemm_blas(void *context)
{
    const stm_gemm *g = context;
    const CBLAS_TRANSPOSE ta = g->transpose_a ? CblasTrans : CblasNoTrans;
    const CBLAS_TRANSPOSE tb = g->transpose_b ? CblasTrans : CblasNoTrans;
    const int m = (int)g->m, n = (int)g->n, k = (int)g->k, lda = (int)g->lda, ldb = (int)g->ldb, ldc = (int)g->ldc;
    openblas_set_num_threads(n_threads);
    if (backend->real_bytes == 4)
        cblas_sgemm(CblasRowMajor, ta, tb, m, n, k, (float)g->alpha, g->a, lda, g->b, ldb, (float)g->beta, g->c, ldc);
    else
        cblas_dgemm(CblasRowMajor, ta, tb, m, n, k, g->alpha, g->a, lda, g->b, ldb, g->beta, g->c, ldc);
    openblas_set_num_threads(1);
}

static void bench_gemm_shape(const char *form, size_t m, size_t n, size_t k)
{
    char name[128];
    const bool ta = form[0] == 't', tb = form[1] == 't';
    snprintf(name, sizeof name, "gemm %s %zu x %zu x %zu", form, m, n, k);
    if (!wanted(name))
        return;
    stm_gemm g = {.transpose_a = ta, .transpose_b = tb, .m = m, .n = n, .k = k, .alpha = 1, .beta = ta ? 1 : 0};
    g.lda = ta ? m : k;
    g.ldb = tb ? k : n;
    g.ldc = n;
    g.a = reals(m * k);
    g.b = reals(n * k);
    g.c = reals(m * n);
    report(name, "GFLOP/s", 2.0 * (double)m * (double)n * (double)k, gemm_ours, gemm_blas, &g);
    release();
}

static void bench_gemm(void)
{
    const size_t sizes[] = {256, 1024, 4096}, few[] = {1, 2, 4, 8, 16, 32, 64};
    for (size_t i = 0; i < 3; i++)
        for (size_t j = 0; j < 3; j++)
            bench_gemm_shape("nt", 2048, sizes[i], sizes[j]); /* forward: x W^T */
    for (size_t i = 0; i < 3; i++) {
        bench_gemm_shape("nn", 2048, sizes[i], 1024); /* backward by x: dy W */
        bench_gemm_shape("tn", sizes[i], 1024, 2048); /* backward by W: dy^T x */
    }
    for (size_t i = 0; i < sizeof few / sizeof *few; i++) {
        bench_gemm_shape("nt", few[i], 64, 64);
        bench_gemm_shape("nt", few[i], 256, 256);
        bench_gemm_shape("nt", few[i], 1024, 1024);
        bench_gemm_shape("nt", few[i], 4096, 1024);
        bench_gemm_shape("nt", few[i], 1024, 4096);
    }
    bench_gemm_shape("nt", 128, 64, 64);
    bench_gemm_shape("nt", 512, 192, 64);
    bench_gemm_shape("nn", 512, 64, 192);
    bench_gemm_shape("tn", 192, 64, 512);
}

/* ---- attention ---- */

typedef struct {
    stm_attend a;
    void *scores; /* [n_rows, n_keys] of one head */
} attention;

static void attend_ours(void *context)
{
    must(backend->attend(stream, &((attention *)context)->a));
}

static void attend_backward_ours(void *context)
{
    must(backend->attend_backward(stream, &((attention *)context)->a));
}

/* One head after another: the whole matrix of scores by one product, a softmax of each row, one product more. */
static void attend_plain(void *context)
{
    attention *x = context;
    const stm_attend *a = &x->a;
    const stm_attend_part *part = a->parts;
    const size_t dim = a->head_dim, group = a->n_heads / a->n_kv_heads, n_keys = part->n_keys;
    for (size_t h = 0; h < a->n_heads; h++) {
        const size_t kv = h / group * part->kv_stride * dim;
        stm_gemm s = {.transpose_b = true, .m = a->n_rows, .n = n_keys, .k = dim, .alpha = a->scale, .c = x->scores};
        s.a = stm_at(backend, a->q, h * dim);
        s.lda = a->n_heads * dim;
        s.b = stm_at(backend, part->k, kv);
        s.ldb = dim;
        s.ldc = n_keys;
        gemm_blas(&s);
        for (size_t r = 0; r < a->n_rows; r++) {
            const size_t visible = part->causal ? r + 1 : n_keys, row = r * n_keys;
            double sum = 0, largest = -INFINITY;
            for (size_t i = 0; i < visible; i++)
                largest = fmax(largest, get(x->scores, row + i));
            for (size_t i = 0; i < n_keys; i++)
                set(x->scores, row + i, i < visible ? exp(get(x->scores, row + i) - largest) : 0);
            for (size_t i = 0; i < visible; i++)
                sum += get(x->scores, row + i);
            for (size_t i = 0; i < visible; i++)
                set(x->scores, row + i, get(x->scores, row + i) / sum);
        }
        stm_gemm o = {.m = a->n_rows, .n = dim, .k = n_keys, .alpha = 1, .a = x->scores, .lda = n_keys, .ldb = dim};
        o.b = stm_at(backend, part->v, kv);
        o.c = stm_at(backend, a->o, h * dim);
        o.ldc = a->n_heads * dim;
        gemm_blas(&o);
    }
}

static void bench_attend_shape(size_t n_rows, size_t n_keys, size_t n_heads, size_t n_kv_heads, size_t dim, bool causal)
{
    char name[128];
    attention x = {.a = {.n_rows = n_rows, .n_heads = n_heads, .n_kv_heads = n_kv_heads, .head_dim = dim}};
    stm_attend_part part = {.n_rows = n_rows, .n_keys = n_keys, .causal = causal};
    const double pairs = (double)n_heads * (double)n_rows * (double)n_keys * (causal ? 0.5 : 1);
    snprintf(name, sizeof name, "attend %zu rows %zu keys %zu/%zu heads of %zu%s", n_rows, n_keys, n_heads, n_kv_heads,
             dim, causal ? " causal" : "");
    if (!wanted(name))
        return;
    part.kv_stride = part.dkv_stride = n_keys;
    part.k = reals(n_kv_heads * n_keys * dim);
    part.v = reals(n_kv_heads * n_keys * dim);
    part.dk = reals(n_kv_heads * n_keys * dim);
    part.dv = reals(n_kv_heads * n_keys * dim);
    x.a.scale = 1 / sqrt((double)dim);
    x.a.q = reals(n_rows * n_heads * dim);
    x.a.d_o = reals(n_rows * n_heads * dim);
    x.a.o = reals(n_rows * n_heads * dim);
    x.a.dq = reals(n_rows * n_heads * dim);
    x.a.lse = reals(n_rows * n_heads);
    x.a.n_parts = 1;
    x.a.parts = &part;
    x.scores = reals(n_rows * n_keys);
    report(name, "GFLOP/s", 4 * pairs * (double)dim, attend_ours, attend_plain, &x);
    strcat(name, ", back");
    attend_ours(&x);
    report(name, "GFLOP/s", 10 * pairs * (double)dim, attend_backward_ours, NULL, &x);
    release();
}

/* What an update does: the rows of equal segments below one ancestor see it whole, and causally their own keys. */
static void bench_siblings_shape(size_t n_siblings, size_t n_rows, size_t n_keys, size_t n_heads, size_t n_kv_heads,
                                 size_t dim)
{
    char name[128];
    const size_t own = n_siblings * n_rows, kv = n_kv_heads * dim, rb = backend->real_bytes;
    attention x = {.a = {.n_rows = own, .n_heads = n_heads, .n_kv_heads = n_kv_heads, .head_dim = dim}};
    snprintf(name, sizeof name, "attend %zu x %zu rows %zu keys + own, %zu/%zu heads of %zu", n_siblings, n_rows,
             n_keys, n_heads, n_kv_heads, dim);
    if (!wanted(name))
        return;
    stm_attend_part *parts = calloc(1 + n_siblings, sizeof *parts);
    char *above = reals(4 * n_keys * kv), *below = reals(4 * own * kv);
    for (size_t i = 0; i <= n_siblings; i++) {
        const size_t stride = i ? own : n_keys;
        char *from = i ? below + (i - 1) * n_rows * dim * rb : above;
        parts[i] = (stm_attend_part){.n_rows = i ? n_rows : own, .n_keys = i ? n_rows : n_keys, .causal = i > 0};
        parts[i].first_row = i ? (i - 1) * n_rows : 0;
        parts[i].kv_stride = parts[i].dkv_stride = stride;
        parts[i].k = from;
        parts[i].v = from + stride * kv * rb;
        parts[i].dk = from + 2 * stride * kv * rb;
        parts[i].dv = from + 3 * stride * kv * rb;
    }
    x.a.scale = 1 / sqrt((double)dim);
    x.a.q = reals(own * n_heads * dim);
    x.a.d_o = reals(own * n_heads * dim);
    x.a.o = reals(own * n_heads * dim);
    x.a.dq = reals(own * n_heads * dim);
    x.a.lse = reals(own * n_heads);
    x.a.n_parts = 1 + n_siblings;
    x.a.parts = parts;
    const double pairs = (double)(n_heads * own) * ((double)n_keys + 0.5 * (double)(n_rows + 1));
    report(name, "GFLOP/s", 4 * pairs * (double)dim, attend_ours, NULL, &x);
    strcat(name, ", back");
    attend_ours(&x);
    report(name, "GFLOP/s", 10 * pairs * (double)dim, attend_backward_ours, NULL, &x);
    free(parts);
    release();
}

/* What decode does: a row sees the prompt of its group and its own keys. */
static void decode_plain(void *context)
{
    const stm_attend *a = &((attention *)context)->a;
    const size_t dim = a->head_dim, group = a->n_heads / a->n_kv_heads;
    static double score[1 << 16];
    for (size_t r = 0; r < a->n_rows; r++)
        for (size_t h = 0; h < a->n_heads; h++) {
            double sum = 0, largest = -INFINITY, o[256] = {0};
            const size_t q = (r * a->n_heads + h) * dim;
            size_t n = 0;
            for (int pass = 0; pass < 2; pass++, n = 0)
                for (size_t p = 0; p < a->n_parts; p++) {
                    const stm_attend_part *part = &a->parts[p];
                    if (r < part->first_row || r >= part->first_row + part->n_rows)
                        continue;
                    for (size_t key = 0; key < part->n_keys; key++, n++) {
                        const size_t at = (h / group * part->kv_stride + key) * dim;
                        if (pass == 0) {
                            score[n] = 0;
                            for (size_t d = 0; d < dim; d++)
                                score[n] += get(a->q, q + d) * get(part->k, at + d);
                            score[n] *= a->scale;
                            largest = fmax(largest, score[n]);
                        } else {
                            const double weight = exp(score[n] - largest);
                            sum += weight;
                            for (size_t d = 0; d < dim; d++)
                                o[d] += weight * get(part->v, at + d);
                        }
                    }
                }
            for (size_t d = 0; d < dim; d++)
                set(a->o, q + d, o[d] / sum);
        }
}

static void bench_decode_shape(size_t n_rows, size_t group_size, size_t n_prompt, size_t n_own, size_t n_heads,
                               size_t n_kv_heads, size_t dim)
{
    char name[128];
    const size_t n_prompts = n_rows / group_size, kv = n_kv_heads * dim, rb = backend->real_bytes;
    attention x = {.a = {.n_rows = n_rows, .n_heads = n_heads, .n_kv_heads = n_kv_heads, .head_dim = dim}};
    snprintf(name, sizeof name, "decode %zu x %zu keys %zu + %zu, %zu/%zu heads of %zu", n_prompts, group_size,
             n_prompt, n_own, n_heads, n_kv_heads, dim);
    if (!wanted(name))
        return;
    stm_attend_part *parts = calloc(n_prompts + n_rows, sizeof *parts);
    const char *prompt_kv = reals(2 * n_prompts * n_prompt * kv), *own_kv = reals(2 * n_rows * n_own * kv);
    size_t n_pairs = 0;
    for (size_t p = 0; p < n_prompts; p++) {
        parts[p] = (stm_attend_part){.first_row = p * group_size, .n_rows = group_size, .n_keys = n_prompt};
        parts[p].kv_stride = n_prompt;
        parts[p].k = prompt_kv + 2 * p * n_prompt * kv * rb;
        parts[p].v = prompt_kv + (2 * p + 1) * n_prompt * kv * rb;
        n_pairs += group_size * n_prompt;
    }
    for (size_t r = 0; r < n_rows; r++) {
        stm_attend_part *part = &parts[n_prompts + r];
        *part = (stm_attend_part){.first_row = r, .n_rows = 1, .n_keys = n_own - r % 7, .kv_stride = n_own};
        part->k = own_kv + 2 * r * n_own * kv * rb;
        part->v = own_kv + (2 * r + 1) * n_own * kv * rb;
        n_pairs += part->n_keys;
    }
    x.a.scale = 1 / sqrt((double)dim);
    x.a.q = reals(n_rows * n_heads * dim);
    x.a.o = reals(n_rows * n_heads * dim);
    x.a.lse = reals(n_rows * n_heads);
    x.a.n_parts = n_prompts + n_rows;
    x.a.parts = parts;
    report(name, "GFLOP/s", 4.0 * (double)n_pairs * (double)(n_heads * dim), attend_ours, decode_plain, &x);
    free(parts);
    release();
}

static void bench_attend(void)
{
    bench_attend_shape(512, 512, 8, 8, 64, false);
    bench_attend_shape(2048, 2048, 8, 8, 64, false);
    bench_attend_shape(2048, 2048, 8, 8, 64, true);
    bench_attend_shape(2048, 2048, 14, 2, 64, false);
    bench_attend_shape(1024, 1024, 16, 8, 128, true);
    bench_attend_shape(256, 256, 8, 4, 64, true);
    bench_attend_shape(256, 2048, 8, 4, 64, false);
    bench_attend_shape(2048, 4096, 8, 4, 64, false);
    bench_siblings_shape(8, 256, 2048, 8, 4, 64);
    bench_siblings_shape(8, 256, 2048, 8, 4, 128);
    bench_siblings_shape(64, 32, 32, 8, 4, 64);
    bench_attend_shape(512, 512, 4, 1, 32, true);
    bench_attend_shape(512, 200, 4, 2, 16, false);
    bench_attend_shape(64, 64, 4, 2, 16, true);
    bench_decode_shape(64, 8, 512, 64, 8, 4, 64);
    bench_decode_shape(256, 8, 128, 32, 4, 2, 16);
    bench_decode_shape(256, 1, 16, 128, 8, 4, 64);
    bench_decode_shape(64, 1, 16, 1024, 14, 2, 64);
    bench_decode_shape(16, 8, 40, 8, 4, 2, 16);
}

/* ---- rows ---- */

static void rmsnorm_ours(void *context)
{
    must(backend->rmsnorm(stream, context));
}

static void rmsnorm_plain(void *context)
{
    const stm_rmsnorm *a = context;
    for (size_t r = 0; r < a->n_rows; r++) {
        double squares = 0;
        for (size_t i = 0; i < a->width; i++)
            squares += get(a->x, r * a->width + i) * get(a->x, r * a->width + i);
        const double inverse = 1 / sqrt(squares / (double)a->width + a->eps);
        for (size_t i = 0; i < a->width; i++)
            set(a->y, r * a->width + i, get(a->x, r * a->width + i) * inverse * get(a->w, i));
    }
}

static void rmsnorm_backward_ours(void *context)
{
    must(backend->rmsnorm_backward(stream, context));
}

static void swiglu_ours(void *context)
{
    must(backend->swiglu(stream, context));
}

static void swiglu_plain(void *context)
{
    const stm_swiglu *a = context;
    for (size_t r = 0; r < a->n_rows; r++)
        for (size_t i = 0; i < a->width; i++) {
            const double g = get(a->gu, r * 2 * a->width + i), u = get(a->gu, (r * 2 + 1) * a->width + i);
            set(a->h, r * a->width + i, g / (1 + exp(-g)) * u);
        }
}

static void swiglu_backward_ours(void *context)
{
    must(backend->swiglu_backward(stream, context));
}

static void rotary_ours(void *context)
{
    must(backend->rotary(stream, context));
}

static void adamw_ours(void *context)
{
    must(backend->adamw(stream, context));
}

static void bench_rows_shape(size_t n_rows, size_t width)
{
    char name[128];
    const size_t n = n_rows * width;
    const double bytes = (double)n * (double)backend->real_bytes;
    stm_rmsnorm norm = {.n_rows = n_rows, .width = width, .eps = 1e-6, .x = reals(n), .w = reals(width)};
    norm.y = reals(n);
    norm.inverse_rms = reals(n_rows);
    norm.dy = reals(n);
    norm.dx = reals(n);
    norm.dw = reals(width);
    snprintf(name, sizeof name, "rmsnorm %zu x %zu", n_rows, width);
    if (wanted(name)) {
        report(name, "GB/s", 2 * bytes, rmsnorm_ours, rmsnorm_plain, &norm);
        strcat(name, ", back");
        report(name, "GB/s", 4 * bytes, rmsnorm_backward_ours, NULL, &norm);
    }
    stm_swiglu swiglu = {.n_rows = n_rows, .width = width, .gu = reals(2 * n), .h = norm.y, .dh = norm.dy};
    swiglu.dgu = reals(2 * n);
    snprintf(name, sizeof name, "swiglu %zu x %zu", n_rows, width);
    if (wanted(name)) {
        report(name, "GB/s", 3 * bytes, swiglu_ours, swiglu_plain, &swiglu);
        strcat(name, ", back");
        report(name, "GB/s", 6 * bytes, swiglu_backward_ours, NULL, &swiglu);
    }
    stm_adamw adamw = {.n = n, .step = 3, .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .scale = 1};
    adamw.parameter = norm.y;
    adamw.gradient = norm.dy;
    adamw.exp_avg = reals(n);
    adamw.exp_avg_sq = room(n * backend->real_bytes);
    snprintf(name, sizeof name, "adamw %zu", n);
    if (wanted(name))
        report(name, "GB/s", 7 * bytes, adamw_ours, NULL, &adamw);
    stm_rotary rotary = {.n_q_rows = n_rows, .n_heads = width / 64, .n_kv_heads = 1, .head_dim = 64};
    int32_t *positions = room(n_rows * sizeof *positions);
    for (size_t i = 0; i < n_rows; i++)
        positions[i] = (int32_t)i;
    rotary.q_positions = positions;
    rotary.cosine = rotary.sine = reals(n_rows * 32);
    rotary.in_stride_q = width;
    rotary.q_in = norm.dy;
    rotary.q = norm.y;
    snprintf(name, sizeof name, "rotary %zu x %zu", n_rows, width);
    if (wanted(name))
        report(name, "GB/s", 2 * bytes, rotary_ours, NULL, &rotary);
    release();
}

/* ---- head and sampling ---- */

static void head_ours(void *context)
{
    must(backend->head_block(stream, context));
}

static void head_plain(void *context)
{
    const stm_head_block *a = context;
    for (size_t r = 0; r < a->n_rows; r++) {
        double m = -INFINITY, s = 0, t = 0;
        for (size_t i = 0; i < a->n_columns; i++)
            m = fmax(m, get(a->logits, r * a->n_columns + i));
        for (size_t i = 0; i < a->n_columns; i++) {
            const double z = get(a->logits, r * a->n_columns + i), e = exp(z - m);
            s += e;
            t += e * z;
        }
        a->m[r] = m;
        a->s[r] = s;
        a->t[r] = t;
    }
}

static void head_backward_ours(void *context)
{
    must(backend->head_block_backward(stream, context));
}

static void bench_head_shape(size_t n_rows, size_t n_columns)
{
    char name[128];
    const double bytes = (double)(n_rows * n_columns * backend->real_bytes);
    stm_head_block a = {
        .n_rows = n_rows, .n_columns = n_columns, .stride = n_columns, .logits = reals(n_rows * n_columns)};
    double *doubles = room(9 * n_rows * sizeof *doubles), *inverse = doubles + 8 * n_rows;
    a.targets = room(n_rows * sizeof *a.targets);
    for (size_t i = 0; i < n_rows; i++)
        inverse[i] = 1;
    a.inverse_temperature = inverse;
    double **const outputs[] = {&a.m, &a.s, &a.t, &a.z_target, &a.logp, &a.entropy, &a.lse};
    for (size_t i = 0; i < 7; i++)
        *outputs[i] = doubles + i * n_rows;
    a.dlogp = a.dentropy = inverse;
    snprintf(name, sizeof name, "head %zu x %zu", n_rows, n_columns);
    if (wanted(name)) {
        report(name, "GB/s", bytes, head_ours, head_plain, &a);
        must(backend->head_finish(stream, &a));
        strcat(name, ", back");
        report(name, "GB/s", 2 * bytes, head_backward_ours, NULL, &a);
    }
    release();
}

static void sample_ours(void *context)
{
    must(backend->sample(stream, context));
}

static const void *sorted_logits;

static int descending(const void *x, const void *y)
{
    const double a = get(sorted_logits, (size_t) * (const int32_t *)x),
                 b = get(sorted_logits, (size_t) * (const int32_t *)y);
    return a > b ? -1 : a < b;
}

/* Sorts the whole vocabulary and adds up. */
static void sample_plain(void *context)
{
    const stm_sample *a = context;
    int32_t *order = malloc(a->n_columns * sizeof *order);
    for (size_t r = 0; r < a->n_rows; r++) {
        sorted_logits = stm_at(backend, a->logits, r * a->n_columns);
        for (size_t i = 0; i < a->n_columns; i++)
            order[i] = (int32_t)i;
        qsort(order, a->n_columns, sizeof *order, descending);
        const double largest = get(sorted_logits, (size_t)order[0]);
        double sum = 0, goal = 0;
        size_t i = 0;
        for (size_t j = 0; j < a->n_columns; j++)
            sum += exp((get(sorted_logits, j) - largest) / a->temperature);
        for (; goal < a->uniform[r] * sum && i < a->n_columns; i++)
            goal += exp((get(sorted_logits, (size_t)order[i]) - largest) / a->temperature);
        a->id[r] = order[i ? i - 1 : 0];
    }
    free(order);
}

static void bench_sample_shape(size_t n_rows, size_t n_columns, double temperature, size_t top_k, double top_p,
                               double min_p)
{
    char name[128];
    stm_sample a = {.n_rows = n_rows, .n_columns = n_columns, .n_ids = n_columns, .temperature = temperature};
    a.top_k = top_k;
    a.top_p = top_p;
    a.min_p = min_p;
    void *logits = reals(n_rows * n_columns);
    double *doubles = room(4 * n_rows * sizeof *doubles);
    for (size_t i = 0; i < n_rows * n_columns; i++)
        set(logits, i, 6 * get(logits, i) + (i % 997 == 0 ? 8 : 0));
    for (size_t i = 0; i < n_rows; i++)
        doubles[i] = ((double)i + 0.5) / (double)n_rows;
    a.logits = logits;
    a.uniform = doubles;
    a.logp = doubles + n_rows;
    a.entropy = doubles + 2 * n_rows;
    a.kept_mass = doubles + 3 * n_rows;
    a.id = room(n_rows * sizeof *a.id);
    snprintf(name, sizeof name, "sample %zu x %zu T %g k %zu p %g min %g", n_rows, n_columns, temperature, top_k, top_p,
             min_p);
    if (wanted(name))
        report(name, "GB/s", (double)(n_rows * n_columns * backend->real_bytes), sample_ours, sample_plain, &a);
    release();
}

int main(int argc, char **argv)
{
    const bool wide = argc > 1 && strcmp(argv[1], "float64") == 0;
    must(stm_backend_find("cpu", wide ? STM_FLOAT64 : STM_FLOAT32, &backend));
    n_threads = argc > 2 ? atoi(argv[2]) : 2;
    only = argc > 3 ? argv[3] : NULL;
    must(backend->open(n_threads, &stream));
    printf("%s, %d threads, %s\n", wide ? "float64" : "float32", n_threads, openblas_get_config());
    bench_gemm();
    bench_attend();
    bench_rows_shape(2048, 1024);
    bench_rows_shape(64, 256);
    bench_rows_shape(8, 64);
    bench_head_shape(256, 8192);
    bench_head_shape(16, 64);
    bench_sample_shape(4, 32000, 1, 0, 1, 0);
    bench_sample_shape(4, 32000, 0, 0, 1, 0);
    bench_sample_shape(4, 32000, 0.8, 50, 1, 0);
    bench_sample_shape(4, 32000, 1, 0, 0.9, 0);
    bench_sample_shape(4, 32000, 1, 50, 0.9, 0.05);
    bench_sample_shape(64, 64, 1, 0, 1, 0);
    backend->close(stream);
    return 0;
}
