/* mpi/courier.h: the messages that one part of a rank's work has under way, of arrays that may be a device's.
 *
 *      the host's, or MPI reaches the device      array ------------------ MPI ------------------ array
 *      else (mpi/pieces.h)                        array -> piece on host - MPI - piece on host -> array
 *
 * Messages are point to point and never block; they move inside send, receive and poll. Two ranks' messages of one tag
 * arrive in the order in which they are sent and received. Tags are below STM_COURIER_TAGS. A failed MPI call, or no
 * memory for the bookkeeping, prints and aborts. Local, all of it. */
#ifndef STM_MPI_COURIER_H
#define STM_MPI_COURIER_H

#include "mpi/grid.h"
#include "mpi/reach.h"

enum { STM_COURIER_TAGS = 1 << 14 }; /* pieces need as many again; every MPI has 2^15 */

typedef struct stm_courier stm_courier;

typedef struct {
    MPI_Comm comm; /* used for nothing else that has this tag */
    int peer, tag;
    void *numbers;
    size_t n, number_bytes; /* 2, 4 or 8; n may be 0 where arrays are the host's */
} stm_message;

/* Whose a message is, in the caller's words. */
typedef struct {
    size_t of;
    bool sends;
} stm_claim;

/* reach: as in mpi/reach.h, the caller's until destroy. n_expected: messages for which the bookkeeping is there
 * beforehand. The caller destroys *out. Fails: STM_ERR_MEMORY. */
stm_status stm_courier_create(const stm_reach *reach, size_t n_expected, stm_courier **out);
void stm_courier_destroy(stm_courier *courier); /* nothing is under way; NULL is fine */

/* Memory of the host that create takes for pieces. */
size_t stm_courier_bytes(const stm_reach *reach);

const stm_reach *stm_courier_reach(const stm_courier *courier);

/* The array is the courier's until the message is through: a receiver's to write, a sender's to read. What the device
 * still has to do with it is waited for only if stm_reach_follow was called since that was asked for. */
void stm_courier_send(stm_courier *courier, const stm_message *message, size_t of);
void stm_courier_receive(stm_courier *courier, const stm_message *message, size_t of);

/* Messages under way, and the k-th of them. */
size_t stm_courier_n(const stm_courier *courier);
stm_claim stm_courier_claim(const stm_courier *courier, size_t k);

/* Moves what can move; returns how many messages are through now, and under way no longer. blocks: at least one, where
 * any is under way. The k-th of them, until the next poll: */
size_t stm_courier_poll(stm_courier *courier, bool blocks);
stm_claim stm_courier_through(const stm_courier *courier, size_t k);

#endif
