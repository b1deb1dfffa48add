/* src/reward/blocks.h: the form of a response in tagged blocks. Local. */
#ifndef STM_REWARD_BLOCKS_H
#define STM_REWARD_BLOCKS_H

#include "reward/span.h"

/* Whether the whole text is pieces[0], anything, pieces[1], anything, .., the last piece; "~" in a piece is any white
 * space, also none. */
bool stm_blocks_fit(stm_span text, const char *const *pieces, size_t n);

/* "<think>..</think> <answer>..</answer>", and nothing around it. */
bool stm_blocks_think_answer(stm_span text);
bool stm_blocks_think_action(stm_span text); /* the same with <action> */

#endif
