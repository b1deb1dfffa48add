/* Options of the objective that are set and would do nothing. Most rows of the table belong to some objectives, as
 * their help says; these make another method of one, and a run without them would be taken for that. */
#include <string.h>

#include "objective/registry.h"

stm_status stm_objective_check_unread(const stm_objective_options *o)
{
    const bool is_grpo = strcmp(o->name, "grpo") == 0, is_kto = strcmp(o->name, "kto") == 0;
    const struct {
        const char *setting, *reader; /* "key: found x, expected y" */
        bool set, is_read;
    } options[] = {
        {"advantage_baseline: found brpo, expected another one", "grpo", o->advantage_baseline == STM_BASELINE_BRPO,
         is_grpo},
        {"reward_combine: found normalize-then-sum, expected sum", "grpo",
         o->reward_combine == STM_REWARDS_NORMALIZE_THEN_SUM, is_grpo},
        {"seed_alpha: found a number above 0, expected 0", "grpo", o->seed_alpha != 0.0, is_grpo},
        {"token_weight_alpha: found a number above 0, expected 0", "grpo", o->token_weight_alpha != 0.0, is_grpo},
        {"proximal_coef: found a number above 0, expected 0", "grpo", o->proximal_coef != 0.0, is_grpo},
        {"is_correction: found one, expected none", "grpo", o->is_correction != STM_CORRECTION_NONE, is_grpo},
        {"kl_point_from: found mismatched, expected given", "kto", o->kl_point_from == STM_KL_POINT_MISMATCHED, is_kto},
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (options[i].set && !options[i].is_read)
            return stm_fail(STM_ERR_INPUT, "objective.%s with objective.name=%s: %s alone reads it", options[i].setting,
                            o->name, options[i].reader);
    if (o->kl_coef_start != 0.0 && o->kl_coef_steps == 0)
        return stm_fail(STM_ERR_INPUT,
                        "objective.kl_coef_start: found %g, expected 0, or objective.kl_coef_steps above 0: the steps "
                        "in which it goes to kl_coef",
                        o->kl_coef_start);
    return STM_OK;
}
