/* src/base/crash.h: last words. Local. */
#ifndef STM_BASE_CRASH_H
#define STM_BASE_CRASH_H

/* A segmentation fault and its relatives say rank, host, phase and step before they end the process as they did; from
 * the first SIGTERM or SIGINT, which end it too until somebody else takes them, its end is no news any more. After
 * MPI_Init, for MPI installs handlers of its own, which run afterwards. */
void stm_crash_catch(void);

#endif
