/* src/base/pulse.h: what this process is doing, for those who watch over it: the helper process (base/helper.h), the
 * heartbeat (mpi/heartbeat.h), and every message about a failure.
 *
 * The main thread writes, a few nanoseconds a call; anybody reads. It lies in memory that is shared with the helper
 * process, which so can tell what a process did that was killed. Local, all of it. */
#ifndef STM_BASE_PULSE_H
#define STM_BASE_PULSE_H

#include <stdatomic.h>

#include "base/timers.h"

enum { STM_PULSE_HOST_BYTES = 64, STM_PULSE_TEXT_BYTES = 192 };

/* Counters wrap nowhere in practice. Read through stm_pulse_read. */
typedef struct {
    _Atomic int phase;               /* stm_phase */
    _Atomic(const char *) elsewhere; /* what STM_PHASE_OTHER is at the moment: "load"; NULL: its name */
    _Atomic int64_t step;            /* that is being done; 0: none yet */
    _Atomic uint64_t progress;       /* goes on with the work, not with waiting for it */
    _Atomic uint64_t calls;          /* entries to and returns from MPI: odd inside */
    _Atomic bool listened_to;        /* other ranks hear whether this process goes on */
    _Atomic bool resting;            /* has no more to do than to wait for the others' end */
    _Atomic bool told_to_end;        /* by a signal, or by itself: its end is no news */
    _Atomic bool spoke;              /* its node's first message about a failure */
    _Atomic int rank;
    char host[STM_PULSE_HOST_BYTES];
} stm_pulse;

extern stm_pulse *stm_pulse_own; /* never NULL */

/* From now on in memory that children share. Fails: STM_ERR_MEMORY. */
stm_status stm_pulse_share(void);

static inline void stm_pulse_progress(void)
{
    const uint64_t n = atomic_load_explicit(&stm_pulse_own->progress, memory_order_relaxed);
    atomic_store_explicit(&stm_pulse_own->progress, n + 1, memory_order_relaxed);
}

static inline void stm_pulse_phase(stm_phase phase)
{
    atomic_store_explicit(&stm_pulse_own->phase, (int)phase, memory_order_relaxed);
    stm_pulse_progress();
}

/* Before and after a call of MPI, which may wait. */
static inline void stm_pulse_call(void)
{
    const uint64_t n = atomic_load_explicit(&stm_pulse_own->calls, memory_order_relaxed);
    atomic_store_explicit(&stm_pulse_own->calls, n + 1, memory_order_relaxed);
}

/* What STM_PHASE_OTHER is from now on; the text stays valid for ever. NULL: its own name. */
void stm_pulse_elsewhere(const char *name);
void stm_pulse_step(int64_t step);
void stm_pulse_rest(void);

/* May be called by a signal handler. */
void stm_pulse_told_to_end(void);

/* "phase update, step 3", or "phase load" before the first step, of a pulse; text has STM_PULSE_TEXT_BYTES. May be
 * called by a signal handler. */
void stm_pulse_text(const stm_pulse *pulse, char *text);

#endif
