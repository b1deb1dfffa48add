/* src/bench/rates.h: what the machine itself can do, measured beside the work that is compared with it. */
#ifndef STM_BENCH_RATES_H
#define STM_BENCH_RATES_H

#include "backend/backend.h"
#include "mpi/grid.h"

/* FLOP/s of GEMMs of 1024 x 1024 x 1024 by the backend, on all ranks at once; each rank counts with its best one.
 * Collective over the grid's world; same status everywhere. Fails: STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_bench_gemm_rate(const stm_backend *backend, stm_stream *stream, const stm_grid *grid, double *rate);

/* Bytes per second that all threads of all ranks read at once from host memory, out of arrays that together are twice
 * the last cache, from 256 MiB to 1 GiB; each rank counts with its best pass. Collective over the grid's world; same
 * status everywhere. Fails: STM_ERR_MEMORY. */
stm_status stm_bench_read_rate(const stm_grid *grid, double *rate);

/* The sum of words [n] by all threads: every word is read once. Local. */
uint64_t stm_bench_read(const uint64_t *words, size_t n);

#endif
