/* Semantic entropy of a group's answers: SEED-GRPO, arXiv:2505.12346. A response has the mass exp(mean log-prob of its
 * tokens when sampled) over the group's sum, a cluster of equal answers the mass p_k of its members:
 *
 *   SE = -sum_k p_k log p_k, here over log n */
#include <math.h>

#include "objective/registry.h"

static double mean_old(const stm_response *response)
{
    double sum = 0, n = 0;
    for (size_t k = 0; k < response->n; k++)
        if (response->mask[k]) {
            sum += response->old_logprobs[k];
            n += 1;
        }
    return n > 0 ? sum / n : 0.0;
}

double stm_semantic_entropy(const stm_group *group, double *work)
{
    const size_t n = group->n_responses;
    double *mass = work, *cluster = work + n; /* of the cluster, at its first member */
    double largest = -INFINITY, sum = 0, entropy = 0;
    for (size_t i = 0; i < n; i++) {
        mass[i] = mean_old(&group->responses[i]);
        largest = mass[i] > largest ? mass[i] : largest;
        cluster[i] = 0;
    }
    for (size_t i = 0; i < n; i++)
        sum += mass[i] = exp(mass[i] - largest);
    for (size_t i = 0; i < n; i++) {
        size_t first = 0;
        while (group->responses[first].notes->cluster != group->responses[i].notes->cluster)
            first++;
        cluster[first] += mass[i] / sum;
    }
    for (size_t i = 0; i < n; i++)
        entropy -= cluster[i] > 0 ? cluster[i] * log(cluster[i]) : 0.0;
    return n > 1 ? entropy / log((double)n) : 0.0;
}
