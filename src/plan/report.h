/* src/plan/report.h: what the planner found, as text and as JSON. Local. */
#ifndef STM_PLAN_REPORT_H
#define STM_PLAN_REPORT_H

#include "plan/search.h"

typedef struct {
    const stm_planner *planner;
    const char *machine_file;
    int64_t nodes, ranks_per_node;
    stm_estimates best;               /* for `nodes` */
    size_t n_nodes_rows, n_size_rows; /* tables: the best layout for other numbers of nodes, other sizes */
    stm_estimate *nodes_rows, *size_rows;
    int64_t *sizes; /* of groups, for size_rows */
} stm_plan_report;

void stm_plan_print(const stm_plan_report *report);

/* {"machine", "model", "step", "best", "layouts": [..], "nodes": [..], "group_size": [..]}. Fails: STM_ERR_IO,
 * STM_ERR_MEMORY. */
stm_status stm_plan_write(const stm_plan_report *report, const char *path);

#endif
