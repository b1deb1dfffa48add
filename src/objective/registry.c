#include "objective/registry.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static const stm_objective *const registry[] = {&stm_objective_grpo, &stm_objective_sft};
enum { N_OBJECTIVES = sizeof registry / sizeof *registry };

const stm_objective *stm_objective_find(const char *name)
{
    for (size_t i = 0; i < N_OBJECTIVES; i++)
        if (strcmp(registry[i]->name, name) == 0)
            return registry[i];
    return NULL;
}

size_t stm_objective_names(const char *const **names)
{
    static const char *list[N_OBJECTIVES];
    for (size_t i = 0; i < N_OBJECTIVES; i++)
        list[i] = registry[i]->name;
    *names = list;
    return N_OBJECTIVES;
}

stm_status stm_objective_check_name(const char *name)
{
    if (stm_objective_find(name))
        return STM_OK;
    const char *const *names;
    const size_t n = stm_objective_names(&names);
    const char *near = stm_nearest_name(name, names, n);
    char list[256] = "";
    for (size_t i = 0, used = 0; i < n && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s",
                                 i == 0       ? ""
                                 : i + 1 == n ? " or "
                                              : ", ",
                                 names[i]);
    return stm_fail(STM_ERR_INPUT, "objective.name: found %s, expected %s%s%s%s", name, list,
                    near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

double stm_objective_weight(const stm_objective_options *options, const stm_totals *totals, size_t n_masked)
{
    if (n_masked == 0)
        return 0.0;
    switch (options->aggregate) {
    case STM_AGGREGATE_TOKEN_MEAN:
        return 1.0 / (double)totals->n_tokens;
    case STM_AGGREGATE_FIXED_LENGTH:
        assert(options->max_tokens > 0);
        return 1.0 / ((double)totals->n_responses * (double)options->max_tokens);
    case STM_AGGREGATE_SEQUENCE_MEAN:
        break;
    }
    return 1.0 / ((double)totals->n_responses * (double)n_masked);
}

void stm_totals_of(const stm_batch *batch, stm_totals *totals)
{
    *totals = (stm_totals){.n_groups = batch->n_groups};
    for (size_t g = 0; g < batch->n_groups; g++) {
        const stm_group *group = &batch->groups[g];
        totals->n_responses += group->n_responses;
        for (size_t i = 0; i < group->n_responses; i++)
            for (size_t k = 0; k < group->responses[i].n; k++)
                totals->n_tokens += group->responses[i].mask[k] != 0;
    }
}
