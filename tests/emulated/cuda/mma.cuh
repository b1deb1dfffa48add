/* tests/emulated/cuda/mma.cuh: cuda/mma.cuh on the host. */
#ifndef STM_TESTS_EMULATED_MMA_CUH
#define STM_TESTS_EMULATED_MMA_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>

void stm_mma(float d[4], const unsigned a[4], const unsigned b[2]);
void stm_load_matrices(unsigned r[4], const __nv_bfloat16 *row);
void stm_load_turned(unsigned r[4], const __nv_bfloat16 *row);
void stm_copy_16(void *to, const void *from, bool is_there);
void stm_wait_copies(void);
float stm_exp2(float x);
unsigned char *stm_launch_shared(void);

#endif
