/* tests/emulated/cuda/mma.cuh: cuda/mma.cuh on the host. */
#ifndef STM_TESTS_EMULATED_MMA_CUH
#define STM_TESTS_EMULATED_MMA_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>

void stm_mma(float d[4], const unsigned a[4], const unsigned b[2]);
unsigned char *stm_launch_shared(void);

#endif
