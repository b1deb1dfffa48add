/* cuda/wgmma.cuh: products of a warpgroup, four warps, on compute capability 9.0a; tests/emulated has its own in the
 * place of this. Called by all threads of the warpgroup, whose first is a multiple of 128 in the block.
 *
 * A product is under way from its call until a wait for its group: till then nobody touches its d, nor its a where that
 * is in registers, nor its tiles in shared memory. (PTX ISA: wgmma.mma_async; layouts of operands as in CUTLASS,
 * cute/atom/mma_traits_sm90_gmma.hpp.)
 *
 * Operands in shared memory lie in panels: rows of 128 bytes, 64 numbers, whose 16-byte chunks change places: chunk c
 * of row r lies where chunk c ^ r % 8 would. A panel begins at a multiple of 1024 bytes and has a multiple of 8 rows.
 *
 *   not turned, [m or n, k]: rows of the panel are m or n, columns are k. 16 columns begin at 32 bytes times their
 *                            number in the panel's first row; eight rows are stride_bytes after the eight before.
 *   turned, [k, m or n]:     rows of the panel are k, columns are m or n. 16 rows begin 2048 bytes times their number
 *                            after the panel's beginning; eight rows are stride_bytes after the eight before, and the
 *                            next 64 columns, in a panel of their own, leading_bytes after the 64 before. */
#ifndef STM_CUDA_WGMMA_CUH
#define STM_CUDA_WGMMA_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

/* Whether this pass of the compiler has these instructions: a kernel that takes them has no body in the others. */
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define STM_HAS_WGMMA 1
#else
#define STM_HAS_WGMMA 0
#endif

/* Describes an operand in shared memory; `shared`: where its first row, or its 16 first columns, begin, a multiple of
 * 32 bytes. leading_bytes: read where it is turned and wider than 64. All below 2^18, multiples of 16. */
static __device__ __forceinline__ uint64_t stm_wgmma_operand(const void *shared, unsigned leading_bytes,
                                                             unsigned stride_bytes)
{
    const uint64_t swizzle_128 = 1;
    const unsigned address = (unsigned)__cvta_generic_to_shared(shared);
    return (uint64_t)(address >> 4 & 0x3fff) | (uint64_t)(leading_bytes >> 4 & 0x3fff) << 16 |
           (uint64_t)(stride_bytes >> 4 & 0x3fff) << 32 | swizzle_128 << 62;
}

#define STM_OUT_4(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define STM_OUT_16(j) STM_OUT_4(j), STM_OUT_4(j + 1), STM_OUT_4(j + 2), STM_OUT_4(j + 3)
#define STM_OUT_32(j) STM_OUT_16(j), STM_OUT_16(j + 4)
#define STM_NAMES_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define STM_NAMES_32 STM_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define STM_NAMES_48 STM_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define STM_NAMES_64 STM_NAMES_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

/* The instruction; d, a, b, adds, turned: the operands' names. The two ones: neither a nor b is negated. */
#define STM_WGMMA(n, d, a, b, adds, turned)                                                                            \
    "{ .reg .pred p; setp.ne.b32 p, " adds ", 0; wgmma.mma_async.sync.aligned.m64n" n "k16.f32.bf16.bf16 {" d "}, " a  \
    ", " b ", p, 1, 1, " turned "; }"

/* d [64, N] = a [64, 16] b [16, N], or d + a b if `adds`; a in registers, as stm_mma's, warp w having rows 16 w and on,
 * and d, too: lane 4 g + t holds of rows 16 w + g (0, 1) and 16 w + g + 8 (2, 3) columns 8 j + 2 t and 8 j + 2 t + 1 in
 * d[j]. */
template <int N, bool B_TURNED>
static __device__ __forceinline__ void stm_wgmma(float (&d)[N / 8][4], const unsigned (&a)[4], uint64_t b, bool adds)
{
    static_assert(N == 32 || N == 64 || N == 96 || N == 128, "widths that have their text below");
#define STM_IN "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)adds), "n"((int)B_TURNED)
    if constexpr (N == 32)
        asm volatile(STM_WGMMA("32", STM_NAMES_16, "{%16, %17, %18, %19}", "%20", "%21", "%22")
                     : STM_OUT_16(0)
                     : STM_IN);
    else if constexpr (N == 64)
        asm volatile(STM_WGMMA("64", STM_NAMES_32, "{%32, %33, %34, %35}", "%36", "%37", "%38")
                     : STM_OUT_32(0)
                     : STM_IN);
    else if constexpr (N == 96)
        asm volatile(STM_WGMMA("96", STM_NAMES_48, "{%48, %49, %50, %51}", "%52", "%53", "%54")
                     : STM_OUT_32(0), STM_OUT_16(8)
                     : STM_IN);
    else
        asm volatile(STM_WGMMA("128", STM_NAMES_64, "{%64, %65, %66, %67}", "%68", "%69", "%70")
                     : STM_OUT_32(0), STM_OUT_32(8)
                     : STM_IN);
#undef STM_IN
}

/* The same with a in shared memory. */
template <int N, bool A_TURNED, bool B_TURNED>
static __device__ __forceinline__ void stm_wgmma(float (&d)[N / 8][4], uint64_t a, uint64_t b, bool adds)
{
    static_assert(N == 32 || N == 64 || N == 96 || N == 128, "widths that have their text below");
#define STM_IN "l"(a), "l"(b), "r"((int)adds), "n"((int)A_TURNED), "n"((int)B_TURNED)
    if constexpr (N == 32)
        asm volatile(STM_WGMMA("32", STM_NAMES_16, "%16", "%17", "%18", "%19, %20") : STM_OUT_16(0) : STM_IN);
    else if constexpr (N == 64)
        asm volatile(STM_WGMMA("64", STM_NAMES_32, "%32", "%33", "%34", "%35, %36") : STM_OUT_32(0) : STM_IN);
    else if constexpr (N == 96)
        asm volatile(STM_WGMMA("96", STM_NAMES_48, "%48", "%49", "%50", "%51, %52")
                     : STM_OUT_32(0), STM_OUT_16(8)
                     : STM_IN);
    else
        asm volatile(STM_WGMMA("128", STM_NAMES_64, "%64", "%65", "%66", "%67, %68")
                     : STM_OUT_32(0), STM_OUT_32(8)
                     : STM_IN);
#undef STM_IN
}

/* Registers that the thread has written (d, a) are as it wrote them for products that follow: before the first of
 * those, unless only products have touched these registers. (PTX: wgmma.fence.) */
static __device__ __forceinline__ void stm_wgmma_begin(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

/* The products since the last of these form a group. */
static __device__ __forceinline__ void stm_wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* All groups but the newest N have ended. */
template <int N> static __device__ __forceinline__ void stm_wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* After a wait: what d holds may be read from here on. The compiler takes d for ready once the product is issued, and
 * might move what reads it before the wait. No instruction. */
template <int N> static __device__ __forceinline__ void stm_wgmma_hold(float (&d)[N][4])
{
#pragma unroll
    for (int j = 0; j < N; j++)
        asm volatile("" : STM_OUT_4(j)::"memory");
}

/* What this thread has written to shared memory, and has waited for, is there for products that follow a barrier.
 * Copies by cp.async are written like any other store, products read by another way. (PTX: fence.proxy.async.) */
static __device__ __forceinline__ void stm_tell_tensor_cores(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#endif
