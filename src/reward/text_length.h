/* src/reward/text_length.h: lengths in characters or tokens, for rewards with these two styles. Local. */
#ifndef STM_REWARD_TEXT_LENGTH_H
#define STM_REWARD_TEXT_LENGTH_H

#include "reward/kinds.h"

extern const char *const stm_text_lengths[]; /* characters, tokens */

double stm_text_length(const stm_reward_item *item, const stm_reward_input *input);

/* End of the group that response `first` begins: inputs[first .. end - 1] answer one prompt. */
size_t stm_group_end(const stm_reward_input *inputs, size_t n, size_t first);

#endif
