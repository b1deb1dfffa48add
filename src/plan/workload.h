/* src/plan/workload.h: the batch of a step as it may be: prompts of the data file or of a given length, and responses
 * whose lengths scatter. Tokens are such that responses share nothing. Local. */
#ifndef STM_PLAN_WORKLOAD_H
#define STM_PLAN_WORKLOAD_H

#include "config/options.h"
#include "data/groups.h"
#include "data/prompts.h"

/* Mean lengths; spread: standard deviation of responses' lengths to their mean, log-normal, cut at most_answer. */
typedef struct {
    size_t n_groups, group_size, n_prompt, n_answer, most_answer;
    double spread;
    uint64_t seed;
} stm_workload;

/* prompts: those of the data file, taken as a run's first step takes them (NULL: n_prompt tokens each, of which groups
 * share none); where they have responses and `supervised`, these. A pure function of its arguments. The caller clears
 * *batch, also after a failure. Fails: STM_ERR_MEMORY. */
stm_status stm_workload_draw(const stm_workload *workload, const stm_prompts *prompts, bool shuffle, bool supervised,
                             stm_batch *batch);

/* The parts of that, for what is sampled later: the length of a response, of any group and rollout; so many tokens that
 * no other number has in one place, numbers below stm_workload_n_ids being the batch's own; a response of them, all
 * with loss, into a group that has room. Fail: STM_ERR_MEMORY. */
size_t stm_workload_length(const stm_workload *workload, size_t group, size_t rollout);
size_t stm_workload_n_ids(const stm_workload *workload);
stm_status stm_workload_ids(size_t number, size_t n, int32_t **ids);
stm_status stm_workload_add_response(size_t n, size_t number, stm_group *group);

/* Mean lengths of what is in a batch. */
void stm_workload_means(const stm_batch *batch, double *n_prompt, double *n_answer);

#endif
