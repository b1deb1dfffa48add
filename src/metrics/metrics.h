/* src/metrics/metrics.h: the records of a run: metrics.jsonl and the step line. Local, all of it; rank 0 calls. */
#ifndef STM_METRICS_METRICS_H
#define STM_METRICS_METRICS_H

#include "metrics/record.h"

typedef struct stm_metrics stm_metrics;

/* Opens <folder>/metrics.jsonl for step records. resume_step: the step of the checkpoint that training goes on from, -1
 * at a fresh start: records of later steps (-1: all), torn and repeated ones are dropped (temporary file, rename), so
 * that the file has each step once; a fresh start keeps a file that was there as metrics.old.jsonl. n_steps: of the
 * whole run, for the line. The caller closes *out. Fails: STM_ERR_IO, STM_ERR_MEMORY. */
stm_status stm_metrics_open(const char *folder, int64_t resume_step, int64_t n_steps, stm_metrics **out);
void stm_metrics_close(stm_metrics *metrics); /* NULL is fine */

/* Appends the record as one line. One that finds no room on the disk is kept, and written with the next or at the
 * close; the file ends with a whole line meanwhile. Fails: STM_ERR_IO, STM_ERR_MEMORY. */
stm_status stm_metrics_write(stm_metrics *metrics, const stm_record *record);

/* Takes the last record out of the file, if it is of that step, to be written again; else *record is empty but for the
 * step. NULL metrics: the same. Fails: STM_ERR_IO, STM_ERR_INPUT, STM_ERR_MEMORY. */
stm_status stm_metrics_take_back(stm_metrics *metrics, int64_t step, stm_record *record);

/* The step line with its newline, at most 110 columns while n_steps has at most six digits; before it, at first and
 * every 25 lines, the heading; after it, when eval_reward is set, a line of the evaluation. A record without reward
 * (supervised) shows its loss instead. Time left: the mean step_s of the last 20 calls times the steps left. Valid
 * until the next call. */
const char *stm_metrics_line(stm_metrics *metrics, const stm_record *record);

/* Reads <folder>/metrics.jsonl: *records [*n] is freed by the caller; null and missing fields are NaN, a torn line is
 * left out. Fails: STM_ERR_INPUT (no such file), STM_ERR_MEMORY. */
stm_status stm_metrics_read(const char *folder, stm_record **records, size_t *n);

#endif
