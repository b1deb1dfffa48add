/* src/train/filter.h: prompts that the start model can do at least once (ARPO's task filter, arXiv:2505.16282): before
 * the first step each gets data.filter_samples rollouts, and those without a success are left out of the run. */
#ifndef STM_TRAIN_FILTER_H
#define STM_TRAIN_FILTER_H

#include "train/judge.h"

typedef struct {
    bool known;        /* false: not found yet */
    size_t n, *which;  /* [n]: prompts that stay, in the file's order */
    stm_prompts items; /* these, once they are selected */
} stm_filter;
void stm_filter_clear(stm_filter *filter);

/* Whether some response was rewarded with more than min_reward. Local. */
bool stm_filter_keeps(const stm_group *group, double min_reward);

/* Asks the model. Where the watch leaves, the filter stays unknown. Collective over the grid's world; same status
 * everywhere. Fails: STM_ERR_INPUT where no prompt stays, and as rollouts and rewards do. */
stm_status stm_filter_find(const stm_policy *policy, stm_reward_set *rewards, const stm_prompt_set *set,
                           stm_filter *filter);

/* The set that is left, which borrows its prompts from `set`. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_filter_select(stm_filter *filter, const stm_prompt_set *set, stm_prompt_set *out);

/* As bytes, appended to *out, nothing where it is unknown; and back, for a set of n_prompts. where: for the message.
 * Local. Fails: STM_ERR_MEMORY; STM_ERR_INPUT for other bytes, or another number of prompts. */
stm_status stm_filter_save(const stm_filter *filter, size_t n_prompts, stm_kept *out);
stm_status stm_filter_restore(stm_filter *filter, const char *where, const stm_kept *kept, size_t n_prompts);

#endif
