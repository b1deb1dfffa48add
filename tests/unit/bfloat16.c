/* --precision bfloat16: products of rounded operands with sums in float32, the weights' rounded copy, and
 * the gradients that come of it. Where the build or the processor has none of it, the tests say so and are skipped. */
#include <math.h>

#include "support/batch.h"
#include "support/device.h"
#include "support/model.h"

static bool there_is(device *d, int n_threads)
{
    const char *why;
    if (device_open_bf16(d, n_threads, &why))
        return true;
    print_message("skipped: %s\n", why);
    skip();
    return false;
}

/* To nearest even, by integers: the lower half of a float is cut off. */
static double rounded(double x)
{
    const float narrow = (float)x;
    uint32_t bits;
    float out;
    memcpy(&bits, &narrow, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&out, &bits, sizeof out);
    return (double)out;
}

typedef struct {
    size_t m, n, k;
    bool ta, tb, add, weights; /* weights: B is such, and rounded once */
    double alpha;
} product;

/* Sum of op(A)[i,l] op(B)[l,j], and of its terms' sizes; operands rounded or not. */
static double element(const product *p, const stm_gemm *g, const double *a, const double *b, size_t i, size_t j,
                      bool rounds, double *size)
{
    double sum = 0;
    *size = 0;
    for (size_t l = 0; l < p->k; l++) {
        const double x = a[p->ta ? l * g->lda + i : i * g->lda + l], y = b[p->tb ? j * g->ldb + l : l * g->ldb + j];
        const double term = rounds ? rounded(x) * rounded(y) : (double)(float)x * (double)(float)y;
        sum += term;
        *size += fabs(term);
    }
    return sum;
}

static void check_product(device *d, const product *p)
{
    stm_gemm g = {.transpose_a = p->ta,
                  .transpose_b = p->tb,
                  .m = p->m,
                  .n = p->n,
                  .k = p->k,
                  .alpha = p->alpha,
                  .beta = p->add ? 1 : 0,
                  .lda = (p->ta ? p->m : p->k) + 3,
                  .ldb = (p->tb ? p->k : p->n) + 1,
                  .ldc = p->n + 2};
    const size_t n_a = (p->ta ? p->k : p->m) * g.lda, n_b = (p->tb ? p->n : p->k) * g.ldb, n_c = p->m * g.ldc;
    double *a = random_numbers(1, n_a), *b = random_numbers(2, n_b), *c = random_numbers(3, n_c),
           *found = malloc((n_c + 1) * sizeof *found);
    for (size_t i = 0; i < n_c; i++)
        c[i] = !p->add && i % g.ldc < p->n ? NAN : (double)(float)c[i];
    g.a = device_reals(d, a, n_a);
    g.b = device_reals(d, b, n_b);
    g.c = device_reals(d, c, n_c);
    if (p->weights)
        assert_ok(d->backend->round_weights(d->stream, g.b, n_b));
    assert_ok(d->backend->gemm(d->stream, &g));
    device_read(d, g.c, found, n_c);
    /* sums in float32, in any order; far below what rounding operands, or not, makes of the result */
    const double bound = 4 * sqrt((double)p->k + 4) * ldexp(1, -24);
    for (size_t i = 0; i < n_c; i++) {
        double size = 0, expected = c[i];
        if (i % g.ldc < p->n)
            expected =
                (p->add ? c[i] : 0) + p->alpha * element(p, &g, a, b, i / g.ldc, i % g.ldc, p->alpha == 1, &size);
        if (!(fabs(found[i] - expected) <= bound * (size + fabs(expected))))
            fail_msg("%zu x %zu x %zu, transposed %d %d, beta %g: [%zu] is %.9g, expected %.9g", p->m, p->n, p->k,
                     p->ta, p->tb, g.beta, i, found[i], expected);
    }
    if (p->weights)
        assert_ok(d->backend->round_weights(d->stream, g.b, 0));
    free(a), free(b), free(c), free(found);
    device_release(d);
}

static void products_are_those_of_rounded_operands_summed_in_float32(void **state)
{
    (void)state;
    static const size_t sizes[][3] = {{1, 1, 1},   {1, 70, 33},   {2, 65, 64},   {3, 31, 129},   {5, 6, 7},
                                      {8, 1, 40},  {13, 97, 52},  {16, 35, 31},  {17, 130, 50},  {37, 37, 400},
                                      {70, 1, 65}, {33, 500, 90}, {200, 3, 100}, {301, 257, 150}};
    for (int n_threads = 1; n_threads <= 3; n_threads += 2) {
        device d;
        if (!there_is(&d, n_threads))
            return;
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (int form = 0; form < 16; form++)
                check_product(
                    &d, &(product){sizes[s][0], sizes[s][1], sizes[s][2], form & 1, form & 2, form & 4, form & 8, 1});
        device_close(&d);
    }
}

static void other_factors_are_computed_in_float32(void **state)
{
    (void)state;
    device d;
    if (!there_is(&d, 2))
        return;
    check_product(&d, &(product){20, 30, 40, false, true, false, false, 0.5});
    check_product(&d, &(product){20, 30, 40, true, false, true, false, 2});
    device_close(&d);
}

/* C = A B with a B of one 1 is A as it was rounded. */
static void operands_round_to_the_nearest_even(void **state)
{
    (void)state;
    const double e = ldexp(1, -8); /* half of the last place of 1 */
    const double x[] = {1,        1 + e,     1 + 3 * e, 1 + 1.001 * e, -1 - e, 1e30,      -3.0000001e-20, 0.1,  -0.0,
                        INFINITY, -INFINITY, NAN,       3.3895e38,     255.6,  1 - e / 2, 2 - e / 2.01,   1e-30};
    enum { N = sizeof x / sizeof *x };
    const double one = 1;
    double found[N];
    device d;
    if (!there_is(&d, 1))
        return;
    stm_gemm g = {.m = N, .n = 1, .k = 1, .alpha = 1, .lda = 1, .ldb = 1, .ldc = 1};
    g.a = device_reals(&d, x, N);
    g.b = device_reals(&d, &one, 1);
    g.c = device_reals(&d, NULL, N);
    assert_ok(d.backend->gemm(d.stream, &g));
    device_read(&d, g.c, found, N);
    for (size_t i = 0; i < N; i++)
        if (isnan(x[i]) ? !isnan(found[i]) : found[i] != rounded(x[i]))
            fail_msg("%.9g became %.9g, expected %.9g", x[i], found[i], rounded(x[i]));
    device_close(&d);
}

/* The one product of [m, 2] ones and B [2, 1] = {w, w}, B read from the array or its rounded copy. */
static double twice(device *d, const void *b)
{
    const double ones[2] = {1, 1};
    double found;
    stm_gemm g = {.transpose_b = true, .m = 1, .n = 1, .k = 2, .alpha = 1, .lda = 2, .ldb = 2, .ldc = 1, .b = b};
    g.a = device_reals(d, ones, 2);
    g.c = device_reals(d, NULL, 1);
    assert_ok(d->backend->gemm(d->stream, &g));
    device_read(d, g.c, &found, 1);
    return found;
}

static void weights_are_rounded_when_told_and_not_with_every_product(void **state)
{
    (void)state;
    device d;
    if (!there_is(&d, 1))
        return;
    const double first[6] = {9, 9, 1, 1, 9, 9};
    const float second[2] = {2, 2}, third[2] = {3, 3};
    float *w = device_reals(&d, first, 6), *other = device_reals(&d, first, 6);
    assert_ok(d.backend->round_weights(d.stream, w, 6));
    assert_ok(d.backend->round_weights(d.stream, other, 4));
    assert_true(twice(&d, w + 2) == 2);
    assert_ok(d.backend->write(d.stream, w + 2, second, sizeof second));
    assert_true(twice(&d, w + 2) == 2); /* the copy is read */
    assert_ok(d.backend->round_weights(d.stream, w, 6));
    assert_true(twice(&d, w + 2) == 4);
    assert_ok(d.backend->round_weights(d.stream, w, 0));
    assert_ok(d.backend->write(d.stream, w + 2, third, sizeof third));
    assert_true(twice(&d, w + 2) == 6); /* weights no longer */
    assert_true(twice(&d, other + 4) == 18);
    assert_true(twice(&d, other + 2) == 2);
    device_close(&d); /* with a copy still there */
}

static void equal_products_give_equal_bits(void **state)
{
    (void)state;
    enum { M = 190, N = 170, K = 1100 };
    double *a = random_numbers(1, M * K), *b = random_numbers(2, K * N), first[M * N], again[M * N];
    device d;
    if (there_is(&d, 3)) {
        for (int form = 0; form < 4; form++) {
            const bool ta = form & 1, tb = form & 2;
            for (int i = 0; i < 5; i++) {
                stm_gemm g = {.transpose_a = ta,
                              .transpose_b = tb,
                              .m = M,
                              .n = N,
                              .k = K,
                              .alpha = 1,
                              .lda = ta ? M : K,
                              .ldb = tb ? K : N,
                              .ldc = N};
                g.a = device_reals(&d, a, M * K);
                g.b = device_reals(&d, b, K * N);
                g.c = device_reals(&d, NULL, M * N);
                assert_ok(d.backend->gemm(d.stream, &g));
                device_read(&d, g.c, i ? again : first, M * N);
                if (i)
                    assert_memory_equal(again, first, sizeof first);
                device_release(&d);
            }
        }
        device_close(&d);
    }
    free(a), free(b);
}

/* ||a - b|| / max(||b||, 1e-3 ||all of b||) of each tensor. */
static void differences(const stm_model *model, const double *a, const double *b, double *out)
{
    double all = 0;
    for (size_t i = 0; i < model->n_parameters; i++)
        all += b[i] * b[i];
    for (size_t t = 0; t < model->n_tensors; t++) {
        const stm_parameter *p = &model->tensors[t];
        double difference = 0, size = 0;
        for (size_t i = p->offset; i < p->offset + p->n; i++) {
            difference += (a[i] - b[i]) * (a[i] - b[i]);
            size += b[i] * b[i];
        }
        out[t] = sqrt(difference) / fmax(sqrt(size), 1e-3 * sqrt(all));
    }
}

static void gradient_of(const stm_backend *backend, stm_stream *stream, stm_test_config config, const char *forward,
                        stm_model **model, stm_test_result *result)
{
    const char *const overrides[] = {forward, "objective.name=sft"};
    stm_batch batch;
    stm_options options;
    *model = stm_test_model(backend, stream, &stm_test_configs[config], 5);
    stm_test_batch(3, 9, (*model)->config.vocab_size, &batch);
    stm_test_options(&options, overrides, 2);
    stm_test_gradient(MPI_COMM_SELF, *model, &batch, &options, result);
    stm_options_clear(&options);
    stm_batch_clear(&batch);
}

/* A number is rounded some 20 times on its way through a layer and back, by 2^-9 of itself on average. Errors without a
 * common sign add up to 2^-9 sqrt(20 n_layers) of it, and softmax, norms and sums that cancel multiply that: here by up
 * to 5. Twice as much is allowed. */
static void assert_near_exact(const stm_model *model, const double *gradient, const double *exact)
{
    const double bound = 10 * 0x1p-9 * sqrt(20.0 * (double)model->config.n_layers);
    const double error = stm_relative_difference(gradient, exact, model->n_parameters);
    if (!(error <= bound))
        fail_msg("the gradient's error is %.3g of it, expected at most %.3g", error, bound);
}

/* DESIGN.md, section 1.1; of sft, since rounding makes some ratios pass the clip of grpo, where its gradient steps. */
static void sharing_is_no_less_exact_than_repeating(void **state)
{
    (void)state;
    device d, single;
    if (!there_is(&d, 2))
        return;
    device_open(&single, "cpu", sizeof(float), 2);
    for (stm_test_config config = 0; config < STM_TEST_N_CONFIGS; config += device_is_emulated() ? 2 : 1) {
        stm_model *models[3];
        stm_test_result repeated, tree, exact;
        double tree_error[80], repeated_error[80];
        gradient_of(single.backend, single.stream, config, "--forward=repeated", &models[0], &exact);
        gradient_of(d.backend, d.stream, config, "--forward=repeated", &models[1], &repeated);
        gradient_of(d.backend, d.stream, config, "--forward=tree", &models[2], &tree);
        assert_true(models[0]->n_tensors <= 80);
        differences(models[0], tree.gradient, exact.gradient, tree_error);
        differences(models[0], repeated.gradient, exact.gradient, repeated_error);
        assert_near_exact(models[0], tree.gradient, exact.gradient);
        for (size_t t = 0; t < models[0]->n_tensors; t++) {
            if (tree_error[t] > 2 * repeated_error[t])
                fail_msg("%s of configuration %d: error %.3g by tree, %.3g repeated", models[0]->tensors[t].name,
                         (int)config, tree_error[t], repeated_error[t]);
            assert_true(repeated_error[t] > 1e-5); /* it does round */
        }
        stm_test_result_clear(&exact), stm_test_result_clear(&repeated), stm_test_result_clear(&tree);
        for (size_t i = 0; i < 3; i++)
            stm_model_destroy(models[i]);
    }
    device_close(&single);
    device_close(&d);
}

int main(void)
{
    int provided;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_those_of_rounded_operands_summed_in_float32),
        cmocka_unit_test(other_factors_are_computed_in_float32),
        cmocka_unit_test(operands_round_to_the_nearest_even),
        cmocka_unit_test(weights_are_rounded_when_told_and_not_with_every_product),
        cmocka_unit_test(equal_products_give_equal_bits),
        cmocka_unit_test(sharing_is_no_less_exact_than_repeating),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    MPI_Finalize();
    return failed;
}
