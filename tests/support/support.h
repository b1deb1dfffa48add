/* tests/support/support.h: what the tests share. */
#ifndef STM_TESTS_SUPPORT_H
#define STM_TESTS_SUPPORT_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"

/* |a - b| <= tolerance * max(|b|, 1e-3): cmocka's own compares as float and cannot see 1e-12. */
#define assert_near(a, b, tolerance) stm_assert_near((a), (b), (tolerance), #a, __FILE__, __LINE__)
#define assert_ok(call) stm_assert_ok((call), #call, __FILE__, __LINE__)
/* The call fails with `code`, and its message holds `words`. */
#define assert_fails(call, code, words) stm_assert_fails((call), (code), (words), #call, __FILE__, __LINE__)

void stm_assert_near(double a, double b, double tolerance, const char *what, const char *file, int line);
void stm_assert_ok(stm_status status, const char *what, const char *file, int line);
void stm_assert_fails(stm_status status, stm_status code, const char *words, const char *what, const char *file,
                      int line);

/* ||a - b|| / ||b|| over n numbers. */
double stm_relative_difference(const double *a, const double *b, size_t n);

/* "<folder of recorded data>/name": tests/fixtures (or the environment's STEMMA_FIXTURES) if it is there, else
 * ../shared/data; NULL when neither has it. Static storage. */
const char *stm_fixture(const char *name);

#endif
