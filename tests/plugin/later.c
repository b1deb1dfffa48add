/* A plug-in of a version to come. */
#include "inputs/plugin/stemma_reward.h"

const int stemma_reward_version = STEMMA_REWARD_VERSION + 1;

int stemma_reward(size_t n, const stemma_response *responses, double *rewards)
{
    (void)responses;
    for (size_t i = 0; i < n; i++)
        rewards[i] = 1.0;
    return 0;
}
