#include "plan/moments.h"

static bool is_before(const stm_moment *a, const stm_moment *b)
{
    return a->time < b->time || (a->time == b->time && a->order < b->order);
}

stm_status stm_moments_push(stm_moments *m, stm_moment item)
{
    STM_TRY(stm_reserve(&m->items, &m->capacity, m->n + 1, sizeof *m->items));
    item.order = m->n_pushed++;
    size_t at = m->n++;
    for (; at > 0 && is_before(&item, &m->items[(at - 1) / 2]); at = (at - 1) / 2)
        m->items[at] = m->items[(at - 1) / 2];
    m->items[at] = item;
    return STM_OK;
}

stm_moment stm_moments_pop(stm_moments *m)
{
    const stm_moment first = m->items[0], last = m->items[--m->n];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < m->n; at = child) {
        if (child + 1 < m->n && is_before(&m->items[child + 1], &m->items[child]))
            child++;
        if (!is_before(&m->items[child], &last))
            break;
        m->items[at] = m->items[child];
    }
    m->items[at] = last;
    return first;
}
