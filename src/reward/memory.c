/* What rewards remember, as bytes: for each entry that remembers anything the length of its name, the name, the number
 * of its bytes, and these. */
#include <stdlib.h>
#include <string.h>

#include "reward/kinds.h"

stm_status stm_reward_set_settle(stm_reward_set *set)
{
    for (size_t i = 0; i < set->n; i++)
        if (set->items[i].kind->settle)
            STM_TRY(set->items[i].kind->settle(&set->items[i]));
    return STM_OK;
}

static stm_status save_item(const stm_reward_item *item, stm_kept *memory, stm_kept *out)
{
    const size_t n = strlen(item->kind->name);
    STM_TRY(item->kind->save(item->state, memory));
    STM_TRY(stm_kept_put_number(out, n));
    STM_TRY(stm_kept_put(out, item->kind->name, n));
    STM_TRY(stm_kept_put_number(out, memory->n));
    return stm_kept_put(out, memory->bytes, memory->n);
}

stm_status stm_reward_set_save(const stm_reward_set *set, stm_kept *out)
{
    stm_status status = STM_OK;
    for (size_t i = 0; status == STM_OK && i < set->n; i++) {
        stm_kept memory = {0};
        if (set->items[i].kind->save)
            status = save_item(&set->items[i], &memory, out);
        free(memory.bytes);
    }
    return status;
}

/* The next entry of the set that remembers anything; set->n: there is none. */
static size_t next_of(const stm_reward_set *set, size_t i)
{
    while (i < set->n && !set->items[i].kind->restore)
        i++;
    return i;
}

stm_status stm_reward_set_restore(stm_reward_set *set, const char *where, const stm_kept *kept)
{
    stm_kept_reader reader = {kept->bytes, kept->n}, name, memory;
    uint64_t n;
    for (size_t i = next_of(set, 0); reader.n > 0; i = next_of(set, i + 1)) {
        bool good = stm_kept_take_number(&reader, &n) && stm_kept_take_part(&reader, n, &name) &&
                    stm_kept_take_number(&reader, &n) && stm_kept_take_part(&reader, n, &memory);
        if (good && i < set->n && strlen(set->items[i].kind->name) == name.n &&
            memcmp(set->items[i].kind->name, name.at, name.n) == 0)
            STM_TRY(set->items[i].kind->restore(set->items[i].state, memory, &good));
        if (!good)
            return stm_fail(STM_ERR_INPUT, "%s: /kept/rewards: found other bytes than a memory of rewards", where);
    }
    return STM_OK;
}
