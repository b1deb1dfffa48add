/* cuda/mma.cuh: what tests/emulated has to put in the place of, beside the toolkit's headers: a product of a warp on
 * tensor cores, and shared memory of a size that the launch gives. */
#ifndef STM_CUDA_MMA_CUH
#define STM_CUDA_MMA_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>

/* d [16, 8] += a [16, 16] b [16, 8], numbers of a and b in bfloat16, two a word, sums in float. Lane 4 g + t holds: of
 * a rows g and g + 8, columns 2t, 2t+1 (words 0, 1) and 2t+8, 2t+9 (2, 3); of b column g, rows 2t, 2t+1 (0) and 2t+8,
 * 2t+9 (1); of d rows g (0, 1) and g + 8 (2, 3), columns 2t, 2t+1. (PTX: mma.m16n8k16.) */
static __device__ __forceinline__ void stm_mma(float d[4], const unsigned a[4], const unsigned b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ unsigned char *stm_launch_shared(void)
{
    extern __shared__ __align__(128) unsigned char bytes[];
    return bytes;
}

#endif
