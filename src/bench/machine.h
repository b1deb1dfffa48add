/* src/bench/machine.h: what the figures were measured on. */
#ifndef STM_BENCH_MACHINE_H
#define STM_BENCH_MACHINE_H

#include "model/model.h"
#include "mpi/grid.h"

typedef struct {
    char processor[128];    /* of rank 0, as it names itself */
    char features[128];     /* those among avx2, avx512f, .. that set how fast it can be, with spaces between */
    int n_cores;            /* of rank 0's node */
    int n_ranks, n_threads; /* threads: of a rank, the most of any */
    const char *backend, *precision;
    char date[32]; /* UTC, ISO 8601 */
} stm_bench_machine;

/* Collective over the grid's world; rank 0's is the one to print. */
void stm_bench_machine_describe(const stm_grid *grid, const stm_backend *backend, int n_threads,
                                stm_bench_machine *machine);

/* The most memory that any rank of the program has had so far, as the system counts it. Collective. */
double stm_bench_resident_bytes(const stm_grid *grid);

#endif
