/* A plug-in without its function. */
#include "inputs/plugin/stemma_reward.h"

STEMMA_REWARD;
