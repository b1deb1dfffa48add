#include "support/support.h"

#include <stdlib.h>
#include <unistd.h>

void stm_assert_near(double a, double b, double tolerance, const char *what, const char *file, int line)
{
    const double scale = fmax(fabs(b), 1e-3);
    if (fabs(a - b) <= tolerance * scale)
        return;
    print_error("%s: found %.17g, expected %.17g, off by %.3g of it, allowed %.3g\n", what, a, b, fabs(a - b) / scale,
                tolerance);
    _fail(file, line);
}

void stm_assert_ok(stm_status status, const char *what, const char *file, int line)
{
    if (status == STM_OK)
        return;
    print_error("%s failed: %s\n", what, stm_failure());
    _fail(file, line);
}

void stm_assert_fails(stm_status status, stm_status code, const char *words, const char *what, const char *file,
                      int line)
{
    if (status == code && strstr(stm_failure(), words))
        return;
    print_error("%s: status %d, \"%s\"; expected %d and \"%s\"\n", what, (int)status, stm_failure(), (int)code, words);
    _fail(file, line);
}

double stm_relative_difference(const double *a, const double *b, size_t n)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += (a[i] - b[i]) * (a[i] - b[i]);
        norm += b[i] * b[i];
    }
    return sqrt(difference) / fmax(sqrt(norm), 1e-300);
}

const char *stm_fixture(const char *name)
{
    static char path[4096];
    const char *elsewhere = getenv("STEMMA_FIXTURES"); /* where a test runs on another machine than it was built on */
    const char *roots[] = {elsewhere ? elsewhere : STEMMA_FIXTURES, STEMMA_SHARED "/data"};
    for (size_t i = 0; i < sizeof roots / sizeof *roots; i++) {
        snprintf(path, sizeof path, "%s/%s", roots[i], name);
        if (access(path, R_OK) == 0)
            return path;
    }
    return NULL;
}
