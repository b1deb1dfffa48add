/* src/plan/replay_world.h: the state of a replay, and what its parts (replay*.c) need of one another: ranks, the routes
 * of K and V between them, the cores that they share. Local. */
#ifndef STM_PLAN_REPLAY_WORLD_H
#define STM_PLAN_REPLAY_WORLD_H

#include "plan/moments.h"
#include "plan/replay.h"

/* Of a step's layers, what a rank sends to the owners of their gradient's sums; bytes: all of them, its own included.
 */
typedef struct {
    double inside_bytes, between_bytes, n_messages, bytes;
} stm_sum_sends;

typedef enum { AT_EVENT, AT_LAYER, AT_MEETING, AT_END } stm_actor_place;

typedef struct {
    const stm_schedule *schedule;
    size_t stage;
    int team_rank;
    size_t event, step; /* step: of the layers, counted in the direction of the pass */
    stm_actor_place at;
    bool blocked;
    stm_replay_part waits_for;
    double since, clock; /* since: it is blocked */
    double parts[STM_REPLAY_N_PARTS];
    size_t arrived[2], used[2]; /* messages of rows: forward, backward */
    double backward_began;      /* the last one */
    stm_work work;              /* of the chunk that runs */
    /* Where gradients are summed chunk by chunk. */
    size_t *rounds;               /* of its chunks, in order */
    stm_sum_sends *sends;         /* [n_steps] */
    size_t n_computed, n_offered; /* steps of its chunks: gone back, and left */
    /* What it computes, where it shares cores. */
    bool computes;
    stm_replay_part doing[2];
    double doing_s[2], began, ends; /* ends: in the time of its node's cores */
} stm_actor;

/* The cores of a node on which more ranks compute than it has cores for. */
typedef struct {
    size_t n_here, n_running; /* of the ranks that are replayed */
    double done, since;       /* seconds of computing that one which always ran has had up to `since` */
    size_t version;           /* a moment of another one is void */
} stm_cores;

/* K, V and dK, dV of a shared chunk of one stage; members as in the schedule. [n_members, n_steps] each. */
typedef struct {
    bool open;
    size_t n_steps;
    uint8_t *has, *offered, *received, *summed;
    size_t *child, *next; /* [n_members]: who hears of K and V from a member: the first, and who is told after it */
    double kv_bytes, dkv_bytes; /* of a step */
} stm_kv_route;

/* Sums of a stage's gradients, as they stand: rounds and, in each, steps from the last to the first. */
typedef struct {
    size_t n_places, n_done;
    size_t *n_missing; /* [n_places]: parts that have not arrived */
} stm_sum_rounds;

typedef struct {
    const stm_replay *replay;
    const stm_schedule *schedules;
    size_t n_actors, n_shared, group; /* group: layers of a step */
    stm_actor *actors;
    stm_kv_route *routes; /* [n_stages, n_shared] */
    size_t *member_of;    /* [n_shared, team_size]: place among the members, or STM_NONE */
    stm_sum_rounds *sums; /* [n_stages]; NULL: gradients are summed behind the pass */
    size_t n_nodes;
    double *rank_free, *node_free; /* when the last message has left */
    stm_cores *cores;              /* [nodes] */
    stm_moments moments;
    double now;
    stm_replayed *out;
} stm_world;

static inline const stm_shared_chunk *stm_world_shared_of(const stm_world *w, size_t i)
{
    return &w->schedules[0].shared[i];
}

static inline size_t stm_world_n_layers(const stm_model *model)
{
    return model->end_layer - model->first_layer;
}

static inline size_t stm_world_n_steps(const stm_world *w, size_t stage)
{
    return (stm_world_n_layers(&w->replay->stages[stage]) + w->group - 1) / w->group;
}

static inline int64_t stm_world_node_of(const stm_world *w, const stm_actor *a)
{
    return ((int64_t)a->stage * w->replay->stage_size + w->replay->first_rank + a->team_rank) /
           w->replay->ranks_per_node;
}

static inline size_t stm_world_actor_at(const stm_world *w, size_t stage, int team_rank)
{
    return stage * (size_t)w->replay->team_size + (size_t)team_rank;
}

/* The rank of a member of a route. */
static inline size_t stm_world_member_actor(const stm_world *w, size_t r, size_t member)
{
    const size_t shared = r % w->n_shared;
    return stm_world_actor_at(w, r / w->n_shared,
                              w->schedules[0].members[stm_world_shared_of(w, shared)->first_member + member]);
}
static inline bool stm_world_shares_cores(const stm_world *w)
{
    return w->replay->cost->crowd > 1;
}

static inline stm_cores *stm_world_cores_of(const stm_world *w, const stm_actor *a)
{
    return &w->cores[stm_world_node_of(w, a)];
}

/* When bytes that are ready at `ready`, for ranks of the same node or of others, are there. */
double stm_world_leave(stm_world *w, const stm_actor *from, bool inside, double bytes, double ready);

/* When a message that is ready at `ready` arrives. */
double stm_world_send(stm_world *w, const stm_actor *from, const stm_actor *to, double bytes, double ready);

/* Lets a rank that waits look again. Fails, as all below: STM_ERR_MEMORY. */
stm_status stm_world_wake(stm_world *w, size_t i);

/* K and V of a step are with a member, which passes them on. */
stm_status stm_world_kv_is_here(stm_world *w, size_t r, size_t member, size_t step);

/* A member's own part of dK, dV, or that of one below it, is there. */
stm_status stm_world_sum_dkv(stm_world *w, size_t r, size_t member, size_t step);

stm_status stm_world_open_routes(stm_world *w);

/* Sums chunk by chunk (mpi/rounds.h): of the ranks of a stage those of one team are replayed, and the others are taken
 * to send what they send when they do. */
stm_status stm_world_open_sums(stm_world *w);
void stm_world_close_sums(stm_world *w);
double stm_world_sum_s(const stm_world *w, const stm_actor *a, size_t step); /* of computing */
bool stm_world_has_sum_room(const stm_world *w, const stm_actor *a);         /* for the next step of a chunk */
bool stm_world_sums_are_done(const stm_world *w, const stm_actor *a);
stm_status stm_world_offer_sum(stm_world *w, stm_actor *a); /* of the step that it computed last */
stm_status stm_world_sum_is_here(stm_world *w, const stm_moment *m);

/* A rank computes from now on: one thing, or one and then another. */
stm_status stm_world_compute(stm_world *w, stm_actor *a, stm_replay_part what, double seconds);
stm_status stm_world_compute_both(stm_world *w, stm_actor *a, stm_replay_part what, double seconds,
                                  stm_replay_part then, double then_s);

/* The moment of STM_MOMENT_CORES: the rank goes on. */
stm_status stm_world_leave_cores(stm_world *w, const stm_moment *m);

#endif
