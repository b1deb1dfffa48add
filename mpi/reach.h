/* mpi/reach.h: how messages get at memory that is not the host's.
 *
 * Whoever computes on a device of its own fills the table; mpi/ knows no more of the device than what stands here. A
 * NULL table: arrays are the host's memory, and the functions below do what the host does with it. A device that fails
 * prints and ends all ranks, since others wait for its messages. Local, but for what says otherwise. */
#ifndef STM_MPI_REACH_H
#define STM_MPI_REACH_H

#include <mpi.h>

#include "base/base.h"

/* What a rank sends to another, or receives from it: n bytes of the device. */
typedef struct {
    int peer;
    bool sends;
    void *bytes;
    size_t n;
} stm_group_message;

typedef struct stm_reach {
    bool direct;        /* MPI itself takes addresses of the device, as a CUDA-aware library does */
    size_t piece_bytes; /* else messages go through the host in pieces of so many at most; a multiple of 8 */
    void *device;       /* the first argument of what follows */
    /* Memory of the device; and of the host, which the device copies from and to by itself. Fails: STM_ERR_MEMORY. */
    stm_status (*alloc)(void *device, size_t bytes, void *out);
    void (*free)(void *device, void *memory);
    stm_status (*alloc_host)(void *device, size_t bytes, void *out);
    void (*free_host)(void *device, void *memory);
    /* What the device was given to compute until now comes before what is begun here from now on; direct: it is done
     * when this returns, for MPI waits for no device. */
    void (*follow)(void *device);
    /* Begins a copy between any two of the device and that memory of the host. They run in their order; mark: a number
     * for the last that was begun; whether it, and so all before it, is through. */
    void (*copy)(void *device, void *to, const void *from, size_t bytes);
    uint64_t (*mark)(void *device);
    bool (*has_passed)(void *device, uint64_t mark);
    /* y[i] += x[i]; and sum[i] = parts[0][i] + parts[1][i] + .., in this order, float32 in double; parts: [n_parts, n],
     * which sum may be the first of. Done when they return. */
    void (*add)(void *device, size_t n, size_t real_bytes, const void *x, void *y);
    void (*add_in_order)(void *device, size_t n_parts, size_t n, size_t real_bytes, const void *parts, void *sum);
    /* NULL: messages are MPI's. Else the device carries those of sums and gatherings (mpi/groups.h), among the ranks of
     * comm: exchange begins a group of messages, in the order of copies, with each peer at most one either way. Every
     * rank begins the groups of all in one order. add_in_order then returns at once; it is in that order, too. */
    void (*exchange)(void *device, const stm_group_message *messages, size_t n);
    MPI_Comm comm; /* where nothing else is said */
} stm_reach;

/* Whether the MPI library takes addresses of a device on every rank: as the environment's STEMMA_GPU_MPI says (1, 0),
 * else as the library does. Collective over comm. */
bool stm_mpi_reaches_devices(MPI_Comm comm);

/* reach NULL: of the host. */
stm_status stm_reach_alloc(const stm_reach *reach, size_t bytes, void *out); /* contents undefined */
void stm_reach_free(const stm_reach *reach, void *memory);                   /* NULL is fine */
void stm_reach_follow(const stm_reach *reach);
void stm_reach_copy(const stm_reach *reach, void *to, const void *from, size_t bytes);
void stm_reach_add(const stm_reach *reach, size_t n, size_t real_bytes, const void *x, void *y);
void stm_reach_add_in_order(const stm_reach *reach, size_t n_parts, size_t n, size_t real_bytes, const void *parts,
                            void *sum);

#endif
