/* src/metrics/log.h: what the program tells its user: standard output, and log.txt once a run folder is open. */
#ifndef STM_METRICS_LOG_H
#define STM_METRICS_LOG_H

#include "base/base.h"

/* printf to standard output and to log.txt, both flushed; a newline is added where the text does not end in one. Only
 * rank 0 of the world prints, on others it does nothing; without MPI every caller prints. Main thread. Local. */
void stm_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* To log.txt alone, for what standard error tells already. Local. */
void stm_log_file(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* From now on to `path` too (appended), until it is called with NULL. Local. Fails: STM_ERR_IO. */
stm_status stm_log_to(const char *path);

#endif
