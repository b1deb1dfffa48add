/* src/metrics/timers.h: the closing table of where time went, over all ranks. The clocks themselves are
 * base/timers.h, which code below metrics/ uses too. */
#ifndef STM_METRICS_TIMERS_H
#define STM_METRICS_TIMERS_H

#include "base/timers.h"
#include "mpi/grid.h"

/* A line per phase that took time on any rank: self seconds, min, mean and max over ranks, and the mean's share of the
 * mean wall time; last, the wall time. *text is set on rank 0 of comm, which frees it; NULL elsewhere. timers: not
 * NULL. Collective over comm; same status everywhere. Fails: STM_ERR_MEMORY. */
stm_status stm_timers_table(MPI_Comm comm, const stm_timers *timers, char **text);

/* The same from numbers: least, sum, most are [STM_N_PHASES + 1], the last of each being the wall time. Local. Fails:
 * STM_ERR_MEMORY. */
stm_status stm_timers_table_text(int n_ranks, const double *least, const double *sum, const double *most, char **text);

#endif
