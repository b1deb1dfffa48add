/* src/train/report.h: the numbers of a step, from its batch and its updates. Local, all of it: every rank finds the
 * same. */
#ifndef STM_TRAIN_REPORT_H
#define STM_TRAIN_REPORT_H

#include "metrics/record.h"
#include "train/evaluate.h"
#include "train/optimizer.h"

/* Rewards (where the responses have them), lengths, kept mass, equal groups. */
void stm_report_batch(stm_record *record, const stm_batch *batch);

/* Sums over the updates of a step. */
typedef struct {
    stm_objective_sums sums; /* of the updates that were taken */
    double n_updates, n_skipped, grad_norm, rows, rows_repeated;
} stm_update_totals;
void stm_update_totals_add(stm_update_totals *totals, const stm_update_counts *counts);

/* Means over the step's updates; KL to the reference where there is one. */
void stm_report_updates(stm_record *record, const stm_update_totals *totals, bool has_reference);

void stm_report_evaluation(stm_record *record, const stm_evaluation *evaluation);

#endif
