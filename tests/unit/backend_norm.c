/* RMS norm and the rotary embedding of a backend against their definitions and finite differences. */
#include "support/device.h"

static const double EPS = 1e-3; /* large, so that it is seen */

typedef struct {
    size_t n_rows, width;
    double *x, *w, *dy;
    device *d;
} norm_problem;

static void norm_by_definition(const norm_problem *p, double *y)
{
    for (size_t r = 0; r < p->n_rows; r++) {
        double squares = 0;
        for (size_t i = 0; i < p->width; i++)
            squares += p->x[r * p->width + i] * p->x[r * p->width + i];
        for (size_t i = 0; i < p->width; i++)
            y[r * p->width + i] = p->x[r * p->width + i] * p->w[i] / sqrt(squares / (double)p->width + EPS);
    }
}

static stm_rmsnorm norm_on(device *d, const norm_problem *p)
{
    const size_t n = p->n_rows * p->width;
    stm_rmsnorm a = {.n_rows = p->n_rows, .width = p->width, .eps = EPS};
    a.x = device_reals(d, p->x, n);
    a.w = device_reals(d, p->w, p->width);
    a.y = device_reals(d, NULL, n);
    a.inverse_rms = device_reals(d, NULL, p->n_rows);
    assert_ok(d->backend->rmsnorm(d->stream, &a));
    return a;
}

static double norm_loss(void *context)
{
    const norm_problem *p = context;
    const size_t n = p->n_rows * p->width;
    double *y = malloc(n * sizeof *y), sum = 0;
    const stm_rmsnorm a = norm_on(p->d, p);
    device_read(p->d, a.y, y, n);
    for (size_t i = 0; i < n; i++)
        sum += y[i] * p->dy[i];
    device_release(p->d);
    free(y);
    return sum;
}

static void rmsnorm_and_its_gradient_follow_the_definition(void **state)
{
    (void)state;
    for (size_t i = 0; i < 3; i += device_kind_step()) {
        device d;
        device_open(&d, backend_under_test(), device_kinds[i].real_bytes, device_kinds[i].n_threads);
        norm_problem p = {7, 21, random_numbers(1, 147), random_numbers(2, 21), random_numbers(3, 147), &d};
        double *start = random_numbers(4, 147), y[147], expected[147], dx[147], dw[21];
        stm_rmsnorm a = norm_on(&d, &p);
        device_read(&d, a.y, y, 147);
        norm_by_definition(&p, expected);
        assert_true(stm_relative_difference(y, expected, 147) < device_kinds[i].tolerance);
        a.dy = device_reals(&d, p.dy, 147);
        a.dx = device_reals(&d, start, 147); /* gradients are added to what is there */
        a.dw = device_reals(&d, start, 21);
        assert_ok(d.backend->rmsnorm_backward(d.stream, &a));
        device_read(&d, a.dx, dx, 147);
        device_read(&d, a.dw, dw, 21);
        for (size_t j = 0; j < 147; j++)
            dx[j] -= start[j];
        for (size_t j = 0; j < 21; j++)
            dw[j] -= start[j];
        if (device_kinds[i].real_bytes == 8) {
            assert_gradient(norm_loss, &p, p.x, dx, 147, 1e-6);
            assert_gradient(norm_loss, &p, p.w, dw, 21, 1e-6);
        }
        device_close(&d);
        free(p.x), free(p.w), free(p.dy), free(start);
    }
}

/* Sums over many rows and threads: float32 against float64. */
static void norm_weight_gradient_in_float32_is_near_float64(void **state)
{
    (void)state;
    enum { ROWS = 3001, WIDTH = 33 };
    norm_problem p = {
        ROWS, WIDTH, random_numbers(1, ROWS * WIDTH), random_numbers(2, WIDTH), random_numbers(3, ROWS * WIDTH), NULL};
    double dw[3][WIDTH], zero[WIDTH] = {0};
    for (size_t i = 0; i < 3; i += device_kind_step()) {
        device d;
        device_open(&d, backend_under_test(), device_kinds[i].real_bytes, device_kinds[i].n_threads);
        stm_rmsnorm a = norm_on(&d, &p);
        a.dy = device_reals(&d, p.dy, ROWS * WIDTH);
        a.dx = device_reals(&d, p.dy, ROWS * WIDTH);
        a.dw = device_reals(&d, zero, WIDTH);
        assert_ok(d.backend->rmsnorm_backward(d.stream, &a));
        device_read(&d, a.dw, dw[i], WIDTH);
        assert_true(stm_relative_difference(dw[i], dw[0], WIDTH) < (i < 2 ? 1e-13 : 1e-6));
        device_close(&d);
    }
    free(p.x), free(p.w), free(p.dy);
}

enum { Q_ROWS = 5, KV_ROWS = 4, HEADS = 4, KV_HEADS = 2, DIM = 6, HALF = DIM / 2, POSITIONS = 9, KV_STRIDE = 7 };
enum {
    Q_IN = HEADS * DIM + 3,
    KV_IN = KV_HEADS * DIM + 5,
    N_Q = Q_ROWS * HEADS * DIM,
    N_KV = KV_HEADS * KV_STRIDE * DIM
};

static const int32_t q_positions[Q_ROWS] = {3, 0, 8, 3, 5}, kv_positions[KV_ROWS] = {7, 1, 0, 2};

/* One array of inputs and one of weights for the outputs q, k, v. */
typedef struct {
    device *d;
    bool norm, biased;
    double *q_in, *k_in, *v_in, *q_norm, *k_norm, *q_bias, *k_bias, *v_bias, *dq, *dk, *dv;
    double cosine[POSITIONS * HALF], sine[POSITIONS * HALF];
} rotary_problem;

static rotary_problem rotary_create(device *d, bool norm, bool biased)
{
    rotary_problem p = {
        .d = d, .norm = norm, .biased = biased, .q_norm = random_numbers(4, DIM), .k_norm = random_numbers(5, DIM)};
    p.q_in = random_numbers(1, Q_ROWS * Q_IN);
    p.k_in = random_numbers(2, KV_ROWS * KV_IN);
    p.v_in = random_numbers(3, KV_ROWS * KV_IN);
    p.dq = random_numbers(6, N_Q);
    p.dk = random_numbers(7, N_KV);
    p.dv = random_numbers(8, N_KV);
    p.q_bias = random_numbers(10, HEADS * DIM);
    p.k_bias = random_numbers(11, KV_HEADS * DIM);
    p.v_bias = random_numbers(12, KV_HEADS * DIM);
    for (size_t i = 0; i < POSITIONS * HALF; i++) {
        const double angle = (double)(i / HALF) * pow(100, -(double)(i % HALF) / HALF);
        p.cosine[i] = cos(angle);
        p.sine[i] = sin(angle);
    }
    return p;
}

static void rotary_destroy(rotary_problem *p)
{
    free(p->q_in), free(p->k_in), free(p->v_in), free(p->q_norm), free(p->k_norm), free(p->dq), free(p->dk),
        free(p->dv);
    free(p->q_bias), free(p->k_bias), free(p->v_bias);
}

static stm_rotary rotary_on(const rotary_problem *p)
{
    device *d = p->d;
    stm_rotary a = {.n_q_rows = Q_ROWS,
                    .n_kv_rows = KV_ROWS,
                    .n_heads = HEADS,
                    .n_kv_heads = KV_HEADS,
                    .head_dim = DIM,
                    .norm_eps = EPS};
    a.in_stride_q = Q_IN;
    a.in_stride_kv = KV_IN;
    a.kv_stride = KV_STRIDE;
    a.q_positions = device_bytes(d, q_positions, sizeof q_positions);
    a.kv_positions = device_bytes(d, kv_positions, sizeof kv_positions);
    a.cosine = device_reals(d, p->cosine, POSITIONS * HALF);
    a.sine = device_reals(d, p->sine, POSITIONS * HALF);
    a.q_norm = p->norm ? device_reals(d, p->q_norm, DIM) : NULL;
    a.k_norm = p->norm ? device_reals(d, p->k_norm, DIM) : NULL;
    a.q_bias = p->biased ? device_reals(d, p->q_bias, HEADS * DIM) : NULL;
    a.k_bias = p->biased ? device_reals(d, p->k_bias, KV_HEADS * DIM) : NULL;
    a.v_bias = p->biased ? device_reals(d, p->v_bias, KV_HEADS * DIM) : NULL;
    a.q_in = device_reals(d, p->q_in, Q_ROWS * Q_IN);
    a.k_in = device_reals(d, p->k_in, KV_ROWS * KV_IN);
    a.v_in = device_reals(d, p->v_in, KV_ROWS * KV_IN);
    a.q = device_reals(d, NULL, N_Q);
    a.k = device_reals(d, p->dk, N_KV); /* rows beyond KV_ROWS must stay as they are */
    a.v = device_reals(d, p->dv, N_KV);
    assert_ok(d->backend->rotary(d->stream, &a));
    return a;
}

/* from -> y for one head with its bias, by definition. */
static void rotate_by_definition(const rotary_problem *p, const double *from, const double *bias, const double *norm,
                                 size_t position, double y[DIM])
{
    double squares = 0, in[DIM], x[DIM];
    for (size_t i = 0; i < DIM; i++) {
        x[i] = from[i] + (p->biased ? bias[i] : 0);
        squares += x[i] * x[i];
    }
    for (size_t i = 0; i < DIM; i++)
        in[i] = p->norm ? x[i] * norm[i] / sqrt(squares / DIM + EPS) : x[i];
    for (size_t i = 0; i < HALF; i++) {
        const double c = p->cosine[position * HALF + i], s = p->sine[position * HALF + i];
        y[i] = in[i] * c - in[i + HALF] * s;
        y[i + HALF] = in[i + HALF] * c + in[i] * s;
    }
}

static void rotary_follows_the_definition(const rotary_problem *p, const stm_rotary *a, double tolerance)
{
    double q[N_Q], k[N_KV], v[N_KV], y[DIM];
    device_read(p->d, a->q, q, N_Q);
    device_read(p->d, a->k, k, N_KV);
    device_read(p->d, a->v, v, N_KV);
    for (size_t r = 0; r < Q_ROWS; r++)
        for (size_t h = 0; h < HEADS; h++) {
            rotate_by_definition(p, p->q_in + r * Q_IN + h * DIM, p->q_bias + h * DIM, p->q_norm,
                                 (size_t)q_positions[r], y);
            for (size_t i = 0; i < DIM; i++)
                assert_near(q[(r * HEADS + h) * DIM + i], y[i], tolerance);
        }
    for (size_t h = 0; h < KV_HEADS; h++)
        for (size_t r = 0; r < KV_STRIDE; r++) {
            const size_t at = (h * KV_STRIDE + r) * DIM;
            if (r < KV_ROWS)
                rotate_by_definition(p, p->k_in + r * KV_IN + h * DIM, p->k_bias + h * DIM, p->k_norm,
                                     (size_t)kv_positions[r], y);
            for (size_t i = 0; i < DIM; i++) {
                assert_near(k[at + i], r < KV_ROWS ? y[i] : p->dk[at + i], tolerance);
                const double bias = p->biased ? p->v_bias[h * DIM + i] : 0;
                assert_near(v[at + i], r < KV_ROWS ? p->v_in[r * KV_IN + h * DIM + i] + bias : p->dv[at + i],
                            tolerance);
            }
        }
}

static double rotary_loss(void *context)
{
    const rotary_problem *p = context;
    double q[N_Q], k[N_KV], v[N_KV], sum = 0;
    const stm_rotary a = rotary_on(p);
    device_read(p->d, a.q, q, N_Q);
    device_read(p->d, a.k, k, N_KV);
    device_read(p->d, a.v, v, N_KV);
    for (size_t i = 0; i < N_Q; i++)
        sum += q[i] * p->dq[i];
    for (size_t i = 0; i < N_KV; i++)
        sum += k[i] * p->dk[i] + v[i] * p->dv[i];
    device_release(p->d);
    return sum;
}

static void check_rotary(device *d, bool norm, bool biased, double tolerance)
{
    rotary_problem p = rotary_create(d, norm, biased);
    stm_rotary a = rotary_on(&p);
    rotary_follows_the_definition(&p, &a, tolerance);
    double *start = random_numbers(9, DIM), dq_in[Q_ROWS * Q_IN], dk_in[KV_ROWS * KV_IN], dv_in[KV_ROWS * KV_IN],
           dq_norm[DIM], dk_norm[DIM];
    double zero[Q_ROWS * Q_IN] = {0};
    a.dq = device_reals(d, p.dq, N_Q);
    a.dk = device_reals(d, p.dk, N_KV);
    a.dv = device_reals(d, p.dv, N_KV);
    a.dq_in = device_reals(d, zero, Q_ROWS * Q_IN); /* what lies between rows has no gradient and stays */
    a.dk_in = device_reals(d, zero, KV_ROWS * KV_IN);
    a.dv_in = device_reals(d, zero, KV_ROWS * KV_IN);
    a.dq_norm = norm ? device_reals(d, start, DIM) : NULL;
    a.dk_norm = norm ? device_reals(d, start, DIM) : NULL;
    assert_ok(d->backend->rotary_backward(d->stream, &a));
    device_read(d, a.dq_in, dq_in, Q_ROWS * Q_IN);
    device_read(d, a.dk_in, dk_in, KV_ROWS * KV_IN);
    device_read(d, a.dv_in, dv_in, KV_ROWS * KV_IN);
    if (norm) {
        device_read(d, a.dq_norm, dq_norm, DIM);
        device_read(d, a.dk_norm, dk_norm, DIM);
    }
    for (size_t i = 0; i < DIM && norm; i++) {
        dq_norm[i] -= start[i];
        dk_norm[i] -= start[i];
    }
    if (d->backend->real_bytes == 8) {
        assert_gradient(rotary_loss, &p, p.q_in, dq_in, Q_ROWS * Q_IN, 1e-6);
        assert_gradient(rotary_loss, &p, p.k_in, dk_in, KV_ROWS * KV_IN, 1e-6);
        assert_gradient(rotary_loss, &p, p.v_in, dv_in, KV_ROWS * KV_IN, 1e-6);
        if (norm) {
            assert_gradient(rotary_loss, &p, p.q_norm, dq_norm, DIM, 1e-6);
            assert_gradient(rotary_loss, &p, p.k_norm, dk_norm, DIM, 1e-6);
        }
    }
    device_release(d);
    rotary_destroy(&p);
    free(start);
}

static void rotary_and_its_gradient_follow_the_definition_with_and_without_norms_and_biases(void **state)
{
    (void)state;
    for (size_t i = 0; i < 3; i += device_kind_step()) {
        device d;
        device_open(&d, backend_under_test(), device_kinds[i].real_bytes, device_kinds[i].n_threads);
        for (int which = 0; which < 4; which++)
            check_rotary(&d, which % 2, which / 2, device_kinds[i].tolerance);
        device_close(&d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm_and_its_gradient_follow_the_definition),
        cmocka_unit_test(norm_weight_gradient_in_float32_is_near_float64),
        cmocka_unit_test(rotary_and_its_gradient_follow_the_definition_with_and_without_norms_and_biases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
