/* src/rollout/stop.h: when a response ends by itself: an end id, or a stop text. */
#ifndef STM_ROLLOUT_STOP_H
#define STM_ROLLOUT_STOP_H

#include "rollout/rollout.h"

typedef struct stm_stop_state stm_stop_state;

/* For one response at a time; the sampling must outlive it. The caller destroys *out. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_stop_create(const stm_sampling *sampling, stm_stop_state **out);
void stm_stop_destroy(stm_stop_state *state); /* NULL is fine */
void stm_stop_reset(stm_stop_state *state);   /* the next response begins */

/* Adds a token; *stops: the response ends with it. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_stop_add(stm_stop_state *state, int32_t id, bool *stops);

#endif
