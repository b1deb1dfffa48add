/* tests/emulated/cuda_bf16.h: the bfloat16 number of CUDA, as far as cuda/ uses it. */
#ifndef STM_TESTS_EMULATED_CUDA_BF16_H
#define STM_TESTS_EMULATED_CUDA_BF16_H

#include <cuda_runtime.h>

struct __nv_bfloat16 {
    uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x)
{
    const uint32_t wide = (uint32_t)x.bits << 16;
    float y;
    std::memcpy(&y, &wide, sizeof y);
    return y;
}

/* To nearest, ties to even; a NaN stays one. */
inline __nv_bfloat16 __float2bfloat16(float x)
{
    uint32_t u = __float_as_uint(x);
    if (std::isnan(x))
        return {(uint16_t)(u >> 16 | 0x40)};
    u += 0x7fff + (u >> 16 & 1);
    return {(uint16_t)(u >> 16)};
}

struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{
    return {__float2bfloat16(x), __float2bfloat16(y)};
}

inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x)
{
    return x.bits;
}

#endif
