#include "text/utf8.h"

#include <string.h>
#include <utf8proc.h>

stm_status stm_string_add(stm_string *string, const char *bytes, size_t n)
{
    STM_TRY(stm_reserve(&string->bytes, &string->capacity, string->n + n + 1, 1));
    if (n)
        memcpy(string->bytes + string->n, bytes, n);
    string->n += n;
    return STM_OK;
}

stm_status stm_string_add_text(stm_string *string, const char *text)
{
    return stm_string_add(string, text, strlen(text));
}

stm_status stm_string_add_point(stm_string *string, uint32_t point)
{
    char bytes[4];
    return stm_string_add(string, bytes, stm_utf8_write(point, bytes));
}

stm_status stm_string_end(stm_string *string)
{
    STM_TRY(stm_reserve(&string->bytes, &string->capacity, string->n + 1, 1));
    string->bytes[string->n] = 0;
    return STM_OK;
}

uint32_t stm_utf8_point(const char *text, size_t n, size_t *length)
{
    const uint8_t *b = (const uint8_t *)text;
    if (b[0] < 0x80 || n < 2) {
        *length = 1;
        return b[0];
    }
    if (b[0] < 0xE0 || n < 3) {
        *length = 2;
        return (uint32_t)(b[0] & 0x1F) << 6 | (b[1] & 0x3F);
    }
    if (b[0] < 0xF0 || n < 4) {
        *length = 3;
        return (uint32_t)(b[0] & 0x0F) << 12 | (uint32_t)(b[1] & 0x3F) << 6 | (b[2] & 0x3F);
    }
    *length = 4;
    return (uint32_t)(b[0] & 0x07) << 18 | (uint32_t)(b[1] & 0x3F) << 12 | (uint32_t)(b[2] & 0x3F) << 6 | (b[3] & 0x3F);
}

size_t stm_utf8_write(uint32_t point, char *out)
{
    if (point < 0x80) {
        out[0] = (char)point;
        return 1;
    }
    if (point < 0x800) {
        out[0] = (char)(0xC0 | point >> 6);
        out[1] = (char)(0x80 | (point & 0x3F));
        return 2;
    }
    if (point < 0x10000) {
        out[0] = (char)(0xE0 | point >> 12);
        out[1] = (char)(0x80 | (point >> 6 & 0x3F));
        out[2] = (char)(0x80 | (point & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | point >> 18);
    out[1] = (char)(0x80 | (point >> 12 & 0x3F));
    out[2] = (char)(0x80 | (point >> 6 & 0x3F));
    out[3] = (char)(0x80 | (point & 0x3F));
    return 4;
}

size_t stm_utf8_length(const char *text, size_t n, size_t *skip, bool *cut)
{
    const uint8_t *b = (const uint8_t *)text;
    *skip = 1;
    *cut = false;
    if (b[0] < 0x80)
        return 1;
    if (b[0] < 0xC2 || b[0] > 0xF4)
        return 0;
    const size_t length = b[0] < 0xE0 ? 2 : b[0] < 0xF0 ? 3 : 4;
    /* The second byte's range excludes overlong forms, surrogates and what lies beyond U+10FFFF. */
    const uint8_t low = b[0] == 0xE0 ? 0xA0 : b[0] == 0xF0 ? 0x90 : 0x80;
    const uint8_t high = b[0] == 0xED ? 0x9F : b[0] == 0xF4 ? 0x8F : 0xBF;
    for (size_t i = 1; i < length; i++) {
        if (i == n) {
            *cut = true;
            return 0;
        }
        if (i == 1 ? b[1] < low || b[1] > high : (b[i] & 0xC0) != 0x80)
            return 0;
        *skip = i + 1;
    }
    return length;
}

size_t stm_utf8_valid(const char *text, size_t n)
{
    size_t at = 0, skip, length;
    bool cut;
    while (at < n) {
        uint64_t eight; /* eight bytes of ASCII at a time */
        if (at + 8 <= n && (memcpy(&eight, text + at, 8), (eight & 0x8080808080808080u) == 0)) {
            at += 8;
            continue;
        }
        if ((length = stm_utf8_length(text + at, n - at, &skip, &cut)) == 0)
            break;
        at += length;
    }
    return at;
}

stm_status stm_utf8_repair(const char *text, size_t n, stm_string *out)
{
    for (size_t at = 0; at < n;) {
        const size_t good = stm_utf8_valid(text + at, n - at);
        STM_TRY(stm_string_add(out, text + at, good));
        at += good;
        if (at < n) {
            size_t skip;
            bool cut;
            stm_utf8_length(text + at, n - at, &skip, &cut);
            STM_TRY(stm_string_add_point(out, 0xFFFD));
            at += skip;
        }
    }
    return STM_OK;
}

bool stm_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool stm_is_word(uint32_t point)
{
    switch (utf8proc_category((utf8proc_int32_t)point)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL: /* Nl and these two ranges of So are Alphabetic */
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return (point >= 0x24B6 && point <= 0x24E9) || (point >= 0x1F130 && point <= 0x1F149) ||
               (point >= 0x1F150 && point <= 0x1F169) || (point >= 0x1F170 && point <= 0x1F189) || point == 0x200C ||
               point == 0x200D;
    }
}

bool stm_is_combining_mark(uint32_t point)
{
    const utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)point);
    return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC || category == UTF8PROC_CATEGORY_ME;
}

/* Bytes that print stand for themselves; the other 68, in order, become U+0100 and up. */
static bool prints(uint32_t byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

uint32_t stm_byte_to_point(uint8_t byte)
{
    if (prints(byte))
        return byte;
    return 0x100u + (byte <= 0x20 ? byte : byte <= 0xA0 ? byte - 0x7Fu + 0x21u : 0x43u);
}

int stm_point_to_byte(uint32_t point)
{
    if (point < 0x100)
        return prints(point) ? (int)point : -1;
    const uint32_t k = point - 0x100;
    return k <= 0x20 ? (int)k : k < 0x43 ? (int)(k - 0x21 + 0x7F) : k == 0x43 ? 0xAD : -1;
}
