/* What could not be learnt from. All ranks see the same numbers, or have agreed, and so decide alike. */
#include "metrics/log.h"
#include "train/trainer_state.h"

stm_status stm_trainer_skip(stm_trainer *t, stm_step *step, const char *what)
{
    stm_progress *progress = &t->progress;
    const long long number = (long long)progress->step + 1;
    progress->n_skipped_in_a_row++;
    step->updates.n_skipped++;
    stm_log("warning: step %lld: %s skipped: %s", number, what, stm_failure());
    if (progress->n_skipped_in_a_row < t->options->fault.max_skips)
        return STM_OK;
    return stm_fail_context(STM_ERR_NUMERIC, "step %lld: skipped %lld in a row (fault.max_skips), the last for this",
                            number, (long long)progress->n_skipped_in_a_row);
}

stm_status stm_trainer_judged_of(stm_trainer *t, const stm_step *step, stm_batch *kept, size_t **which)
{
    const stm_batch *batch = &step->batch;
    *kept = (stm_batch){0};
    *which = NULL;
    stm_status status = stm_alloc(batch->n_groups, sizeof *kept->groups, &kept->groups);
    if (status == STM_OK)
        status = stm_alloc(batch->n_groups, sizeof **which, which);
    STM_TRY(stm_agree(t->policy.grid, status));
    for (size_t g = 0; g < batch->n_groups; g++) {
        if (!t->supervised && !stm_group_is_judged(&batch->groups[g]))
            continue;
        (*which)[kept->n_groups] = step->which[g];
        kept->groups[kept->n_groups++] = batch->groups[g];
    }
    return STM_OK;
}
