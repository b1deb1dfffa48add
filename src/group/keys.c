#include "group/keys.h"

size_t stm_schedule_keys(const stm_schedule *s, uint64_t *keys)
{
    const uint64_t is_shared = (uint64_t)1 << 31;
    size_t n = 0, time = STM_NONE;
    uint64_t n_units = 0;
    for (size_t e = 0; e < s->n_events; e++) {
        const stm_event *event = &s->events[e];
        const stm_planned_chunk *c = &s->chunks[event->chunk];
        if (event->kind != STM_EVENT_BACKWARD)
            continue;
        n_units = event->time == time ? n_units : 0;
        time = event->time;
        const uint64_t order = c->shared == STM_NONE ? n_units++ : is_shared + (s->n_shared - c->shared);
        if (c->n_rows > 0)
            keys[n++] = (uint64_t)time << 32 | order;
    }
    return n;
}
