#include "text/joints.h"

typedef struct {
    size_t word;
    uint64_t bit;
} place;

static place pair_place(uint32_t left, uint32_t right)
{
    const uint64_t mixed = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    return (place){(size_t)(mixed >> 50), (uint64_t)1 << (mixed >> 44 & 63)};
}

static place byte_place(char left, char right)
{
    const size_t both = (size_t)(uint8_t)left << 8 | (uint8_t)right;
    return (place){both >> 6, (uint64_t)1 << (both & 63)};
}

/* The last character of the bytes, if it is whole. */
static bool last_point(const char *bytes, size_t n, uint32_t *point)
{
    size_t start = n - 1, length, skip;
    bool cut;
    while (start > 0 && n - start < 4 && ((uint8_t)bytes[start] & 0xC0) == 0x80)
        start--;
    if (stm_utf8_length(bytes + start, n - start, &skip, &cut) != n - start)
        return false;
    *point = stm_utf8_point(bytes + start, n - start, &length);
    return true;
}

static bool first_point(const char *bytes, size_t n, uint32_t *point)
{
    size_t length, skip;
    bool cut;
    if (stm_utf8_length(bytes, n, &skip, &cut) == 0)
        return false;
    *point = stm_utf8_point(bytes, n, &length);
    return true;
}

void stm_joints_add(stm_joints *joints, const char *left, size_t n_left, const char *right, size_t n_right)
{
    uint32_t a, b;
    if (last_point(left, n_left, &a) && first_point(right, n_right, &b)) {
        const place p = pair_place(a, b);
        joints->pairs[p.word] |= p.bit;
    } else {
        const place p = byte_place(left[n_left - 1], right[0]);
        joints->bytes[p.word] |= p.bit;
    }
}

size_t stm_joints_end(const stm_joints *joints, const char *text, size_t n, size_t at)
{
    size_t length;
    uint32_t left = stm_utf8_point(text + at, n - at, &length);
    for (at += length; at < n; at += length) {
        const uint32_t right = stm_utf8_point(text + at, n - at, &length);
        const place pair = pair_place(left, right), bytes = byte_place(text[at - 1], text[at]);
        if (!(joints->pairs[pair.word] & pair.bit) && !(joints->bytes[bytes.word] & bytes.bit))
            return at;
        left = right;
    }
    return n;
}
