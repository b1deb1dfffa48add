/* What is asked of rollouts or of prompts where there are none, or in vain: options that are set and would do nothing.
 * Values count, not whether they were given: an input file of a run folder gives all of them. */
#include <string.h>

#include "config/table.h"

/* Where a step's responses come from. */
typedef enum { SAMPLED = 1, DEMONSTRATED = 2, RECORDED = 4 } source;

static const char *name_of(source from)
{
    return from == RECORDED       ? "data.groups"
           : from == DEMONSTRATED ? "objective.name=sft"
                                  : "an objective that samples (sft alone has demonstrations)";
}

stm_status stm_options_check_unused(const stm_options *o)
{
    const source from = *o->data.groups ? RECORDED : strcmp(o->objective.name, "sft") == 0 ? DEMONSTRATED : SAMPLED;
    const struct {
        const char *key, *found, *expected;
        bool set;
        unsigned sources; /* that read it */
    } options[] = {
        {"data.filter_samples", "a number above 0", "0", o->data.filter_samples > 0, SAMPLED},
        {"data.thought_dropout", "a number above 0", "0", o->data.thought_dropout > 0, DEMONSTRATED},
        {"objective.mask_after", "a text", "none", *o->objective.mask_after != 0, SAMPLED | RECORDED},
        {"objective.mask_truncated", "true", "false", o->objective.mask_truncated, SAMPLED | RECORDED},
        {"rollout.dynamic", "true", "false", o->rollout.dynamic, SAMPLED},
        {"rollout.refine", "true", "false", o->rollout.refine, SAMPLED},
        {"replay.size", "a number above 0", "0", o->replay.size > 0, SAMPLED},
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (options[i].set && !(options[i].sources & from))
            return stm_fail(STM_ERR_INPUT, "%s: found %s, expected %s with %s", options[i].key, options[i].found,
                            options[i].expected, name_of(from));
    if (o->rollout.dynamic && o->rollout.group_size == 1 && o->rollout.budgets.n == 0)
        return stm_fail(STM_ERR_INPUT, "rollout.group_size: found 1, expected at least 2 with rollout.dynamic: one "
                                       "reward is equal to itself");
    if (o->eval.every == 0 && (o->eval.stop_after > 0 || o->eval.stop_at_reward != 0))
        return stm_fail(STM_ERR_INPUT, "eval.every: found 0, expected at least 1, since eval.stop_after or "
                                       "eval.stop_at_reward needs evaluations");
    return STM_OK;
}
