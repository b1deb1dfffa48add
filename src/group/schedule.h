/* src/group/schedule.h: what a rank does in a pass over a forest, and in which order.
 *
 * A wave's shared segments are cut into chunks, each computed by its owner and read by others; then every rank computes
 * its units, depth first: subtrees that fit a chunk are packed, several to one, and are done with when it has run. A
 * larger one opens a chunk, its root, filled up with those of its children's subtrees that fit; the other children run
 * while it is open, and it goes back last. Such is the order of a rank that is alone. As events, in a pass for a
 * gradient, with two chunks below an open one:
 *
 *      OPEN, FORWARD root   OPEN, FORWARD a   BACKWARD, CLOSE a   OPEN, FORWARD b   BACKWARD, CLOSE b
 *      BACKWARD, CLOSE root
 *
 * In a pipeline of P stages (1F1B: Narayanan et al. 2019, PipeDream; 2021, arXiv 2104.04473) chunks are the
 * micro-batches, and stage s runs forward P-1-s slots ahead of its backward, so that gradients that come back find it
 * at work. A slot is a place in the order of forwards that all ranks of a team count alike: shared chunks have one
 * each, and the k-th chunk of units of every rank in a wave has the same. So a rank's events stand in the order of a
 * time (slot; for backward: slot of the last forward before it, plus P-1-s) that all ranks share, and every message
 * goes from an earlier event to a later one: nobody waits in a circle.
 *
 * Everything here is a function of the sequences, the options and the layout: all ranks of a team derive what concerns
 * them all (shared chunks, who reads them) alike. The same lists feed the run and its simulation. Local, all of it. */
#ifndef STM_GROUP_SCHEDULE_H
#define STM_GROUP_SCHEDULE_H

#include "config/options.h"
#include "group/chunk.h"
#include "group/placement.h"

/* OPEN: room for a chunk, and the messages that fill it, where another rank computes it. CLOSE: all that is sent of it
 * has left, and its room is free. PREFILL has no BACKWARD and no CLOSE, SCORE no BACKWARD. */
typedef enum { STM_EVENT_OPEN, STM_EVENT_FORWARD, STM_EVENT_BACKWARD, STM_EVENT_CLOSE } stm_event_kind;

typedef struct {
    stm_event_kind kind;
    size_t chunk; /* of schedule->chunks */
    size_t time;  /* in slots */
} stm_event;

/* A chunk on this rank. */
typedef struct {
    size_t first_segment, n, n_rows; /* a range of schedule->segments, in preorder */
    size_t shared;                   /* of schedule->shared; STM_NONE: units of this rank */
    bool computes;                   /* false: K and V of a shared chunk that another rank computes */
    bool opens;                      /* others run below it */
    bool keeps;                      /* activations, from forward to backward; else computed again there */
    size_t bank;                     /* chunks of a bank are closed in the reverse order of their opening */
    size_t first_read, n_reads;      /* a range of schedule->reads: shared chunks that its rows attend to, not itself */
    size_t first_offer, n_offers;    /* a range of schedule->offers: shared chunks, itself perhaps, to whose dK, dV this
                                      * rank adds nothing after its backward */
} stm_planned_chunk;

/* A shared chunk, the same on every rank of the team; one that is computed everywhere belongs on each rank that needs
 * it to this rank alone: no messages. */
typedef struct {
    size_t first_segment, n, n_rows; /* a range of the placement's segments */
    int owner;
    bool everywhere;
    size_t first_member; /* a range of schedule->members: ranks that have it, the owner, then those after it */
    int n_members;
    size_t chunk; /* this rank's; STM_NONE: it has none */
    /* K and V lie once on each node that has members: with the first of them, the node's leader. */
    size_t first_leader; /* a range of schedule->leaders: the owner, then the leaders of other nodes */
    int n_leaders;
    size_t first_local; /* a range of schedule->local: the members on this rank's node, its leader first */
    int n_local;        /* 0: this rank has its own K and V */
    size_t offset;      /* bytes, where K and V lie in the leader's part of the window; n_local > 0 */
} stm_shared_chunk;

typedef struct {
    size_t n_events, n_chunks, n_shared, n_banks;
    stm_event *events;
    stm_planned_chunk *chunks;
    stm_shared_chunk *shared;
    size_t *segments, *reads, *offers; /* of the chunks */
    int *members, *leaders, *local;
    size_t *window_bytes; /* [team_size]: that each rank's part of its node's window needs, the same on every rank */
    size_t largest_rows;  /* of a chunk */
} stm_schedule;

typedef struct {
    stm_pass_kind kind;
    int team_size, team_rank;
    const int *nodes; /* [team_size]: equal where ranks share K and V; NULL: nobody does */
    size_t n_stages, stage;
    bool one_clock;    /* slots are the same on all ranks of the team also where there is one stage */
    size_t chunk_rows; /* that a chunk is filled to */
    stm_recompute recompute;
    size_t room_bytes; /* for K, V and activations; the model says how large these are */
} stm_schedule_options;

/* The caller clears *out, also after a failure. Fails: STM_ERR_MEMORY. */
stm_status stm_schedule_create(const stm_forest *forest, const stm_placement *placement, const stm_model *model,
                               const stm_schedule_options *options, stm_schedule *out);
void stm_schedule_clear(stm_schedule *schedule);

#endif
