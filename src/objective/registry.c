#include "objective/registry.h"

#include <assert.h>
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
