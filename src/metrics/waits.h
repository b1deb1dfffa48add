/* src/metrics/waits.h: how long ranks waited for each other in a step, by what they waited for: the exposed time of
 * messages. From the clocks of base/timers.h, which whoever waits pushes and pops. */
#ifndef STM_METRICS_WAITS_H
#define STM_METRICS_WAITS_H

#include "metrics/record.h"
#include "mpi/grid.h"

enum { STM_N_WAITS = 6 }; /* as in STM_RECORD_FIELDS: K,V, dK,dV, stages, gradients, parameters, ranks */

typedef struct {
    double s[STM_N_WAITS];
} stm_waits;

/* What this rank has waited since the timers began; NULL timers: nothing. Local. */
stm_waits stm_waits_of(const stm_timers *timers);

/* b - a: what was waited between the two. Local. */
stm_waits stm_waits_between(const stm_waits *a, const stm_waits *b);

/* Mean and maximum over comm into the record, on every rank. Collective. */
void stm_waits_report(MPI_Comm comm, const stm_waits *waits, stm_record *record);

#endif
