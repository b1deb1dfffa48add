/* src/metrics/run_lock.h: one job at a time in a run folder.
 *
 * The file <folder>/lock names who works there ("host n1, job 4711, process 1234"); it is empty when nobody does. The
 * owner holds it by flock(2), and touches it every few seconds. On a disk of this machine the kernel knows whether
 * the owner is alive. A network file system may forget a lock, keep that of a dead host, or lock for each host alone;
 * there, the owner of another host is gone when it has not touched the file for a minute, or when it was the same job,
 * which the batch system has restarted. Local, all of it. */
#ifndef STM_METRICS_RUN_LOCK_H
#define STM_METRICS_RUN_LOCK_H

#include "base/base.h"

typedef struct {
    bool kernel_decides;    /* the file system is this machine's own */
    double touch_s, gone_s; /* between touches; without one for so long, the owner is gone */
} stm_run_lock_rules;

/* For the file system of the folder. */
stm_run_lock_rules stm_run_lock_rules_of(const char *folder);

typedef struct stm_run_lock stm_run_lock;

/* May wait for gone_s, to see whether an owner on another host is. Fails: STM_ERR_INPUT where another job works in the
 * folder, naming it, STM_ERR_IO, STM_ERR_MEMORY. The caller releases *out. */
stm_status stm_run_lock_take(const char *folder, const stm_run_lock_rules *rules, stm_run_lock **out);
void stm_run_lock_release(stm_run_lock *lock); /* NULL is fine */

/* Whether another job has taken the lock over, as from a process that was stopped for a while. NULL: no. */
bool stm_run_lock_is_lost(const stm_run_lock *lock);

#endif
