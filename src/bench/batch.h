/* src/bench/batch.h: batches to measure on. Local, all of it. */
#ifndef STM_BENCH_BATCH_H
#define STM_BENCH_BATCH_H

#include "data/groups.h"

/* What is measured; means, where the groups of a file differ. */
typedef struct {
    double n_groups, n_prompt, n_answer, group_size;
} stm_bench_shape;

/* Random tokens below `vocab`, each with loss; rewards 0, 1, 0, ... A pure function of its arguments; sizes are whole.
 * The caller clears *batch, also after a failure. Fails: STM_ERR_MEMORY. */
stm_status stm_bench_random_batch(const stm_bench_shape *shape, size_t vocab, uint64_t seed, stm_batch *batch);

/* The shape of groups that a file gave, and rewards 0, 1, 0, ... where it gave none. */
stm_bench_shape stm_bench_shape_of(stm_batch *batch);

/* Tokens of the longest response, and responses of the largest group. */
size_t stm_bench_longest(const stm_batch *batch);
size_t stm_bench_largest(const stm_batch *batch);

#endif
