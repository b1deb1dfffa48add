/* src/plan/search.h: the best layout for a number of nodes, and how it changes with nodes and with the size of a group.
 * Local. */
#ifndef STM_PLAN_SEARCH_H
#define STM_PLAN_SEARCH_H

#include "plan/estimate.h"
#include "plan/workload.h"

/* Estimates of the layouts that look best, the quickest step first; those that do not fit into memory last. */
typedef struct {
    size_t n;
    stm_estimate *items;
} stm_estimates;

/* Of nodes with so many ranks each. What the options parallel.pipeline, suffix and replica give is kept. At most n_most
 * layouts are replayed. The caller frees out->items, also after a failure. Fails: STM_ERR_INPUT (no layout: parallel.*
 * ask for more ranks than there are), as stm_plan_estimate. */
stm_status stm_plan_search(const stm_planner *planner, int64_t nodes, int64_t ranks_per_node, size_t n_most,
                           stm_estimates *out);

#endif
