/* cuda/mma.cuh: what tests/emulated has to put in the place of, beside the toolkit's headers: instructions that CUDA
 * C++ has no name for, and shared memory of a size that the launch gives. */
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

/* Four matrices [8, 8] of bfloat16 from shared memory, two numbers a word: lane 8 m + i gives the address of row i of
 * matrix m (16 bytes, aligned to them), and lane 4 g + t gets row g, columns 2t, 2t+1 of each; or, turned, column g,
 * rows 2t, 2t+1. (PTX: ldmatrix.) */
static __device__ __forceinline__ void stm_load_matrices(unsigned r[4], const __nv_bfloat16 *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row))
                 : "memory");
}

static __device__ __forceinline__ void stm_load_turned(unsigned r[4], const __nv_bfloat16 *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row))
                 : "memory");
}

/* Begins to copy 16 bytes to shared memory, both aligned to them; zeros where `is_there` is false. A thread sees what
 * it has copied after stm_wait_copies, the block's others after a __syncthreads as well. (PTX: cp.async.) */
static __device__ __forceinline__ void stm_copy_16(void *to, const void *from, bool is_there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((unsigned)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(is_there ? 16 : 0)
                 : "memory");
}

static __device__ __forceinline__ void stm_wait_copies(void)
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

/* 2^x within 2 units in the last place; 0 below 2^-126. (PTX: ex2.approx.) */
static __device__ __forceinline__ float stm_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Aligned as the panels of wgmma.cuh need it. */
static __device__ __forceinline__ unsigned char *stm_launch_shared(void)
{
    extern __shared__ __align__(1024) unsigned char bytes[];
    return bytes;
}

#endif
