#include "backend/blas_kernels.h"

#include <cblas.h>
#include <stddef.h>
#include <stdlib.h>
#include <strings.h>

/* The end and the start of OpenBLAS's own choice: in every OpenBLAS that holds the kernels of several processors, and
 * in none of its headers. */
extern void gotoblas_dynamic_quit(void) __attribute__((weak));
extern void gotoblas_dynamic_init(void) __attribute__((weak));

static const char VARIABLE[] = "OPENBLAS_CORETYPE";

/* Kernels of processors that have no AVX. */
static bool are_old(const char *kernels)
{
    static const char *const old[] = {"Katmai", "Coppermine", "Northwood", "Prescott",    "Banias", "Atom",
                                      "Core2",  "Penryn",     "Nehalem",   "Dunnington",  "Athlon", "Opteron",
                                      "Nano",   "Bobcat",     "Barcelona", "Opteron_SSE3"};
    for (size_t i = 0; i < sizeof old / sizeof *old; i++)
        if (strcasecmp(kernels, old[i]) == 0)
            return true;
    return false;
}

const char *stm_blas_better_kernels(const char *taken, bool avx2, bool avx512)
{
    if (!avx2 || !are_old(taken))
        return NULL;
    return avx512 ? "SkylakeX" : "Haswell";
}

#if defined __x86_64__
static const char *better_here(void)
{
    __builtin_cpu_init();
    return stm_blas_better_kernels(openblas_get_corename(),
                                   __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"),
                                   __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"));
}
#else
static const char *better_here(void)
{
    return NULL;
}
#endif

void stm_blas_choose_kernels(void)
{
    if (!gotoblas_dynamic_quit || !gotoblas_dynamic_init || getenv(VARIABLE))
        return;
    const char *better = better_here();
    if (!better || setenv(VARIABLE, better, 1) != 0)
        return;
    gotoblas_dynamic_quit();
    gotoblas_dynamic_init();
    unsetenv(VARIABLE); /* what we start, a reward's command for one, chooses for itself */
}
