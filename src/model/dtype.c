#include "model/dtype.h"

#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "safetensors files are little-endian");

static const struct {
    const char *name;
    size_t bytes;
    stm_dtype dtype;
} types[] = {
    {"F32", 4, STM_F32},       {"BF16", 2, STM_BF16}, {"F16", 2, STM_F16},       {"F64", 8, STM_F64},
    {"BOOL", 1, STM_OTHER},    {"U8", 1, STM_OTHER},  {"I8", 1, STM_OTHER},      {"U16", 2, STM_OTHER},
    {"I16", 2, STM_OTHER},     {"U32", 4, STM_OTHER}, {"I32", 4, STM_OTHER},     {"U64", 8, STM_OTHER},
    {"I64", 8, STM_OTHER},     {"C64", 8, STM_OTHER}, {"F8_E4M3", 1, STM_OTHER}, {"F8_E5M2", 1, STM_OTHER},
    {"F8_E8M0", 1, STM_OTHER},
};

bool stm_dtype_find(const char *name, stm_dtype *dtype, size_t *bytes)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(name, types[i].name) == 0) {
            *dtype = types[i].dtype;
            *bytes = types[i].bytes;
            return true;
        }
    }
    return false;
}

const char *stm_dtype_name(stm_dtype dtype)
{
    return dtype == STM_OTHER ? "?" : types[dtype].name;
}

size_t stm_dtype_bytes(stm_dtype dtype)
{
    assert(dtype != STM_OTHER);
    return types[dtype].bytes;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Shifting the half's exponent and mantissa into place gives the value divided by 2^112, subnormals included; the
 * product is exact. */
static float float_of_half(uint16_t half)
{
    const uint32_t magnitude = (uint32_t)(half & 0x7fffu) << 13, sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0; /* infinity, not a number */
    return float_of(bits_of(float_of(magnitude) * 0x1p112f) | special | sign);
}

static uint16_t load16(const void *from, size_t i)
{
    uint16_t x;
    memcpy(&x, (const char *)from + 2 * i, sizeof x);
    return x;
}

static float load_float(const void *from, size_t i)
{
    float x;
    memcpy(&x, (const char *)from + 4 * i, sizeof x);
    return x;
}

static double load_double(const void *from, size_t i)
{
    double x;
    memcpy(&x, (const char *)from + 8 * i, sizeof x);
    return x;
}

void stm_dtype_to_float(stm_dtype dtype, const void *from, size_t n, float *to)
{
    switch (dtype) {
    case STM_F32:
        memcpy(to, from, n * sizeof *to);
        break;
    case STM_BF16:
        for (size_t i = 0; i < n; i++)
            to[i] = float_of((uint32_t)load16(from, i) << 16);
        break;
    case STM_F16:
        for (size_t i = 0; i < n; i++)
            to[i] = float_of_half(load16(from, i));
        break;
    case STM_F64:
        for (size_t i = 0; i < n; i++)
            to[i] = (float)load_double(from, i);
        break;
    case STM_OTHER:
        assert(!"a weight type");
    }
}

void stm_dtype_to_double(stm_dtype dtype, const void *from, size_t n, double *to)
{
    switch (dtype) {
    case STM_F32:
        for (size_t i = 0; i < n; i++)
            to[i] = (double)load_float(from, i);
        break;
    case STM_BF16:
        for (size_t i = 0; i < n; i++)
            to[i] = (double)float_of((uint32_t)load16(from, i) << 16);
        break;
    case STM_F16:
        for (size_t i = 0; i < n; i++)
            to[i] = (double)float_of_half(load16(from, i));
        break;
    case STM_F64:
        memcpy(to, from, n * sizeof *to);
        break;
    case STM_OTHER:
        assert(!"a weight type");
    }
}

static uint16_t bfloat16_of(float x)
{
    const uint32_t bits = bits_of(x);
    if (isnan(x))
        return 0x7fc0;
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

/* Rounds to odd, so that a second rounding, to bfloat16, is as if it were the only one. */
static float float_to_odd(double x)
{
    const float nearest = (float)x;
    if ((double)nearest == x || !isfinite(nearest))
        return nearest;
    const uint32_t toward_zero = bits_of(nearest) - (fabs((double)nearest) > fabs(x));
    return float_of(toward_zero | 1);
}

void stm_dtype_from_real(stm_dtype dtype, const void *from, size_t real_bytes, size_t n, void *to)
{
    assert(dtype == STM_F32 || dtype == STM_BF16);
    if (dtype == STM_F32) {
        stm_dtype_to_float(real_bytes == 8 ? STM_F64 : STM_F32, from, n, to);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const float x = real_bytes == 8 ? float_to_odd(load_double(from, i)) : load_float(from, i);
        const uint16_t rounded = bfloat16_of(x);
        memcpy((char *)to + 2 * i, &rounded, sizeof rounded);
    }
}

size_t stm_first_not_finite(const void *reals, size_t real_bytes, size_t n)
{
    /* One pass that vectorises; only where it finds something, a second that says where. x - x is 0 for finite numbers
     * alone. */
    int found = 0;
    if (real_bytes == 8) {
        for (size_t i = 0; i < n; i++)
            found |= !(load_double(reals, i) - load_double(reals, i) == 0);
    } else {
        for (size_t i = 0; i < n; i++)
            found |= !(load_float(reals, i) - load_float(reals, i) == 0);
    }
    if (!found)
        return n;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(real_bytes == 8 ? load_double(reals, i) : (double)load_float(reals, i)))
            return i;
    }
    return n;
}
