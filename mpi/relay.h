/* mpi/relay.h: buffers that travel along a tree of ranks step by step while those compute.
 *
 * A route names the ranks that take part, the owner first, and the buffer [n_steps, n] that each of them has for it.
 * The members form a heap: member i hangs on member (i - 1) / 2.
 *
 *        owner            SPREAD: steps 0, 1, .. leave the owner as it offers them, and every member passes on what it
 *        /   \                    received.
 *      m1     m2          SUM:    steps n_steps - 1, .. 0 rise. A step leaves a member when that has offered its own
 *     /  \                        part and added what m1, then what m2 sent: in this order, whoever is first.
 *   m3    m4
 *
 * Where ranks of one node share a buffer (mpi/window.h), one of them is a member, and the others, its guests, hang
 * below it in a heap of their own: they are told of each step by a message without content.
 *
 * Messages are point to point and never block; they move inside drive, poll, wait and finish. Every member opens a
 * route in the same place of one total order over all routes, and finishes alike. No call is collective by itself: what
 * a member waits for must come before it in the order by which the members compute. Buffers, `room` too, are where the
 * courier's reach says (mpi/reach.h); what a device does to them comes before an offer, or open, if it was asked for
 * before. A failed MPI call, or no memory for the bookkeeping, prints and aborts. */
#ifndef STM_MPI_RELAY_H
#define STM_MPI_RELAY_H

#include "mpi/courier.h"
#include "mpi/grid.h"
#include "mpi/window.h"

typedef struct stm_relay stm_relay;

typedef enum { STM_RELAY_SPREAD, STM_RELAY_SUM } stm_relay_kind;

typedef struct {
    stm_relay_kind kind;
    const int *members; /* [n_members] ranks of the communicator, the owner first; this rank is one, or a guest */
    int n_members;
    const int *local; /* [n_local] SPREAD: a member and its guests, this rank among them; n_local 0: it has none */
    int n_local;      /* 0, where buffers are a device's */
    const stm_window *window; /* where n_local > 0, for what lies in `numbers` */
    size_t id;                /* the same on all members; of those alive at a time, different */
    size_t n_steps, n;        /* numbers of a step */
    size_t number_bytes;      /* 4 or 8: reals; SPREAD also 2 */
    void *numbers;            /* [n_steps, n]: the caller's, until finish */
    void *room;               /* [n], the caller's, until finish: SUM, where stm_relay_n_children > 0; else NULL */
} stm_route;

/* Before MPI_Init: lets Open MPI hand over a whole message at a time where it may not read another process's memory
 * (no ptrace, as in many containers). By default it then copies 96 KiB whenever both sides happen to drive. What the
 * user has set stays, and another MPI does not mind. Local. */
void stm_relay_prepare(void);

/* How many members hang on `rank`. Local. */
int stm_relay_n_children(const int *members, int n_members, int rank);

/* comm is used until destroy, and for nothing else that is point to point; the courier until then for nothing else.
 * Local. */
stm_relay *stm_relay_create(MPI_Comm comm, stm_courier *courier);
void stm_relay_destroy(stm_relay *relay); /* NULL is fine; all routes are done with */

/* Begins a route; members is read until finish. Returns its number among those open. Local. */
size_t stm_relay_open(stm_relay *relay, const stm_route *route);

/* This rank's part of the next steps, up to and including `step`, is complete and stays unchanged: the owner's content
 * (SPREAD), or its summand (SUM). What was offered before may be offered again. Local. */
void stm_relay_offer(stm_relay *relay, size_t route, size_t step);

/* Whether the step has arrived here (SPREAD) or is summed over this rank and all below it (SUM); wait returns when it
 * is so. */
bool stm_relay_has(const stm_relay *relay, size_t route, size_t step);
void stm_relay_wait(stm_relay *relay, size_t route, size_t step);

/* Whether all that was sent of the route so far has left its buffer; and whether the route is done with on this rank:
 * every step has arrived, or was summed, and was passed on. */
bool stm_relay_is_settled(const stm_relay *relay, size_t route);
bool stm_relay_is_done(const stm_relay *relay, size_t route);

/* Acts on the messages that are through; blocks: waits for one, where any is under way. False: there was none. */
bool stm_relay_poll(stm_relay *relay, bool blocks);

/* Moves what can move, at most every tenth of a millisecond. Cheap where nothing is under way. Local. */
void stm_relay_drive(stm_relay *relay);

/* Returns when all routes are done with on this rank, and closes them. */
void stm_relay_finish(stm_relay *relay);

#endif
