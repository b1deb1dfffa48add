/* src/plan/decoding.h: how long sampling takes on the rank that has most to sample, round by round.
 *
 * As in rollout/: the team's rollouts stand in the order of its prompts and are cut into as many runs as it has ranks;
 * a slot whose rollout ends takes the next. In a pipeline as many batches of slots are in flight as it has stages.
 * Where ranks share cores (plan/cost.h), a round takes no less than the work of all. Local. */
#ifndef STM_PLAN_DECODING_H
#define STM_PLAN_DECODING_H

#include "data/groups.h"
#include "plan/cost.h"

typedef struct {
    const stm_cost *cost;
    const stm_model *stages; /* [n_stages] */
    size_t n_stages;
    const stm_batch *batch;
    bool shares;           /* across groups: what prompts begin with in common is read once */
    const int *team_of;    /* [n_groups] */
    const int *team_sizes; /* [n_teams] */
    size_t n_teams;
    size_t slots, max_new_tokens;
    double room_bytes; /* for slots */
    /* Found: */
    double seconds, n_rounds;
} stm_decoding;

/* Fails: STM_ERR_MEMORY. */
stm_status stm_decoding_estimate(stm_decoding *decoding);

/* About the same in no time: as if all groups were alike and every rank had its share of them, in as many rounds as its
 * tokens take, or the longest response. team_of is not read. */
void stm_decoding_guess(stm_decoding *decoding);

#endif
