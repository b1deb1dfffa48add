/* A plug-in that shows what it is given, judges no empty response, and fails altogether when the first one is "stop".
 */
#include "inputs/plugin/stemma_reward.h"

#include <math.h>
#include <string.h>

STEMMA_REWARD;

static double judge(const stemma_response *r)
{
    if (r->response[0] == 0)
        return NAN;
    const int named = strcmp(r->prompt, "p") == 0 && strcmp(r->answer, "4") == 0 && strcmp(r->line, "{\"a\": 1}") == 0;
    return (double)r->n_tokens + 100.0 * (double)r->group + 1000.0 * r->truncated + 10000.0 * named;
}

int stemma_reward(size_t n, const stemma_response *responses, double *rewards)
{
    for (size_t i = 0; i < n; i++)
        rewards[i] = judge(&responses[i]);
    return n > 0 && strcmp(responses[0].response, "stop") == 0 ? 7 : 0;
}
