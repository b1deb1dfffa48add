/* OpenBLAS computes with kernels that suit the processor, also where it does not know it. */
#include <cblas.h>
#include <string.h>

#include "backend/blas_kernels.h"
#include "backend/cpu.h"
#include "support/support.h"

extern void gotoblas_dynamic_quit(void) __attribute__((weak));
extern void gotoblas_dynamic_init(void) __attribute__((weak));

static void names_kernels(void **state)
{
    (void)state;
    assert_string_equal(stm_blas_better_kernels("Prescott", true, true), "SkylakeX");
    assert_string_equal(stm_blas_better_kernels("PRESCOTT", true, false), "Haswell");
    assert_string_equal(stm_blas_better_kernels("Barcelona", true, false), "Haswell");
    assert_null(stm_blas_better_kernels("Prescott", false, false)); /* it may be one */
    static const char *const right[] = {"Haswell", "SkylakeX", "Cooperlake", "SapphireRapids", "Zen", "armv8"};
    for (size_t i = 0; i < sizeof right / sizeof *right; i++)
        assert_null(stm_blas_better_kernels(right[i], true, true));
}

/* As OpenBLAS is once it is loaded where it does not know the processor. */
static void let_openblas_take(const char *kernels)
{
    assert_int_equal(setenv("OPENBLAS_CORETYPE", kernels, 1), 0);
    gotoblas_dynamic_quit();
    gotoblas_dynamic_init();
    assert_string_equal(openblas_get_corename(), kernels);
}

static void check_product(void)
{
    enum { N = 65 };
    static float a[N * N], b[N * N], c[N * N];
    for (size_t i = 0; i < (size_t)N * N; i++) {
        a[i] = (float)(i % 7);
        b[i] = (float)(i % 5);
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, N, N, N, 1, a, N, b, N, 0, c, N);
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++) {
            float sum = 0; /* of whole numbers: exact */
            for (size_t k = 0; k < N; k++)
                sum += a[i * N + k] * b[k * N + j];
            assert_true(c[i * N + j] == sum);
        }
}

static void opening_the_cpu_chooses_again(void **state)
{
    stm_stream *stream;
    (void)state;
    if (!gotoblas_dynamic_quit || !gotoblas_dynamic_init || !__builtin_cpu_supports("avx2") ||
        !__builtin_cpu_supports("fma"))
        skip(); /* an OpenBLAS of one processor, or a processor of before 2013 */
    let_openblas_take("Prescott");
    assert_int_equal(stm_cpu_open(1, &stream), STM_OK);
    assert_string_equal(openblas_get_corename(), "Prescott"); /* the user's word counts */
    stm_cpu_close(stream);

    unsetenv("OPENBLAS_CORETYPE");
    assert_int_equal(stm_cpu_open(1, &stream), STM_OK);
    assert_string_not_equal(openblas_get_corename(), "Prescott");
    assert_null(getenv("OPENBLAS_CORETYPE"));
    check_product();
    stm_cpu_close(stream);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_kernels),
        cmocka_unit_test(opening_the_cpu_chooses_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
