#include "train/recorded.h"

#include <stdlib.h>

#include "data/groups_file.h"
#include "mpi/grid.h"
#include "objective/objective.h"

static stm_status read_groups(const stm_options *options, const stm_text_context *text, const char *bytes, size_t n,
                              stm_prompt_set *set)
{
    const unsigned needs = stm_objective_find(options->objective.name)->needs(&options->objective);
    const unsigned use = needs & STM_NEEDS_REWARDS ? STM_GROUPS_NEED_REWARDS : 0;
    STM_TRY(stm_groups_read(set->path, bytes, n, text, use, &set->groups));
    const stm_status status = stm_objective_check_recorded(&options->objective, &set->groups);
    if (status != STM_OK)
        return stm_fail_context(status, "%s", set->path);
    return stm_prompts_of_groups(&set->groups, &set->prompts);
}

stm_status stm_recorded_groups_read(MPI_Comm comm, const stm_options *options, const stm_text_context *text,
                                    stm_prompt_set *set)
{
    char *bytes;
    size_t n;
    set->path = options->data.groups;
    set->present = true;
    if (*options->objective.mask_after && !text->tokenizer)
        return stm_fail(STM_ERR_INPUT,
                        "objective.mask_after: found \"%s\", expected no text for a model without tokenizer.json",
                        options->objective.mask_after);
    STM_TRY(stm_broadcast_file(comm, set->path, &bytes, &n));
    const stm_status status = read_groups(options, text, bytes, n, set);
    free(bytes);
    return stm_agree_on(comm, status);
}
