/* tests/support/rewards.h: one response through one reward. */
#ifndef STM_TESTS_REWARDS_H
#define STM_TESTS_REWARDS_H

#include "reward/reward.h"

/* An entry with the presets of the table. */
stm_reward_options reward_named(const char *name);

double reward_of_input(stm_reward_options o, const stm_reward_input *input);
double reward_of_text(stm_reward_options o, const char *text, const char *answer);

/* The responses of one run of a set of one entry. */
void rewards_of(stm_reward_options o, size_t n, const stm_reward_input *inputs, double *rewards);

/* Fails unless the entry is refused with these words; it stands behind another one, as reward[1]. */
void reward_is_refused(stm_reward_options o, const char *words);

#endif
