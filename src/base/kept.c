#include "base/kept.h"

#include <string.h>

stm_status stm_kept_put(stm_kept *kept, const void *bytes, size_t n)
{
    if (n == 0)
        return STM_OK;
    STM_TRY(stm_reserve(&kept->bytes, &kept->capacity, kept->n + n, 1));
    memcpy(kept->bytes + kept->n, bytes, n);
    kept->n += n;
    return STM_OK;
}

stm_status stm_kept_put_number(stm_kept *kept, uint64_t number)
{
    return stm_kept_put(kept, &number, sizeof number);
}

bool stm_kept_take(stm_kept_reader *reader, void *out, size_t n)
{
    stm_kept_reader part;
    if (!stm_kept_take_part(reader, n, &part))
        return false;
    if (n > 0)
        memcpy(out, part.at, n);
    return true;
}

bool stm_kept_take_number(stm_kept_reader *reader, uint64_t *number)
{
    return stm_kept_take(reader, number, sizeof *number);
}

bool stm_kept_take_part(stm_kept_reader *reader, uint64_t n, stm_kept_reader *part)
{
    if (n > reader->n)
        return false;
    *part = (stm_kept_reader){.at = reader->at, .n = (size_t)n};
    reader->at += n;
    reader->n -= (size_t)n;
    return true;
}
