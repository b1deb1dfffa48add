#include "objective/registry.h"

#include <stdio.h>
#include <string.h>

static const stm_objective *const registry[] = {&stm_objective_grpo,
                                                &stm_objective_disco,
                                                &stm_objective_copg,
                                                &stm_objective_mdpo_regression,
                                                &stm_objective_direct_advantage,
                                                &stm_objective_dpo,
                                                &stm_objective_orpo,
                                                &stm_objective_kto,
                                                &stm_objective_self_play,
                                                &stm_objective_p3o,
                                                &stm_objective_fdpg,
                                                &stm_objective_sft};
enum { N_OBJECTIVES = sizeof registry / sizeof *registry };
_Static_assert((size_t)N_OBJECTIVES <= (size_t)STM_MOST_OBJECTIVES, "lists of them have room");

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
