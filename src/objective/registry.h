/* src/objective/registry.h: the rows of the registry; for src/objective alone. An objective is one file and one row
 * here. */
#ifndef STM_OBJECTIVE_REGISTRY_H
#define STM_OBJECTIVE_REGISTRY_H

#include "objective/objective.h"

extern const stm_objective stm_objective_grpo, stm_objective_sft;

#endif
