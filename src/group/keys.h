/* src/group/keys.h: the order in which a gradient's chunks are summed over ranks (mpi/rounds.h): a key for each that
 * goes back.
 *
 * Keys follow the time of the schedule, which all ranks of a team share: at one time those of units, the first of every
 * rank, the second, and so on; then what is shared, the deepest first. A chunk without rows has none. */
#ifndef STM_GROUP_KEYS_H
#define STM_GROUP_KEYS_H

#include "group/schedule.h"

/* keys: room for n_events. Returns how many there are; they increase. Local. */
size_t stm_schedule_keys(const stm_schedule *schedule, uint64_t *keys);

#endif
