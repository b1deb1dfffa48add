/* src/bench/report.h: the rows of a measurement as text, JSON, CSV and a plot. Local; rank 0 calls. */
#ifndef STM_BENCH_REPORT_H
#define STM_BENCH_REPORT_H

#include "bench/machine.h"
#include "bench/measure.h"

typedef struct {
    stm_bench_machine machine;
    const char *model_name; /* a path, or "random" */
    const stm_model *model;
    double resident_bytes; /* the most of any rank so far */
    size_t n_rows;
    const stm_bench_row *rows;
} stm_bench_report;

/* The lines above the table, one line of it, and how two rows of a case compare. */
void stm_bench_print_head(const stm_bench_report *report);
void stm_bench_print_row(const stm_bench_row *row);
void stm_bench_print_ratio(const stm_bench_row *tree, const stm_bench_row *repeated);

/* Writes `path`, and F.csv beside it for F.json. Fails: STM_ERR_IO, STM_ERR_MEMORY. */
stm_status stm_bench_write(const stm_bench_report *report, const char *path);

/* The name of a file beside F.json: F.csv for ".csv". The caller frees *out. Fails: STM_ERR_MEMORY. */
stm_status stm_bench_beside(const char *path, const char *ending, char **out);

/* Draws F.png beside F.json: time against the size of a group and against the length of the prompt, measured (points)
 * and by the cost model (lines). Without gnuplot there is none, which the log says. */
void stm_bench_plot(const stm_bench_report *report, const char *path);

#endif
