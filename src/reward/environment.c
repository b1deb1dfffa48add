/* What the environment of rollouts of several turns gave (rollout.environment): the sum over turns. */
#include "reward/kinds.h"

static double score(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint)
{
    if (!input->environment_reward)
        return stm_complain(complaint, "%s: the environment gave no \"reward\"", item->where);
    return *input->environment_reward;
}

const stm_reward_kind stm_reward_environment = {
    .name = "environment",
    .needs_answer = stm_reward_never,
    .one = score,
};
