/* Products, moves of rows, biases, SwiGLU and reductions of a backend against plain loops and finite differences. */
#include "support/device.h"

/* Within tolerance of numbers of size 1: sums may cancel. */
static void assert_close(double found, double expected, double tolerance)
{
    assert_true(fabs(found - expected) <= tolerance * fmax(1, fabs(expected)));
}

static void on_every_kind(void (*test)(device *d, double tolerance))
{
    for (size_t i = 0; i < 3; i += device_kind_step()) {
        device d;
        device_open(&d, backend_under_test(), device_kinds[i].real_bytes, device_kinds[i].n_threads);
        test(&d, device_kinds[i].tolerance);
        device_close(&d);
    }
}

/* One shape, all four transpositions, rows further apart than they are long; C starts as NaN where beta is 0. */
static void check_gemm(device *d, size_t m, size_t n, size_t k, double beta, double tolerance)
{
    for (int form = 0; form < 4; form++) {
        const bool ta = form & 1, tb = form & 2;
        stm_gemm g = {
            .transpose_a = ta, .transpose_b = tb, .m = m, .n = n, .k = k, .alpha = 0.7, .beta = beta, .ldc = n + 3};
        g.lda = (ta ? m : k) + 1;
        g.ldb = (tb ? k : n) + 2;
        const size_t n_a = (ta ? k : m) * g.lda, n_b = (tb ? n : k) * g.ldb, n_c = m * g.ldc;
        double *a = random_numbers(1, n_a), *b = random_numbers(2, n_b), *c = random_numbers(3, n_c),
               *found = malloc(n_c * 8 + 8);
        g.a = device_reals(d, a, n_a);
        g.b = device_reals(d, b, n_b);
        for (size_t i = 0; i < n_c; i++)
            c[i] = beta == 0 && i % g.ldc < n ? NAN : c[i];
        g.c = device_reals(d, c, n_c);
        assert_ok(d->backend->gemm(d->stream, &g));
        device_read(d, g.c, found, n_c);
        double worst = 0;
        for (size_t i = 0; i < n_c; i++) {
            double expected = i % g.ldc < n ? (beta == 0 ? 0 : beta * c[i]) : c[i];
            for (size_t l = 0; l < k && i % g.ldc < n; l++)
                expected += 0.7 * a[ta ? l * g.lda + i / g.ldc : i / g.ldc * g.lda + l] *
                            b[tb ? i % g.ldc * g.ldb + l : l * g.ldb + i % g.ldc];
            assert_false(isnan(found[i]));
            worst = fmax(worst, fabs(found[i] - expected));
        }
        assert_true(worst <= tolerance * fmax(1, sqrt((double)k)));
        free(a), free(b), free(c), free(found);
        device_release(d);
    }
}

static void gemm_of_any_shape(device *d, double tolerance)
{
    const size_t sizes[][3] = {{1, 1, 1},     {1, 70, 33},   {2, 65, 64},   {3, 31, 129},  {5, 6, 7},
                               {8, 100, 40},  {13, 97, 52},  {70, 130, 50}, {200, 3, 100}, {37, 37, 400},
                               {129, 65, 33}, {4, 257, 128}, {16, 48, 96},  {70, 1, 65},   {7, 999, 350},
                               {33, 500, 90}, {10, 49, 17},  {64, 101, 48}, {48, 97, 20},  {128, 53, 31}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_gemm(d, sizes[i][0], sizes[i][1], sizes[i][2], 0, tolerance);
        check_gemm(d, sizes[i][0], sizes[i][1], sizes[i][2], 1, tolerance);
        check_gemm(d, sizes[i][0], sizes[i][1], sizes[i][2], -0.4, tolerance);
    }
    for (size_t m = 1; m <= 24; m++) { /* each number of rows has its own tiles, up to those of panels */
        check_gemm(d, m, 43, 77, 0, tolerance);
        check_gemm(d, m, 6, 130, 0.3, tolerance);
    }
}

static void gemm_is_a_plain_sum_of_products(void **state)
{
    (void)state;
    on_every_kind(gemm_of_any_shape);
}

static void gemm_of_nothing(device *d, double tolerance)
{
    check_gemm(d, 0, 5, 3, 1, tolerance);
    check_gemm(d, 5, 0, 3, 1, tolerance);
    check_gemm(d, 5, 4, 0, 0, tolerance);
    check_gemm(d, 5, 4, 0, 0.5, tolerance);
}

static void gemm_without_terms_still_applies_beta(void **state)
{
    (void)state;
    on_every_kind(gemm_of_nothing);
}

static void rows_of_a_table(device *d, double tolerance)
{
    enum { ROWS = 7, WIDTH = 37, TABLE = 5 };
    const int32_t ids[ROWS] = {3, 0, 3, 4, 3, 0, 1}, rows[TABLE] = {6, 2, 0, 5, 1};
    double *table = random_numbers(1, TABLE * WIDTH), *dy = random_numbers(2, ROWS * WIDTH), found[ROWS * WIDTH],
           expected[ROWS * WIDTH];
    stm_embed e = {.n_rows = ROWS,
                   .width = WIDTH,
                   .ids = device_bytes(d, ids, sizeof ids),
                   .table = device_reals(d, table, TABLE * WIDTH)};
    e.y = device_reals(d, NULL, ROWS * WIDTH);
    e.dy = device_reals(d, dy, ROWS * WIDTH);
    e.dtable = device_reals(d, table, TABLE * WIDTH);
    assert_ok(d->backend->embed(d->stream, &e));
    device_read(d, e.y, found, ROWS * WIDTH);
    for (size_t i = 0; i < ROWS * WIDTH; i++)
        assert_near(found[i], table[(size_t)ids[i / WIDTH] * WIDTH + i % WIDTH], tolerance);

    assert_ok(d->backend->embed_backward(d->stream, &e));
    device_read(d, e.dtable, found, TABLE * WIDTH);
    memcpy(expected, table, TABLE * WIDTH * sizeof *table);
    for (size_t i = 0; i < ROWS * WIDTH; i++)
        expected[(size_t)ids[i / WIDTH] * WIDTH + i % WIDTH] += dy[i];
    for (size_t i = 0; i < TABLE * WIDTH; i++)
        assert_close(found[i], expected[i], tolerance);

    stm_rows s = {.n_rows = TABLE,
                  .width = WIDTH,
                  .rows = device_bytes(d, rows, sizeof rows),
                  .x = device_reals(d, dy, ROWS * WIDTH)};
    s.y = device_reals(d, NULL, TABLE * WIDTH);
    assert_ok(d->backend->gather(d->stream, &s));
    device_read(d, s.y, found, TABLE * WIDTH);
    for (size_t i = 0; i < TABLE * WIDTH; i++)
        assert_near(found[i], dy[(size_t)rows[i / WIDTH] * WIDTH + i % WIDTH], tolerance);

    assert_ok(d->backend->scatter_add(d->stream, &s)); /* what was gathered: those rows double */
    device_read(d, s.x, found, ROWS * WIDTH);
    for (size_t i = 0; i < ROWS * WIDTH; i++) {
        bool chosen = false;
        for (size_t r = 0; r < TABLE; r++)
            chosen |= (size_t)rows[r] == i / WIDTH;
        assert_near(found[i], chosen ? 2 * dy[i] : dy[i], tolerance);
    }
    free(table), free(dy);
}

static void rows_move_by_their_ids_and_repeated_ids_sum(void **state)
{
    (void)state;
    on_every_kind(rows_of_a_table);
}

/* More rows than a block has threads, of few ids. */
static void many_rows_of_few_ids(device *d, double tolerance)
{
    enum { ROWS = 601, WIDTH = 3, TABLE = 4 };
    int32_t ids[ROWS];
    double *dy = random_numbers(2, ROWS * WIDTH), expected[TABLE * WIDTH] = {0}, found[TABLE * WIDTH];
    for (size_t r = 0; r < ROWS; r++) {
        ids[r] = r == 400 ? 3 : (int32_t)(r * r % 7 % 3);
        for (size_t i = 0; i < WIDTH; i++)
            expected[(size_t)ids[r] * WIDTH + i] += dy[r * WIDTH + i];
    }
    stm_embed e = {.n_rows = ROWS, .width = WIDTH, .ids = device_bytes(d, ids, sizeof ids)};
    e.dy = device_reals(d, dy, ROWS * WIDTH);
    e.dtable = device_reals(d, (double[TABLE * WIDTH]){0}, TABLE * WIDTH);
    assert_ok(d->backend->embed_backward(d->stream, &e));
    device_read(d, e.dtable, found, TABLE * WIDTH);
    assert_true(stm_relative_difference(found, expected, TABLE * WIDTH) < tolerance);
    free(dy);
}

static void embedding_gradients_add_up_over_many_rows(void **state)
{
    (void)state;
    on_every_kind(many_rows_of_few_ids);
}

static void sum_rows(device *d, size_t n_rows, size_t width, size_t stride, double tolerance)
{
    double *b = random_numbers(1, width), *dy = random_numbers(2, n_rows * stride), *found = malloc(width * 8);
    stm_bias a = {.n_rows = n_rows, .width = width, .stride = stride};
    a.dy = device_activations(d, dy, n_rows * stride);
    a.db = device_reals(d, b, width);
    assert_ok(d->backend->bias_backward(d->stream, &a));
    device_read(d, a.db, found, width);
    for (size_t i = 0; i < width; i++) {
        double sum = b[i], size = fabs(b[i]);
        for (size_t r = 0; r < n_rows; r++) {
            sum += dy[r * stride + i];
            size += fabs(dy[r * stride + i]);
        }
        assert_true(fabs(found[i] - sum) <= tolerance * 1e-2 * size);
    }
    device_release(d);
    free(b), free(dy), free(found);
}

/* One row, some, and more than pieces of the least size hold. */
static void sums_of_any_shape(device *d, double tolerance)
{
    sum_rows(d, 1, 24, 24, tolerance);
    sum_rows(d, 700, 37, 41, tolerance);
    sum_rows(d, 33, 520, 528, tolerance);
    sum_rows(d, 17000, 8, 8, tolerance);
    sum_rows(d, 16500, 3, 4, tolerance);
}

static void a_bias_gradient_is_the_sum_of_rows(void **state)
{
    (void)state;
    on_every_kind(sums_of_any_shape);
}

/* Arrays long enough for several threads and blocks. */
static void whole_arrays(device *d, double tolerance)
{
    enum { N = 70001 };
    double *x = random_numbers(1, N), *y = random_numbers(2, N), *found = malloc(N * 8), sum = 0, expected = 0;
    void *dx = device_reals(d, x, N), *dy = device_reals(d, y, N), *copy = device_reals(d, NULL, N);
    const size_t bytes = N * d->backend->real_bytes;
    assert_ok(d->backend->add(d->stream, N, dx, dy));
    assert_ok(d->backend->copy(d->stream, copy, dy, bytes));
    assert_ok(d->backend->zero(d->stream, dy, bytes));
    assert_ok(d->backend->synchronize(d->stream));
    device_read(d, copy, found, N);
    for (size_t i = 0; i < N; i++)
        assert_close(found[i], x[i] + y[i], tolerance);
    device_read(d, dy, found, N);
    for (size_t i = 0; i < N; i++) {
        assert_true(found[i] == 0);
        expected += x[i] * x[i];
    }
    assert_ok(d->backend->sum_squares(d->stream, N, dx, &sum));
    assert_near(sum, expected, tolerance);
    assert_ok(d->backend->sum_squares(d->stream, 0, dx, &sum));
    assert_true(sum == 0);
    free(x), free(y), free(found);
}

static void arrays_add_copy_clear_and_sum(void **state)
{
    (void)state;
    on_every_kind(whole_arrays);
}

enum { SWIGLU_ROWS = 3, SWIGLU_WIDTH = 13 };

typedef struct {
    device *d;
    double *gu, *dh;
} swiglu_context;

static double swiglu_loss(void *context)
{
    const swiglu_context *c = context;
    double h[SWIGLU_ROWS * SWIGLU_WIDTH], sum = 0;
    stm_swiglu a = {
        .n_rows = SWIGLU_ROWS, .width = SWIGLU_WIDTH, .gu = device_reals(c->d, c->gu, 2 * SWIGLU_ROWS * SWIGLU_WIDTH)};
    a.h = device_reals(c->d, NULL, SWIGLU_ROWS * SWIGLU_WIDTH);
    assert_ok(c->d->backend->swiglu(c->d->stream, &a));
    device_read(c->d, a.h, h, SWIGLU_ROWS * SWIGLU_WIDTH);
    for (size_t i = 0; i < SWIGLU_ROWS * SWIGLU_WIDTH; i++)
        sum += h[i] * c->dh[i];
    device_release(c->d);
    return sum;
}

static void swiglu_both_ways(device *d, double tolerance)
{
    enum { N = SWIGLU_ROWS * SWIGLU_WIDTH };
    double *gu = random_numbers(1, 2 * N), *dh = random_numbers(2, N), dgu[2 * N], h[N], again[N];
    for (size_t i = 0; i < 2 * N; i++)
        gu[i] *= 4;
    gu[0] = -200; /* the sigmoid is 0 in float */
    stm_swiglu a = {
        .n_rows = SWIGLU_ROWS, .width = SWIGLU_WIDTH, .gu = device_reals(d, gu, 2 * N), .dh = device_reals(d, dh, N)};
    a.h = device_reals(d, NULL, N);
    a.dgu = device_reals(d, NULL, 2 * N);
    assert_ok(d->backend->swiglu(d->stream, &a));
    device_read(d, a.h, h, N);
    for (size_t i = 0; i < N; i++) {
        const double *g = gu + i / SWIGLU_WIDTH * 2 * SWIGLU_WIDTH + i % SWIGLU_WIDTH;
        assert_close(h[i], g[0] / (1 + exp(-g[0])) * g[SWIGLU_WIDTH], tolerance);
    }
    a.h = device_reals(d, NULL, N);
    assert_ok(d->backend->swiglu_backward(d->stream, &a));
    device_read(d, a.h, again, N);
    device_read(d, a.dgu, dgu, 2 * N);
    for (size_t i = 0; i < N; i++)
        assert_close(again[i], h[i], tolerance);
    a.h = NULL;
    a.dgu = device_reals(d, NULL, 2 * N);
    assert_ok(d->backend->swiglu_backward(d->stream, &a)); /* h is not asked for */
    double dgu_alone[2 * N];
    device_read(d, a.dgu, dgu_alone, 2 * N);
    assert_memory_equal(dgu_alone, dgu, sizeof dgu);
    swiglu_context context = {d, gu, dh};
    if (d->backend->real_bytes == 8)
        assert_gradient(swiglu_loss, &context, gu, dgu, 2 * N, 1e-6); /* releases what was taken */
    free(gu), free(dh);
}

static void swiglu_gradient_matches_finite_differences(void **state)
{
    (void)state;
    on_every_kind(swiglu_both_ways);
}

static void exponentials_are_exact_to_the_last_bits(void **state)
{
    (void)state;
    enum { N = 4001 };
    double gu[2 * N], h[N];
    for (size_t i = 0; i < N; i++) {
        gu[i] = -80 + 0.04 * (double)i + 1e-3; /* silu(g) = g / (1 + e^-g): e^-g over 70 powers of ten */
        gu[N + i] = 1;
    }
    for (size_t bytes = 4; bytes <= 8; bytes += 4) {
        device d;
        device_open(&d, backend_under_test(), bytes, 1);
        stm_swiglu a = {.n_rows = 1, .width = N, .gu = device_reals(&d, gu, 2 * N), .h = device_reals(&d, NULL, N)};
        assert_ok(d.backend->swiglu(d.stream, &a));
        device_read(&d, a.h, h, N);
        for (size_t i = 0; i < N; i++) {
            const double g = bytes == 4 ? (double)(float)gu[i] : gu[i], expected = g / (1 + exp(-g));
            assert_true(fabs(h[i] - expected) <= (bytes == 4 ? 4e-7 : 8e-16) * fabs(expected));
        }
        device_close(&d);
    }
}

/* Two steps of AdamW by definition, over an array long enough for several threads. */
static void adamw_by_definition(device *d, double tolerance)
{
    enum { N = 40003 };
    double *w = random_numbers(1, N), *g = random_numbers(2, N), *m = random_numbers(3, N), *v = random_numbers(4, N),
           *found = malloc(N * 8);
    for (size_t i = 0; i < N; i++)
        v[i] = fabs(v[i]);
    stm_adamw a = {.n = N, .lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-3, .weight_decay = 0.1, .scale = 0.5};
    a.parameter = device_reals(d, w, N);
    a.gradient = device_reals(d, g, N);
    a.exp_avg = device_reals(d, m, N);
    a.exp_avg_sq = device_reals(d, v, N);
    for (a.step = 3; a.step <= 4; a.step++) {
        assert_ok(d->backend->adamw(d->stream, &a));
        for (size_t i = 0; i < N; i++) {
            m[i] = 0.9 * m[i] + 0.1 * (0.5 * g[i]);
            v[i] = 0.95 * v[i] + 0.05 * (0.5 * g[i]) * (0.5 * g[i]);
            const double mean = m[i] / (1 - pow(0.9, (double)a.step)), square = v[i] / (1 - pow(0.95, (double)a.step));
            w[i] = w[i] - 1e-2 * 0.1 * w[i] - 1e-2 * mean / (sqrt(square) + 1e-3);
        }
    }
    device_read(d, a.parameter, found, N);
    for (size_t i = 0; i < N; i++)
        assert_close(found[i], w[i], tolerance);
    device_read(d, a.exp_avg, found, N);
    for (size_t i = 0; i < N; i++)
        assert_close(found[i], m[i], tolerance);
    device_read(d, a.exp_avg_sq, found, N);
    for (size_t i = 0; i < N; i++)
        assert_close(found[i], v[i], tolerance);
    free(w), free(g), free(m), free(v), free(found);
}

static void adamw_steps_follow_the_definition(void **state)
{
    (void)state;
    on_every_kind(adamw_by_definition);
}

static void large_products_give_equal_bits_each_time(void **state)
{
    (void)state;
    enum { M = 150, N = 170, K = 90 };
    double *a = random_numbers(1, M * K), *b = random_numbers(2, K * N), first[M * N], again[M * N];
    for (size_t m = 5; m <= M; m += M - 5) { /* without packing, and with */
        device d;
        device_open(&d, backend_under_test(), 4, 3);
        for (int i = 0; i < 5; i++) {
            stm_gemm g = {.transpose_b = true, .m = m, .n = N, .k = K, .alpha = 1, .lda = K, .ldb = K, .ldc = N};
            g.a = device_reals(&d, a, m * K);
            g.b = device_reals(&d, b, K * N);
            g.c = device_reals(&d, NULL, m * N);
            assert_ok(d.backend->gemm(d.stream, &g));
            device_read(&d, g.c, i ? again : first, m * N);
            if (i)
                assert_memory_equal(again, first, m * N * sizeof *first);
        }
        device_close(&d);
    }
    free(a), free(b);
}

/* What a chunk of no rows asks for. */
static void operations_on_no_rows_do_nothing(void **state)
{
    (void)state;
    device d;
    device_open(&d, backend_under_test(), 4, 2);
    const stm_backend *b = d.backend;
    double zero[4] = {0}, found[4];
    void *four = device_reals(&d, zero, 4);
    assert_ok(b->embed(d.stream, &(stm_embed){.width = 4}));
    assert_ok(b->embed_backward(d.stream, &(stm_embed){.width = 4}));
    assert_ok(b->gather(d.stream, &(stm_rows){.width = 4}));
    assert_ok(b->scatter_add(d.stream, &(stm_rows){.width = 4}));
    assert_ok(b->rmsnorm(d.stream, &(stm_rmsnorm){.width = 4, .eps = 1e-6}));
    assert_ok(b->rmsnorm_backward(d.stream, &(stm_rmsnorm){.width = 4, .eps = 1e-6, .dw = four}));
    assert_ok(b->to_activations(d.stream, 0, four, four));
    assert_ok(b->bias_backward(d.stream, &(stm_bias){.width = 4, .stride = 4, .db = four}));
    assert_ok(b->rotary(d.stream, &(stm_rotary){.n_heads = 1, .n_kv_heads = 1, .head_dim = 4}));
    assert_ok(b->rotary_backward(
        d.stream, &(stm_rotary){.n_heads = 1, .n_kv_heads = 1, .head_dim = 4, .q_norm = four, .k_norm = four}));
    assert_ok(b->attend(d.stream, &(stm_attend){.n_heads = 1, .n_kv_heads = 1, .head_dim = 4}));
    assert_ok(b->attend_backward(d.stream, &(stm_attend){.n_heads = 1, .n_kv_heads = 1, .head_dim = 4}));
    assert_ok(b->append(d.stream, &(stm_append){.n_kv_heads = 1, .head_dim = 4}));
    assert_ok(b->swiglu(d.stream, &(stm_swiglu){.width = 4}));
    assert_ok(b->swiglu_backward(d.stream, &(stm_swiglu){.width = 4}));
    assert_ok(b->sample(d.stream, &(stm_sample){.n_columns = 4, .n_ids = 4}));
    assert_ok(b->adamw(d.stream, &(stm_adamw){.step = 1}));
    device_read(&d, four, found, 4);
    assert_memory_equal(found, zero, sizeof zero);
    device_close(&d);
}

static void a_backend_that_is_not_there_is_refused_by_name(void **state)
{
    (void)state;
    const stm_backend *backend = NULL;
    assert_fails(stm_backend_find("cud", STM_FLOAT32, &backend), STM_ERR_INPUT,
                 "found \"cud\" (did you mean \"cuda\"?); expected cpu, cuda or auto");
    assert_null(backend);
    assert_ok(stm_backend_find("auto", STM_FLOAT32, &backend));
    assert_non_null(backend);
    assert_true(backend->real_bytes == 4);
    assert_ok(stm_backend_find("cpu", STM_FLOAT64, &backend));
    assert_ptr_equal(backend, &stm_backend_cpu_f64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gemm_is_a_plain_sum_of_products),
        cmocka_unit_test(gemm_without_terms_still_applies_beta),
        cmocka_unit_test(rows_move_by_their_ids_and_repeated_ids_sum),
        cmocka_unit_test(embedding_gradients_add_up_over_many_rows),
        cmocka_unit_test(a_bias_gradient_is_the_sum_of_rows),
        cmocka_unit_test(arrays_add_copy_clear_and_sum),
        cmocka_unit_test(swiglu_gradient_matches_finite_differences),
        cmocka_unit_test(exponentials_are_exact_to_the_last_bits),
        cmocka_unit_test(adamw_steps_follow_the_definition),
        cmocka_unit_test(large_products_give_equal_bits_each_time),
        cmocka_unit_test(operations_on_no_rows_do_nothing),
        cmocka_unit_test(a_backend_that_is_not_there_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
