/* src/bench/bytes.h: how much memory a work must read and hold, by the shapes alone. Local, all of it. */
#ifndef STM_BENCH_BYTES_H
#define STM_BENCH_BYTES_H

#include "bench/batch.h"
#include "model/model.h"
#include "mpi/grid.h"

/* What decoding must read, over all ranks: in every round each rank the weights once (of an embedding of its own a few
 * rows, which do not count), K and V of a group's prompt once for all its rollouts, and those of each rollout's own
 * tokens. n_new tokens for each of group_size rollouts to every prompt. */
double stm_bench_decode_bytes(const stm_model *model, const stm_grid *grid, const stm_batch *batch, size_t group_size,
                              size_t n_new, double rounds);

/* What an update on one rank holds: static_bytes; K, V and their gradients of the longest path and of the chunk below
 * it; activations of one piece of chunk_rows, which is memory.recompute=always, or of all of that (kept); scratch of a
 * piece. shared: answers lie beside each other below the prompt; else each at the end of its own path. */
double stm_bench_update_bytes(const stm_model *model, size_t static_bytes, size_t chunk_rows, const stm_batch *batch,
                              bool shared, bool kept);

#endif
