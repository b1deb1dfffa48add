/* src/model/dtype.h: the number formats of weight files, and their conversion.
 *
 * Widening to float is exact for all but F64; narrowing rounds to nearest, ties to even. Plain loops over arrays that
 * the compiler vectorises; sources and targets of files need no alignment. Local, nothing fails. */
#ifndef STM_MODEL_DTYPE_H
#define STM_MODEL_DTYPE_H

#include <stdbool.h>
#include <stddef.h>

/* The first four are weights; of the others only the size matters: they may lie in a file that we read something else
 * from. */
typedef enum { STM_F32, STM_BF16, STM_F16, STM_F64, STM_OTHER } stm_dtype;

/* By the name in a safetensors header ("BF16"). False: no such type. */
bool stm_dtype_find(const char *name, stm_dtype *dtype, size_t *bytes);
const char *stm_dtype_name(stm_dtype dtype); /* "F32"; STM_OTHER: "?" */
size_t stm_dtype_bytes(stm_dtype dtype);     /* of a weight type */

/* n numbers of a weight type -> float or double. */
void stm_dtype_to_float(stm_dtype dtype, const void *from, size_t n, float *to);
void stm_dtype_to_double(stm_dtype dtype, const void *from, size_t n, double *to);

/* n reals (real_bytes 4 or 8) -> STM_F32 or STM_BF16. */
void stm_dtype_from_real(stm_dtype dtype, const void *from, size_t real_bytes, size_t n, void *to);

/* The first of n reals (real_bytes 4 or 8) that is infinite or not a number; n: none. */
size_t stm_first_not_finite(const void *reals, size_t real_bytes, size_t n);

#endif
