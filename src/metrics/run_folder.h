/* src/metrics/run_folder.h: the folder of a run and what people find in it.
 *
 *   <folder>/input.yaml    as run, every default explicit     metrics.jsonl   metrics/record.h
 *            log.txt       all that was printed, appended     reward.png, overview.png   metrics/plot.h
 *            rollouts/     step-NNNNNNNN.jsonl                checkpoints/    checkpoint/
 *            log.old.txt   lines about steps taken again      tries           train/tries.h
 *            STOP, SAVE    requests of the user               DONE            after the last step
 *            lock          held while a job runs (metrics/run_lock.h)
 *
 * Rank 0 opens it and calls; all functions are local and, where they take a stm_run_folder, do nothing (and succeed)
 * for NULL, so that other ranks may call them too. Failures of rank 0 are agreed on by the caller (stm_agree). */
#ifndef STM_METRICS_RUN_FOLDER_H
#define STM_METRICS_RUN_FOLDER_H

#include "metrics/log.h"

typedef struct stm_run_folder stm_run_folder;

/* Makes the folder and its sub-folders where missing, takes the lock and opens the log (a line with date, host and
 * version marks where a job starts). Fails: STM_ERR_INPUT where there can be no such folder, or when another running
 * job works in it (named by host, job and process), STM_ERR_IO, STM_ERR_MEMORY. */
stm_status stm_run_folder_open(const char *folder, stm_run_folder **out);
void stm_run_folder_close(stm_run_folder *run); /* closes the log, gives the lock back */

/* When it is settled that training starts or goes on: removes DONE and writes input.yaml (temporary file, rename).
 * Fails: STM_ERR_IO. */
stm_status stm_run_folder_begin(stm_run_folder *run, const char *input_text);

/* Takes out of the way what rollouts and the log tell of steps after `step`, which will be taken (again); -1: training
 * starts anew, and all earlier rollouts go. Fails: STM_ERR_IO, STM_ERR_MEMORY. */
stm_status stm_run_folder_cut_back(stm_run_folder *run, int64_t step);

/* What the user asked for by placing STOP or SAVE, and whether another job has taken the folder, as a sum of bits.
 * Looks at the disk at most once a second of now_s (stm_now_s()); a request stays until it is acknowledged. */
enum { STM_REQUEST_STOP = 1, STM_REQUEST_SAVE = 2, STM_REQUEST_LOST = 4 };
int stm_run_folder_requests(stm_run_folder *run, double now_s);

/* The requests were acted on: removes their files. Fails: STM_ERR_IO. */
stm_status stm_run_folder_acknowledge(stm_run_folder *run, int requests);

/* Writes DONE, after the last step only: a line with the step. Fails: STM_ERR_IO. */
stm_status stm_run_folder_done(stm_run_folder *run, int64_t step);

/* Writes rollouts/<kind>-NNNNNNNN.jsonl from n bytes of lines (temporary file, rename), replacing an earlier one. kind:
 * "step" or "eval". Fails: STM_ERR_IO, STM_ERR_MEMORY. */
stm_status stm_run_folder_rollouts(stm_run_folder *run, const char *kind, int64_t step, const char *lines, size_t n);

const char *stm_run_folder_path(const stm_run_folder *run);

#endif
