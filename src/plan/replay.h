/* src/plan/replay.h: a pass of the engine with events instead of work: how long it takes, and who waits for whom.
 *
 * The schedules are those that a run follows (group/schedule.h). Every rank of a team and of its columns does its
 * events in their order; computing takes what the cost model says, and messages what the machine's links take:
 *
 *      FORWARD    waits for hidden rows of the stage before; each layer offers its K and V when these are formed, then
 *                 waits for those of the shared chunks that it reads, as they come down the tree of mpi/relay.h
 *      BACKWARD   the reverse; dK, dV of a layer leave when the last chunk that adds to them has been through it
 *
 * Where gradients are summed chunk by chunk (mpi/rounds.h), a layer's backward first waits for one of its two rooms.
 *
 * Messages leave a rank (inside a node) or its node (to others) one after the other. Ranks of a node that read one copy
 * of K and V hear of them, without content. Where ranks share cores (cost.h: crowd), those that compute have equal
 * parts of them, and those that wait leave theirs to the others. Time of what is not computed (tables, copies) is not
 * counted. Local. */
#ifndef STM_PLAN_REPLAY_H
#define STM_PLAN_REPLAY_H

#include "group/schedule.h"
#include "plan/cost.h"

/* Where the time of a rank goes; the sum is the pass's, for every rank. */
typedef enum {
    STM_REPLAY_FORWARD,
    STM_REPLAY_AGAIN, /* forward, for activations that were not kept */
    STM_REPLAY_BACKWARD,
    STM_REPLAY_HEAD,
    STM_REPLAY_KV,    /* waiting for K, V, dK, dV */
    STM_REPLAY_SUMS,  /* of gradients, where they are summed chunk by chunk: adding, and waiting for room */
    STM_REPLAY_STAGE, /* waiting for the stages beside it */
    STM_REPLAY_IDLE,  /* done before others */
    STM_REPLAY_N_PARTS
} stm_replay_part;

typedef struct {
    const stm_cost *cost;
    const stm_model *stages; /* [n_stages]: laid out, with a backend, without weights */
    size_t n_stages;
    int team_size;
    const stm_forest *forest;
    stm_pass_kind kind;
    int64_t stage_size, first_rank; /* ranks of a stage; the team's first among them */
    int64_t ranks_per_node;
    bool shares_kv; /* ranks of a node read one copy of shared K and V (mpi/window.h) */
    const struct stm_rounds_options
        *rounds;       /* [n_stages]: gradients are summed chunk by chunk; NULL: behind the pass */
    double link_share; /* that the replayed ranks have of their nodes' links to others */
} stm_replay;

typedef struct {
    double seconds;
    double parts[STM_REPLAY_N_PARTS]; /* seconds, mean over ranks */
    double tail_s; /* of the last backward, the shortest of any rank: sums of gradients fit behind it */
    double inside_bytes, between_bytes; /* sent by all that were replayed */
    double n_messages;                  /* with content; layers that go in groups count as one */
    size_t n_chunks;                    /* of the rank that has most */
} stm_replayed;

/* schedules [n_stages * team_size], stage-major. Fails: STM_ERR_MEMORY, STM_ERR_DEVICE (the schedules wait in a
 * circle).
 */
stm_status stm_replay_run(const stm_replay *replay, const stm_schedule *schedules, stm_replayed *out);

/* Plans for every rank, and replays. options: those that are the same for all ranks. */
stm_status stm_replay_pass(const stm_replay *replay, const stm_placement *placement,
                           const stm_schedule_options *options, stm_replayed *out);

#endif
