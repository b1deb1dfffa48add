/* mpi/banner.h: the lines at start-up that say where the ranks are. */
#ifndef STM_MPI_BANNER_H
#define STM_MPI_BANNER_H

#include "mpi/grid.h"

typedef struct {
    char host[64];
    int n_cores;                    /* that the ranks of this host may use together */
    int n_threads;                  /* of this rank */
    char device[80], device_id[24]; /* what it computes on, and what tells those of a host apart; "": the host */
} stm_banner_rank;

/* How the ranks are cut. */
typedef struct {
    int n_stages, n_teams, smallest, largest; /* teams of a stage, of so many ranks */
    int n_idle;                               /* further ranks that do nothing */
    const char *carrier;                      /* what gradients go by; NULL, "": nothing is said */
} stm_banner_layout;

/* Ranks, nodes, cores, threads, devices, stages and teams, and what carries gradients, a line each; equal neighbours
 * among the nodes are folded into one line. Warns where the threads of a node's ranks are more than the cores they may
 * use, or the ranks more than their devices. *text is set on rank 0, which frees it; NULL elsewhere. Collective over
 * the world; same status everywhere. */
stm_status stm_banner(const stm_grid *grid, int n_threads, const char *device, const char *device_id, char **text);

/* The same from a list of ranks, those of a host side by side. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_banner_text(const stm_banner_rank *ranks, size_t n, const stm_banner_layout *layout, char **text);

#endif
