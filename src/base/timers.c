#include "base/timers.h"

#include <assert.h>
#include <string.h>

#include "base/base.h"
#include "base/pulse.h"

static const char *const names[] = {
#define NAME_OF(NAME, name, what) [STM_PHASE_##NAME] = name,
    STM_PHASES(NAME_OF)
#undef NAME_OF
};

const char *stm_phase_name(stm_phase phase)
{
    return names[phase];
}

static stm_phase running(const stm_timers *timers)
{
    return timers->depth > 0 ? timers->open[timers->depth - 1] : STM_PHASE_OTHER;
}

/* Gives the time since the last push or pop to the phase that ran. */
static void settle(stm_timers *timers)
{
    const double now_s = stm_now_s();
    timers->self_s[running(timers)] += now_s - timers->last_s;
    timers->last_s = now_s;
}

void stm_timers_init(stm_timers *timers)
{
    if (!timers)
        return;
    memset(timers, 0, sizeof *timers);
    stm_pulse_phase(STM_PHASE_OTHER);
    timers->begin_s = timers->last_s = stm_now_s();
}

void stm_timers_push(stm_timers *timers, stm_phase phase)
{
    if (!timers)
        return;
    assert(timers->depth < STM_TIMERS_DEPTH);
    settle(timers);
    timers->open[timers->depth++] = phase;
    stm_pulse_phase(phase);
}

void stm_timers_pop(stm_timers *timers, stm_phase phase)
{
    if (!timers)
        return;
    settle(timers);
    int depth = timers->depth;
    while (depth > 0 && timers->open[depth - 1] != phase)
        depth--;
    assert(depth > 0);
    timers->depth = STM_MAX(depth, 1) - 1;
    stm_pulse_phase(running(timers));
}

double stm_timers_self_s(const stm_timers *timers, stm_phase phase)
{
    if (!timers)
        return 0;
    return timers->self_s[phase] + (running(timers) == phase ? stm_now_s() - timers->last_s : 0);
}

double stm_timers_wall_s(const stm_timers *timers)
{
    return timers ? stm_now_s() - timers->begin_s : 0;
}
