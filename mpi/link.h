/* mpi/link.h: messages between neighbouring stages of a pipeline, in a known order, while those compute.
 *
 * A link carries messages one way between two ranks: each is an array of reals whose size both sides know beforehand,
 * and they leave and arrive in one order. Both sides have a few buffers ("slots") that take turns:
 *
 *      sender   take a slot, write, send ..        at most n_slots messages are written and not yet sent,
 *      receiver .. wait for the next, read, release   at most n_slots have arrived (or may) and are not yet released
 *
 * so that a sender runs ahead of its receiver by up to 2 n_slots messages, and waits where it is further ahead.
 * Messages never block; they move inside drive and the waits. A rank that waits in one link must go on driving the
 * others: hence `progress`, called again and again while it waits. Buffers are what the courier takes: of a device,
 * where what reads and writes them is queued, and need not be done when they are sent or released. A failed MPI call,
 * or no memory for the bookkeeping, prints and aborts. Local, all of it. */
#ifndef STM_MPI_LINK_H
#define STM_MPI_LINK_H

#include "mpi/courier.h"

typedef struct stm_link stm_link;

/* What a rank does meanwhile. */
typedef struct {
    void (*drive)(void *context);
    void *context;
} stm_progress_hook;

typedef struct {
    stm_courier *courier; /* of links alone, which may share it; NULL: slots are the host's memory */
    MPI_Comm comm;        /* used for nothing else that has these tags */
    int peer, tag;        /* tag: below STM_COURIER_TAGS */
    bool sends;           /* this side sends; the peer's link has the same tag and receives */
    size_t n_slots;       /* 1 or more; both sides may differ */
    size_t slot_reals;    /* of the largest message; below 2^31 */
    size_t real_bytes;    /* 4 or 8 */
    void *slots;          /* [n_slots, slot_reals]: the caller's, until destroy */
    const size_t *sizes;  /* [n]: reals of each message, in order; the caller's, until destroy. Receiver only; NULL: */
    size_t n;             /* .. stm_link_expect announces each; n: messages that will come */
    stm_progress_hook progress;
} stm_link_options;

/* A receiver posts its first receives here. The caller destroys. */
stm_link *stm_link_create(const stm_link_options *options);

/* All messages are through: a sender waits for its last to leave, and calls `progress`, which must drive no link that
 * is destroyed already. NULL is fine. */
void stm_link_destroy(stm_link *link);

/* Sender: a buffer to write the next message into; waits while all slots are on their way. Then send it. */
void *stm_link_take(stm_link *link);
void stm_link_send(stm_link *link, size_t n);

/* Receiver: the next message; waits for it. Release before the one after it is asked for. */
const void *stm_link_wait(stm_link *link);
void stm_link_release(stm_link *link);

/* Receiver without sizes: one more message will come, of n reals; at most n_slots are expected and not yet released. */
void stm_link_expect(stm_link *link, size_t n);

/* Receiver: whether the next message has arrived. */
bool stm_link_has(stm_link *link);

/* Moves what can move. Cheap where nothing is under way. NULL is fine. */
void stm_link_drive(stm_link *link);

#endif
