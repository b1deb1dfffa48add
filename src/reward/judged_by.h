/* src/reward/judged_by.h: which rewards judge a prompt. A data line may name them, "judged_by": ["math", "tags"];
 * without this field all do. Local. */
#ifndef STM_REWARD_JUDGED_BY_H
#define STM_REWARD_JUDGED_BY_H

#include "reward/kinds.h"

/* judges [n]: whether items[i] judges the prompt of this line (NULL: a line without fields). Fails: STM_ERR_INPUT for a
 * field that is no list of names of the items. */
stm_status stm_reward_judged_by(const stm_reward_item *items, size_t n, const char *fields_json, bool *judges);

#endif
