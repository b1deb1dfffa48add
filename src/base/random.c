#include "base/random.h"

#include <math.h>

static void multiply(uint32_t a, uint32_t b, uint32_t *high, uint32_t *low)
{
    const uint64_t product = (uint64_t)a * b;
    *high = (uint32_t)(product >> 32);
    *low = (uint32_t)product;
}

void stm_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]}, k[2] = {key[0], key[1]};
    for (int round = 0; round < 10; round++) {
        uint32_t high0, low0, high1, low1;
        multiply(0xD2511F53u, c[0], &high0, &low0);
        multiply(0xCD9E8D57u, c[2], &high1, &low1);
        const uint32_t next[4] = {high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0};
        for (int i = 0; i < 4; i++)
            c[i] = next[i];
        k[0] += 0x9E3779B9u; /* Weyl constants of the paper */
        k[1] += 0xBB67AE85u;
    }
    for (int i = 0; i < 4; i++)
        out[i] = c[i];
}

/* Two uniform numbers for a key. The step's upper half and the use share a word with the seed's key by a second pass.
 */
static void two_uniforms(const stm_random_key *key, double u[2])
{
    const uint32_t seed[2] = {(uint32_t)key->seed, (uint32_t)(key->seed >> 32)};
    const uint32_t outer[4] = {(uint32_t)key->step, (uint32_t)(key->step >> 32), (uint32_t)key->use, 0x5354454du};
    uint32_t mixed[4], bits[4];
    stm_philox(outer, seed, mixed);
    const uint32_t inner[4] = {key->slot, key->rollout, key->token, mixed[2]};
    stm_philox(inner, mixed, bits);
    for (int i = 0; i < 2; i++)
        u[i] = (double)((((uint64_t)bits[2 * i] << 32) | bits[2 * i + 1]) >> 11) * 0x1p-53;
}

double stm_random_uniform(const stm_random_key *key)
{
    double u[2];
    two_uniforms(key, u);
    return u[0];
}

double stm_random_normal(const stm_random_key *key)
{
    double u[2];
    two_uniforms(key, u);
    return sqrt(-2.0 * log1p(-u[0])) * cos(6.283185307179586 * u[1]);
}

void stm_random_permutation(uint64_t seed, uint64_t epoch, size_t n, size_t *order)
{
    for (size_t i = 0; i < n; i++)
        order[i] = i;
    for (size_t i = n; i > 1; i--) { /* Fisher and Yates, from the end */
        const stm_random_key key = {seed, STM_RANDOM_SHUFFLE, epoch, (uint32_t)i, (uint32_t)((uint64_t)i >> 32), 0};
        const size_t j = (size_t)(stm_random_uniform(&key) * (double)i), last = order[i - 1];
        order[i - 1] = order[j];
        order[j] = last;
    }
}
