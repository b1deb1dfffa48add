/* tests/emulated/cuda/wgmma.cuh: cuda/wgmma.cuh on the host. */
#ifndef STM_TESTS_EMULATED_WGMMA_CUH
#define STM_TESTS_EMULATED_WGMMA_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#define STM_HAS_WGMMA 1

#define STM_INLINE inline __attribute__((always_inline)) /* so that messages name the kernel's line */

namespace emulated
{
/* d [64, n] (+)= a [64, 16] b [16, n]; a in registers, or described. */
struct product_shape {
    int n;
    bool a_in_registers, a_turned, b_turned, adds;
    uint64_t a, b; /* what describes them */

    bool operator==(const product_shape &) const = default;
};

uint64_t describe_operand(const void *shared, unsigned leading_bytes, unsigned stride_bytes);
void begin_product(const product_shape &shape, float *d, const unsigned *a);
void open_products();
void commit_products();
void wait_for_products(unsigned n_groups);
void hold_sum(float *d, int n);
void tell_tensor_cores();
} // namespace emulated

inline uint64_t stm_wgmma_operand(const void *shared, unsigned leading_bytes, unsigned stride_bytes)
{
    return emulated::describe_operand(shared, leading_bytes, stride_bytes);
}

template <int N, bool B_TURNED>
STM_INLINE void stm_wgmma(float (&d)[N / 8][4], const unsigned (&a)[4], uint64_t b, bool adds)
{
    static_assert(N % 8 == 0 && N >= 8 && N <= 256, "widths of the instruction");
    emulated::begin_product({N, true, false, B_TURNED, adds, 0, b}, d[0], a);
}

template <int N, bool A_TURNED, bool B_TURNED> void stm_wgmma(float (&d)[N / 8][4], uint64_t a, uint64_t b, bool adds)
{
    static_assert(N % 8 == 0 && N >= 8 && N <= 256, "widths of the instruction");
    emulated::begin_product({N, false, A_TURNED, B_TURNED, adds, a, b}, d[0], nullptr);
}

inline void stm_wgmma_begin(void)
{
    emulated::open_products();
}

inline void stm_wgmma_commit(void)
{
    emulated::commit_products();
}

template <int N> STM_INLINE void stm_wgmma_wait(void)
{
    static_assert(N >= 0 && N <= 7, "groups that the instruction can leave");
    emulated::wait_for_products(N);
}

template <int N> void stm_wgmma_hold(float (&d)[N][4])
{
    emulated::hold_sum(d[0], 8 * N);
}

inline void stm_tell_tensor_cores(void)
{
    emulated::tell_tensor_cores();
}

#endif
