/* Recorded vectors of other implementations (fixtures/vectors/layer_vectors.json: PyTorch in float32): RMS norm, rotary
 * embedding, attention under a mask, AdamW over 1,000 steps. */
#include "support/device.h"

#include <jansson.h>

static json_t *vectors;

static int open_vectors(void **state)
{
    (void)state;
    json_error_t error;
    const char *path = stm_fixture("vectors/layer_vectors.json");
    vectors = path ? json_load_file(path, 0, &error) : NULL;
    return vectors ? 0 : -1;
}

static int close_vectors(void **state)
{
    (void)state;
    json_decref(vectors);
    return 0;
}

/* Numbers of vectors[topic][key], n of them; lists of lists are read row by row. The caller frees. */
static double *numbers(const char *topic, const char *key, size_t n)
{
    const json_t *list = json_object_get(json_object_get(vectors, topic), key);
    double *x = malloc(n * sizeof *x);
    assert_non_null(list);
    for (size_t i = 0; i < n; i++) {
        const json_t *first = json_array_get(list, 0), *item = json_array_get(list, i);
        if (json_is_array(first))
            item = json_array_get(json_array_get(list, i / json_array_size(first)), i % json_array_size(first));
        assert_true(json_is_number(item));
        x[i] = json_number_value(item);
    }
    return x;
}

/* Runs `test` in both precisions; the recorded values are float32. */
static void in_both_precisions(void (*test)(device *d))
{
    for (size_t bytes = 4; bytes <= 8; bytes += 4) {
        device d;
        device_open(&d, backend_under_test(), bytes, 2);
        test(&d);
        device_close(&d);
    }
}

static void check_rmsnorm(device *d)
{
    enum { ROWS = 8, WIDTH = 64, N = ROWS * WIDTH };
    double *x = numbers("rmsnorm", "x[first 8 rows]", N), *w = numbers("rmsnorm", "weight[64]", WIDTH);
    double *expected = numbers("rmsnorm", "expected[first 8 rows]", N), found[N];
    stm_rmsnorm a = {.n_rows = ROWS, .width = WIDTH, .eps = 1e-5};
    a.x = device_reals(d, x, N);
    a.w = device_reals(d, w, WIDTH);
    a.y = device_reals(d, NULL, N);
    a.inverse_rms = device_reals(d, NULL, ROWS);
    assert_ok(d->backend->rmsnorm(d->stream, &a));
    device_read(d, a.y, found, N);
    assert_true(stm_relative_difference(found, expected, N) < 1e-6);
    free(x), free(w), free(expected);
}

static void rmsnorm_agrees(void **state)
{
    (void)state;
    in_both_precisions(check_rmsnorm);
}

/* There pairs are neighbours (2i, 2i+1), here halves (i, i + 32): dimensions are permuted on the way in and out. */
static void check_rope(device *d)
{
    enum { BATCH = 4, POSITIONS = 12, DIM = 64, HALF = DIM / 2, N = BATCH * POSITIONS * DIM };
    double *x = numbers("rope_interleaved", "x[4,12,64]", N), in[N], out[N];
    double *expected = numbers("rope_interleaved", "expected[4,12,64]", N);
    double cosine[POSITIONS * HALF], sine[POSITIONS * HALF];
    int32_t positions[BATCH * POSITIONS];
    for (size_t i = 0; i < N; i++)
        in[i / DIM * DIM + i % 2 * HALF + i % DIM / 2] = x[i];
    for (size_t i = 0; i < POSITIONS * HALF; i++) {
        const double angle = (double)(i / HALF) * pow(1e4, -(double)(i % HALF) / HALF);
        cosine[i] = cos(angle);
        sine[i] = sin(angle);
    }
    for (size_t i = 0; i < BATCH * POSITIONS; i++)
        positions[i] = (int32_t)(i % POSITIONS);
    stm_rotary a = {.n_q_rows = BATCH * POSITIONS, .n_heads = 1, .n_kv_heads = 1, .head_dim = DIM, .in_stride_q = DIM};
    a.q_positions = device_bytes(d, positions, sizeof positions);
    a.cosine = device_reals(d, cosine, POSITIONS * HALF);
    a.sine = device_reals(d, sine, POSITIONS * HALF);
    a.q_in = device_reals(d, in, N);
    a.q = device_reals(d, NULL, N);
    assert_ok(d->backend->rotary(d->stream, &a));
    device_read(d, a.q, out, N);
    for (size_t i = 0; i < N; i++)
        in[i] = out[i / DIM * DIM + i % 2 * HALF + i % DIM / 2];
    assert_true(stm_relative_difference(in, expected, N) < 1e-6);
    free(x), free(expected);
}

static void rotary_agrees(void **state)
{
    (void)state;
    in_both_precisions(check_rope);
}

/* The mask is arbitrary: each row has one part, the keys that it may see, gathered. */
static void check_attention(device *d)
{
    enum { BATCH = 4, ROWS = 12, KEYS = 16, DIM = 64, N = BATCH * ROWS * DIM };
    double *q = numbers("masked_sdpa", "q[4,12,64]", N), *k = numbers("masked_sdpa", "k[4,16,64]", BATCH * KEYS * DIM),
           *v = numbers("masked_sdpa", "v[4,16,64]", BATCH * KEYS * DIM);
    double *mask = numbers("masked_sdpa", "mask[4,12,16]", BATCH * ROWS * KEYS), found[N];
    double *expected = numbers("masked_sdpa", "expected[4,12,64]", N);
    double *seen_k = calloc(BATCH * ROWS * KEYS * DIM, 8), *seen_v = calloc(BATCH * ROWS * KEYS * DIM, 8);
    stm_attend_part parts[BATCH * ROWS];
    for (size_t r = 0; r < BATCH * ROWS; r++) {
        parts[r] = (stm_attend_part){.first_row = r, .n_rows = 1, .kv_stride = KEYS};
        for (size_t key = 0; key < KEYS; key++) {
            if (mask[r * KEYS + key] == 0)
                continue;
            const size_t to = (r * KEYS + parts[r].n_keys++) * DIM, from = (r / ROWS * KEYS + key) * DIM;
            memcpy(seen_k + to, k + from, DIM * sizeof *k);
            memcpy(seen_v + to, v + from, DIM * sizeof *v);
        }
    }
    const void *device_k = device_reals(d, seen_k, BATCH * ROWS * KEYS * DIM);
    const void *device_v = device_reals(d, seen_v, BATCH * ROWS * KEYS * DIM);
    for (size_t r = 0; r < BATCH * ROWS; r++) {
        parts[r].k = stm_at(d->backend, device_k, r * KEYS * DIM);
        parts[r].v = stm_at(d->backend, device_v, r * KEYS * DIM);
    }
    stm_attend a = {.n_rows = BATCH * ROWS, .n_heads = 1, .n_kv_heads = 1, .head_dim = DIM, .scale = 0.125};
    a.q = device_reals(d, q, N);
    a.n_parts = BATCH * ROWS;
    a.parts = parts;
    a.o = device_reals(d, NULL, N);
    a.lse = device_reals(d, NULL, BATCH * ROWS);
    assert_ok(d->backend->attend(d->stream, &a));
    device_read(d, a.o, found, N);
    assert_true(stm_relative_difference(found, expected, N) < 1e-6);
    free(q), free(k), free(v), free(mask), free(expected), free(seen_k), free(seen_v);
}

static void attention_agrees(void **state)
{
    (void)state;
    in_both_precisions(check_attention);
}

/* loss = sum((y - W x)^2), y = [x0 + x1, -x2]; dW = -2 (y - W x) x^T. */
static void check_adamw(device *d)
{
    enum { STEPS = 1000, IN = 3, OUT = 2 };
    double *w = numbers("adamw_1000_steps", "W0[2,3]", OUT * IN),
           *x = numbers("adamw_1000_steps", "x[1000,3]", STEPS * IN);
    double *expected = numbers("adamw_1000_steps", "expected_W[2,3]", OUT * IN), zero[OUT * IN] = {0};
    stm_adamw a = {
        .n = OUT * IN, .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.01, .scale = 1};
    a.parameter = device_reals(d, w, OUT * IN);
    a.exp_avg = device_reals(d, zero, OUT * IN);
    a.exp_avg_sq = device_reals(d, zero, OUT * IN);
    void *gradient = device_reals(d, zero, OUT * IN);
    a.gradient = gradient;
    for (size_t t = 0; t < STEPS; t++) {
        const double *xt = x + t * IN, y[OUT] = {xt[0] + xt[1], -xt[2]};
        double dw[OUT * IN];
        device_read(d, a.parameter, w, OUT * IN);
        for (size_t o = 0; o < OUT; o++) {
            double error = y[o];
            for (size_t i = 0; i < IN; i++)
                error -= w[o * IN + i] * xt[i];
            for (size_t i = 0; i < IN; i++)
                dw[o * IN + i] = -2 * error * xt[i];
        }
        float narrow[OUT * IN];
        for (size_t i = 0; i < OUT * IN; i++)
            narrow[i] = (float)dw[i];
        const bool wide = d->backend->real_bytes == 8;
        assert_ok(d->backend->write(d->stream, gradient, wide ? (const void *)dw : narrow,
                                    OUT * IN * d->backend->real_bytes));
        a.step = (int64_t)t + 1;
        assert_ok(d->backend->adamw(d->stream, &a));
    }
    device_read(d, a.parameter, w, OUT * IN);
    for (size_t i = 0; i < OUT * IN; i++)
        assert_near(w[i], expected[i], 1e-4); /* the tolerance recorded with it: a thousand roundings of float32 */
    free(w), free(x), free(expected);
}

static void adamw_agrees_after_a_thousand_steps(void **state)
{
    (void)state;
    in_both_precisions(check_adamw);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm_agrees),
        cmocka_unit_test(rotary_agrees),
        cmocka_unit_test(attention_agrees),
        cmocka_unit_test(adamw_agrees_after_a_thousand_steps),
    };
    return cmocka_run_group_tests(tests, open_vectors, close_vectors);
}
