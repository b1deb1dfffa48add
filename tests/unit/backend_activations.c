/* Operations that read or write activations, in every precision of a backend, against float64 on the CPU from the same
 * numbers. Those of activations are numbers that bfloat16 holds, so that what differs are sums in float and, where
 * activations are smaller than reals, one rounding of each that is written: at most 2^-8 of it. */
#include "support/device.h"

/* What an operation wrote, in order. */
typedef struct {
    struct written {
        const char *name;
        bool activations;
        double *x;
        size_t n;
    } arrays[8];
    size_t n;
} answer;

static void take(device *d, answer *out, const char *name, bool activations, const void *array, size_t n)
{
    struct written *w = &out->arrays[out->n++];
    *w = (struct written){name, activations, malloc(n * sizeof(double)), n};
    (activations ? device_read_activations : device_read)(d, array, w->x, n);
}

static void clear(answer *a)
{
    for (size_t i = 0; i < a->n; i++)
        free(a->arrays[i].x);
    a->n = 0;
}

/* Widths are multiples of 8, which go through memory many numbers at a time, or not. */
typedef struct {
    size_t n_rows, width, stride; /* stride: of what has rows further apart */
    size_t n_heads, n_kv_heads, head_dim;
    bool norm, bias;
} shape;
static const shape shapes[] = {{70, 264, 272, 4, 2, 64, true, false},
                               {9, 21, 23, 3, 3, 6, true, true},
                               {5, 2056, 2056, 4, 1, 16, false, true},
                               {300, 13, 40, 2, 1, 10, false, false},
                               {7, 1544, 1552, 2, 2, 8, true, true}};

static void *reals(device *d, uint64_t seed, size_t n)
{
    double *x = random_numbers(seed, n);
    void *array = device_reals(d, x, n);
    free(x);
    return array;
}

static void *activations(device *d, uint64_t seed, size_t n)
{
    double *x = random_numbers(seed, n);
    round_to_bf16(x, n);
    void *array = device_activations(d, x, n);
    free(x);
    return array;
}

static void run_norm(device *d, const shape *s, answer *out)
{
    const size_t n = s->n_rows * s->width;
    stm_rmsnorm a = {.n_rows = s->n_rows, .width = s->width, .eps = 1e-3};
    a.x = reals(d, 1, n);
    a.w = reals(d, 2, s->width);
    a.y = device_activations(d, NULL, n);
    a.inverse_rms = device_reals(d, NULL, s->n_rows);
    assert_ok(d->backend->rmsnorm(d->stream, &a));
    take(d, out, "y", true, a.y, n);
    take(d, out, "inverse_rms", false, a.inverse_rms, s->n_rows);
}

/* dx is rounded as it comes to be, not as it was. */
static void run_norm_backward(device *d, const shape *s, answer *out)
{
    const size_t n = s->n_rows * s->width;
    stm_rmsnorm a = {.n_rows = s->n_rows, .width = s->width, .eps = 1e-3};
    a.x = reals(d, 1, n);
    a.w = reals(d, 2, s->width);
    a.dy = reals(d, 3, n);
    a.dw = reals(d, 4, s->width);
    a.y = device_activations(d, NULL, n);
    a.inverse_rms = device_reals(d, NULL, s->n_rows);
    assert_ok(d->backend->rmsnorm(d->stream, &a));
    for (int rounded = 0; rounded < 2; rounded++) {
        a.dx = reals(d, 5, n);
        a.dx_rounded = rounded ? device_activations(d, NULL, n) : NULL;
        assert_ok(d->backend->rmsnorm_backward(d->stream, &a));
        take(d, out, "dx", false, a.dx, n);
        take(d, out, "dw", false, a.dw, s->width);
    }
    take(d, out, "dx_rounded", true, a.dx_rounded, n);
}

static void run_bias(device *d, const shape *s, answer *out)
{
    stm_bias a = {.n_rows = s->n_rows, .width = s->width, .stride = s->stride};
    a.dy = activations(d, 3, s->n_rows * s->stride);
    a.db = reals(d, 4, s->width);
    assert_ok(d->backend->bias_backward(d->stream, &a));
    take(d, out, "db", false, a.db, s->width);
}

/* A block of logits, whose gradient is written to where activations are. */
static void run_head(device *d, const shape *s, answer *out)
{
    const size_t n_rows = s->n_rows, dstride = (s->width + 15) / 8 * 8;
    stm_head_block a = {.n_rows = n_rows, .n_columns = s->width, .stride = s->stride, .dstride = dstride};
    int32_t *targets = malloc(n_rows * sizeof *targets);
    double *temperature = random_numbers(7, n_rows);
    for (size_t r = 0; r < n_rows; r++) {
        targets[r] = (int32_t)(r * 5 % s->width);
        temperature[r] += 2;
    }
    a.logits = reals(d, 1, n_rows * s->stride);
    a.dlogits = activations(d, 2, n_rows * dstride); /* what lies between rows stays */
    a.targets = device_bytes(d, targets, n_rows * sizeof *targets);
    a.inverse_temperature = device_bytes(d, temperature, n_rows * sizeof *temperature);
    double **const arrays[] = {&a.m, &a.s, &a.t, &a.z_target, &a.logp, &a.entropy, &a.lse};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        *arrays[i] = device_bytes(d, temperature, n_rows * sizeof *temperature);
    a.dlogp = a.dentropy = device_bytes(d, temperature, n_rows * sizeof *temperature);
    assert_ok(d->backend->head_block(d->stream, &a));
    assert_ok(d->backend->head_finish(d->stream, &a));
    assert_ok(d->backend->head_block_backward(d->stream, &a));
    take(d, out, "logits", false, a.logits, n_rows * s->stride);
    take(d, out, "dlogits", true, a.dlogits, n_rows * dstride);
    free(targets), free(temperature);
}

static void run_moves(device *d, const shape *s, answer *out)
{
    enum { PICKED = 4, SLOTS = 3, SLOT_ROWS = 5 };
    const int32_t rows[PICKED] = {4, 0, 3, 2}, slots[PICKED] = {2, 0, 2, 1}, positions[PICKED] = {4, 0, 1, 3};
    const size_t n_kv = PICKED * s->n_kv_heads * s->head_dim, n_cache = SLOTS * SLOT_ROWS * s->n_kv_heads * s->head_dim;
    stm_rows pick = {.activations = true, .n_rows = PICKED, .width = s->width, .x = activations(d, 1, 5 * s->width)};
    pick.rows = device_bytes(d, rows, sizeof rows);
    pick.y = device_activations(d, NULL, PICKED * s->width);
    assert_ok(d->backend->gather(d->stream, &pick));
    take(d, out, "picked", true, pick.y, PICKED * s->width);
    stm_append a = {.n_rows = PICKED, .n_kv_heads = s->n_kv_heads, .head_dim = s->head_dim, .slot_rows = SLOT_ROWS};
    a.slots = device_bytes(d, slots, sizeof slots);
    a.positions = device_bytes(d, positions, sizeof positions);
    a.k = activations(d, 2, n_kv);
    a.v = activations(d, 3, n_kv);
    a.k_cache = activations(d, 4, n_cache);
    a.v_cache = activations(d, 5, n_cache);
    assert_ok(d->backend->append(d->stream, &a));
    take(d, out, "k_cache", true, a.k_cache, n_cache);
    take(d, out, "v_cache", true, a.v_cache, n_cache);
    double *x = random_numbers(6, n_cache);
    round_to_bf16(x, n_cache);
    void *copy = device_activations(d, NULL, n_cache);
    assert_ok(d->backend->to_activations(d->stream, n_cache, device_reals(d, x, n_cache), copy));
    take(d, out, "copy", true, copy, n_cache);
    free(x);
}

static void run_swiglu(device *d, const shape *s, answer *out)
{
    const size_t n = s->n_rows * s->width;
    stm_swiglu a = {.n_rows = s->n_rows, .width = s->width};
    a.gu = activations(d, 1, 2 * n);
    a.dh = activations(d, 2, n);
    a.h = device_activations(d, NULL, n);
    a.dgu = device_activations(d, NULL, 2 * n);
    assert_ok(d->backend->swiglu(d->stream, &a));
    take(d, out, "h", true, a.h, n);
    a.h = device_activations(d, NULL, n);
    assert_ok(d->backend->swiglu_backward(d->stream, &a));
    take(d, out, "dgu", true, a.dgu, 2 * n);
    take(d, out, "h again", true, a.h, n);
    a.h = NULL;
    a.dgu = device_activations(d, NULL, 2 * n);
    assert_ok(d->backend->swiglu_backward(d->stream, &a));
    take(d, out, "dgu without h", true, a.dgu, 2 * n);
}

enum { POSITIONS = 31 };

static void place_rows(device *d, const shape *s, stm_rotary *a)
{
    int32_t *positions = malloc(s->n_rows * sizeof *positions);
    double *angles = random_numbers(20, POSITIONS * s->head_dim / 2);
    for (size_t i = 0; i < s->n_rows; i++)
        positions[i] = (int32_t)(i * 7 % POSITIONS);
    a->q_positions = a->kv_positions = device_bytes(d, positions, s->n_rows * sizeof *positions);
    for (int which = 0; which < 2; which++) {
        double *table = malloc(POSITIONS * s->head_dim / 2 * sizeof *table);
        for (size_t i = 0; i < POSITIONS * s->head_dim / 2; i++)
            table[i] = which ? sin(3 * angles[i]) : cos(3 * angles[i]);
        *(which ? &a->sine : &a->cosine) = device_reals(d, table, POSITIONS * s->head_dim / 2);
        free(table);
    }
    free(angles), free(positions);
}

static void run_rotary(device *d, const shape *s, answer *out)
{
    const size_t gap = s->head_dim % 8 == 0 ? 8 : 3, q_in = s->n_heads * s->head_dim + gap;
    const size_t kv_in = 2 * s->n_kv_heads * s->head_dim + gap, kv_stride = s->n_rows + 2;
    const size_t n_q = s->n_rows * s->n_heads * s->head_dim, n_kv = s->n_kv_heads * kv_stride * s->head_dim;
    stm_rotary a = {.n_q_rows = s->n_rows, .n_kv_rows = s->n_rows, .n_heads = s->n_heads, .n_kv_heads = s->n_kv_heads};
    a.head_dim = s->head_dim;
    a.in_stride_q = q_in;
    a.in_stride_kv = kv_in;
    a.kv_stride = kv_stride;
    a.norm_eps = 1e-3;
    place_rows(d, s, &a);
    a.q_norm = s->norm ? reals(d, 1, s->head_dim) : NULL;
    a.k_norm = s->norm ? reals(d, 2, s->head_dim) : NULL;
    a.q_bias = s->bias ? reals(d, 14, s->n_heads * s->head_dim) : NULL;
    a.k_bias = s->bias ? reals(d, 15, s->n_kv_heads * s->head_dim) : NULL;
    a.v_bias = s->bias ? reals(d, 16, s->n_kv_heads * s->head_dim) : NULL;
    a.q_in = activations(d, 3, s->n_rows * q_in);
    a.k_in = activations(d, 4, s->n_rows * kv_in);
    a.v_in = stm_activation_at(d->backend, a.k_in, s->n_kv_heads * s->head_dim);
    a.q = device_activations(d, NULL, n_q);
    a.k = activations(d, 5, n_kv); /* rows beyond n_rows must stay as they are */
    a.v = activations(d, 6, n_kv);
    assert_ok(d->backend->rotary(d->stream, &a));
    take(d, out, "q", true, a.q, n_q);
    take(d, out, "k", true, a.k, n_kv);
    take(d, out, "v", true, a.v, n_kv);
    a.dq = activations(d, 7, n_q);
    a.dk = reals(d, 8, n_kv);
    a.dv = reals(d, 9, n_kv);
    a.dq_in = activations(d, 10, s->n_rows * q_in); /* what lies between rows stays */
    a.dk_in = activations(d, 11, s->n_rows * kv_in);
    a.dv_in = stm_activation_at(d->backend, a.dk_in, s->n_kv_heads * s->head_dim);
    a.dq_norm = s->norm ? reals(d, 12, s->head_dim) : NULL;
    a.dk_norm = s->norm ? reals(d, 13, s->head_dim) : NULL;
    assert_ok(d->backend->rotary_backward(d->stream, &a));
    take(d, out, "dq_in", true, a.dq_in, s->n_rows * q_in);
    take(d, out, "dk_in and dv_in", true, a.dk_in, s->n_rows * kv_in);
    if (!s->norm)
        return;
    take(d, out, "dq_norm", false, a.dq_norm, s->head_dim);
    take(d, out, "dk_norm", false, a.dk_norm, s->head_dim);
}

/* As a model's products have them: results of activations and sums in reals, of each kind of operands. */
static void run_products(device *d, const shape *s, answer *out)
{
    const size_t m = s->n_rows, n = s->stride, k = s->width;
    for (int form = 0; form < 8; form++) {
        stm_gemm g = {.transpose_a = form == 3, .transpose_b = form % 2 == 0, .m = m, .n = n, .k = k, .ldc = n};
        g.activations.a = form & 1, g.activations.b = form & 2, g.activations.c = form & 4;
        g.alpha = form == 7 ? 0.75 : 1; /* as where two models' logits are mixed */
        g.beta = form == 2 || form == 7;
        g.lda = g.transpose_a ? m : k;
        g.ldb = g.transpose_b ? k : n;
        double *b = random_numbers(2, k * n), *a = random_numbers(3, m * k);
        round_to_bf16(a, m * k), round_to_bf16(b, k * n); /* reals, too, which a product may round */
        g.a = (g.activations.a ? device_activations : device_reals)(d, a, m * k);
        g.b = (g.activations.b ? device_activations : device_reals)(d, b, k * n);
        g.c = g.beta == 0 ? (g.activations.c ? device_activations : device_reals)(d, NULL, m * n)
                          : (g.activations.c ? activations : reals)(d, 4, m * n);
        assert_ok(d->backend->gemm(d->stream, &g));
        take(d, out, "c", g.activations.c, g.c, m * n);
        free(a), free(b);
    }
}

typedef void (*operation)(device *d, const shape *s, answer *out);

/* Sums of numbers below 1 run over up to 2056 terms: `tolerance` is of such as are of size 1. What only moves numbers
 * leaves them as they are. */
static void assert_near_float64(device *d, double tolerance, operation run, const shape *s)
{
    const double rounding = d->backend->activation_bytes < sizeof(float) && run != run_moves ? 0x1p-8 : 0;
    device exact;
    answer expected = {.n = 0}, found = {.n = 0};
    device_open(&exact, "cpu", sizeof(double), 1);
    run(&exact, s, &expected);
    run(d, s, &found);
    for (size_t a = 0; a < expected.n; a++) {
        const struct written *x = &found.arrays[a], *y = &expected.arrays[a];
        for (size_t i = 0; i < y->n; i++) {
            const double computed = run == run_moves ? 0 : tolerance * fmax(1, fabs(y->x[i]));
            const double bound = computed + (y->activations ? rounding * fabs(y->x[i]) : 0);
            if (!(fabs(x->x[i] - y->x[i]) <= bound))
                fail_msg("%s, %zu rows of %zu, heads of %zu: %s [%zu] is %.9g, expected %.9g +- %.2g",
                         d->backend->precision, s->n_rows, s->width, s->head_dim, y->name, i, x->x[i], y->x[i], bound);
        }
    }
    clear(&expected), clear(&found);
    device_close(&exact);
    device_release(d);
}

static void check(operation run)
{
    const char *why;
    device d;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (size_t i = 0; i < 3; i += device_kind_step()) {
            device_open(&d, backend_under_test(), device_kinds[i].real_bytes, device_kinds[i].n_threads);
            assert_near_float64(&d, device_kinds[i].tolerance, run, &shapes[s]);
            device_close(&d);
        }
        if (!device_open_bf16(&d, 2, &why))
            continue;
        assert_near_float64(&d, device_kinds[2].tolerance, run, &shapes[s]);
        device_close(&d);
    }
}

static void norms_round_what_they_write_once(void **state)
{
    (void)state;
    check(run_norm);
}

static void norms_keep_a_rounded_copy_of_their_gradient(void **state)
{
    (void)state;
    check(run_norm_backward);
}

static void a_bias_gradient_sums_what_was_rounded(void **state)
{
    (void)state;
    check(run_bias);
}

static void the_head_rounds_its_gradient_once(void **state)
{
    (void)state;
    check(run_head);
}

static void moves_of_activations_change_no_bit(void **state)
{
    (void)state;
    check(run_moves);
}

static void swiglu_rounds_what_it_writes_once(void **state)
{
    (void)state;
    check(run_swiglu);
}

static void rotary_rounds_what_it_writes_once(void **state)
{
    (void)state;
    check(run_rotary);
}

static void products_take_and_give_both_kinds_of_numbers(void **state)
{
    (void)state;
    check(run_products);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_round_what_they_write_once),
        cmocka_unit_test(norms_keep_a_rounded_copy_of_their_gradient),
        cmocka_unit_test(a_bias_gradient_sums_what_was_rounded),
        cmocka_unit_test(the_head_rounds_its_gradient_once),
        cmocka_unit_test(moves_of_activations_change_no_bit),
        cmocka_unit_test(swiglu_rounds_what_it_writes_once),
        cmocka_unit_test(rotary_rounds_what_it_writes_once),
        cmocka_unit_test(products_take_and_give_both_kinds_of_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
