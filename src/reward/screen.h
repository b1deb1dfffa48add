/* src/reward/screen.h: actions on a screen, as a prompt's answer and as models write them. Local. */
#ifndef STM_REWARD_SCREEN_H
#define STM_REWARD_SCREEN_H

#include <jansson.h>

#include "reward/kinds.h"
#include "reward/span.h"

/* The prompt's answer, an object with an "action"; NULL: it has none. The caller drops the reference. */
json_t *stm_screen_answer(const stm_reward_input *input);

/* n numbers of a field of the answer into `out`, which keeps what it has where there is no such field. False: it is
 * something else. */
bool stm_screen_numbers(const json_t *answer, const char *key, size_t n, double *out);

/* The word behind the first "action" with a colon; quotes and spaces around both do not count. */
stm_span stm_screen_action(stm_span text);

/* The first "[x, y]". False: there is none. */
bool stm_screen_place(stm_span text, double place[2]);

#endif
