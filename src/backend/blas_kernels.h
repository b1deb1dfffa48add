/* src/backend/blas_kernels.h: which of its kernels OpenBLAS computes products with.
 *
 * OpenBLAS chooses when it is loaded, by the processor's model number. Up to 0.3.24 (Debian 12 has 0.3.21) it takes
 * those of 2004 for an Intel processor that is newer than itself, Emerald Rapids for one: products at a fifth of the
 * speed (OpenBLAS, pull request 4268). Local, nothing fails. */
#ifndef STM_BACKEND_BLAS_KERNELS_H
#define STM_BACKEND_BLAS_KERNELS_H

#include <stdbool.h>

/* What OPENBLAS_CORETYPE should say on a processor with these instructions where OpenBLAS has taken the kernels named
 * `taken`; NULL: those are right. avx2: with FMA. avx512: F, BW, DQ and VL. */
const char *stm_blas_better_kernels(const char *taken, bool avx2, bool avx512);

/* Lets OpenBLAS choose once more where it knew less than the processor says of itself, and the user has not set
 * OPENBLAS_CORETYPE. No product may be under way. An OpenBLAS built for one processor alone stays as it is. */
void stm_blas_choose_kernels(void);

#endif
