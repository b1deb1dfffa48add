#include "objective/target.h"

#include <math.h>
#include <string.h>

#include "objective/preference.h"

static bool is_fdpg(const stm_objective_options *o)
{
    return strcmp(o->name, stm_objective_fdpg.name) == 0;
}

bool stm_target_keeps_z(const stm_objective_options *o)
{
    return is_fdpg(o) && o->normaliser == STM_NORMALISER_RUNNING;
}

bool stm_target_keeps_baseline(const stm_objective_options *o)
{
    return is_fdpg(o) && o->baseline_window > 0;
}

static double sum_of(const stm_response *response, const double *row)
{
    double sum = 0;
    for (size_t k = 0; k < response->n; k++)
        sum += response->mask[k] ? row[k] : 0.0;
    return sum;
}

double stm_target_log_a(const stm_objective_options *o, const stm_response *response)
{
    const double S = sum_of(response, response->ref_logprobs);
    if (o->target == STM_TARGET_EXPONENTIAL)
        return S + response->reward / o->target_beta;
    return response->reward > o->target_threshold ? S : -INFINITY;
}

double stm_target_log_weight(const stm_objective_options *o, const stm_response *response)
{
    return stm_target_log_a(o, response) - sum_of(response, response->old_logprobs);
}

double stm_log_add(double a, double b)
{
    const double most = a > b ? a : b, least = a > b ? b : a;
    return most == -INFINITY ? most : most + log1p(exp(least - most));
}

static double log_z_of_group(const stm_objective_options *o, const stm_group *group)
{
    double highest = -INFINITY, sum = 0, n = 0;
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < group->n_responses; i++) {
            const stm_response *response = &group->responses[i];
            if (!stm_response_has_loss(response))
                continue;
            const double x = stm_target_log_weight(o, response);
            if (pass == 0)
                highest = x > highest ? x : highest;
            else if (highest > -INFINITY)
                sum += exp(x - highest);
            n += pass;
        }
    return sum > 0 ? highest + log(sum / n) : -INFINITY;
}

double stm_target_log_z(const stm_objective_options *o, const stm_group *group)
{
    switch (o->normaliser) {
    case STM_NORMALISER_GIVEN:
        return o->log_z;
    case STM_NORMALISER_RUNNING:
        return group->log_z;
    case STM_NORMALISER_GROUP:
        break;
    }
    return log_z_of_group(o, group);
}

/* t may be infinite where the divergence is bounded. */
static double f_prime(stm_divergence divergence, double t)
{
    switch (divergence) {
    case STM_DIVERGENCE_KL:
        return -exp(-t);
    case STM_DIVERGENCE_REVERSE_KL:
        return t + 1;
    case STM_DIVERGENCE_TV:
        return t > 0 ? 0.5 : t < 0 ? -0.5 : 0.0;
    case STM_DIVERGENCE_CHI2:
        return -expm1(-2 * t);
    case STM_DIVERGENCE_REVERSE_CHI2:
        return 2 * expm1(t);
    case STM_DIVERGENCE_JS:
        break;
    }
    return log(2.0) - stm_softplus(-t);
}

double stm_target_pseudo_reward(stm_divergence divergence, double t, bool *held)
{
    static const double LARGEST = 50.0; /* e^t would be huge for long responses */
    const bool beyond = fabs(t) > LARGEST && t < INFINITY;
    if (held)
        *held = beyond;
    return -f_prime(divergence, beyond ? copysign(LARGEST, t) : t);
}

double stm_target_sampled_reward(const stm_objective_options *o, const stm_response *response, double log_z)
{
    return stm_target_pseudo_reward(o->divergence, log_z - stm_target_log_weight(o, response), NULL);
}
