/* src/base/random.h: counter-based random numbers, Philox 4x32-10 (Salmon et al., SC 2011,
 * doi 10.1145/2063384.2063405).
 *
 * A number is a pure function of its key, so every rank and layout draws the same one. Local, no state. */
#ifndef STM_BASE_RANDOM_H
#define STM_BASE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
    STM_RANDOM_TRAIN,
    STM_RANDOM_EVAL,
    STM_RANDOM_GENERATE,
    STM_RANDOM_SHUFFLE,
    STM_RANDOM_INIT,
    STM_RANDOM_PAIRS,
    STM_RANDOM_REPLAY,
    STM_RANDOM_THOUGHTS,
    STM_RANDOM_FILTER,
    STM_RANDOM_OTHERS
} stm_random_use;

/* slot: of the group in the whole step, not in a rank's share. */
typedef struct {
    uint64_t seed;
    stm_random_use use;
    uint64_t step;
    uint32_t slot, rollout, token;
} stm_random_key;

/* Ten rounds over the counter; out is 128 random bits. */
void stm_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

double stm_random_uniform(const stm_random_key *key); /* in [0, 1), 53 bits */
double stm_random_normal(const stm_random_key *key);  /* mean 0, variance 1 (Box-Muller) */

/* order: [n] becomes a permutation of 0 .. n-1 that depends on seed and epoch alone. */
void stm_random_permutation(uint64_t seed, uint64_t epoch, size_t n, size_t *order);

#endif
