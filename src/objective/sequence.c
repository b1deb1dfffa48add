/* Log-probs of whole responses. */
#include <math.h>

#include "objective/preference.h"

static const double LARGEST_LOG_RATIO = 20.0;

double stm_softplus(double x)
{
    return fmax(x, 0.0) + log1p(exp(-fabs(x)));
}

double stm_sigmoid(double x)
{
    const double small = exp(-fabs(x));
    return (x < 0 ? small : 1.0) / (1.0 + small);
}

double stm_sum_of(const stm_tokens *t, const double *row)
{
    double sum = 0;
    for (size_t k = 0; row && k < t->n; k++)
        sum += t->mask[k] ? row[k] : 0.0;
    return sum;
}

const double *stm_row_of(const stm_tokens *t, stm_row row)
{
    const stm_response_notes *notes = t->response->notes;
    switch (row) {
    case STM_ROW_REF:
        return t->ref;
    case STM_ROW_OLD:
        return t->old;
    case STM_ROW_TWIN:
        return notes ? notes->twin_logprobs : NULL;
    case STM_ROW_TARGET:
        return notes ? notes->target_logprobs : NULL;
    case STM_N_ROWS:
        break;
    }
    return NULL;
}

double stm_sequence_log_ratio(const stm_tokens *t, double *slope, stm_objective_sums *sums)
{
    const double x = t->old ? stm_sum_of(t, t->logp) - stm_sum_of(t, t->old) : 0.0;
    *slope = fabs(x) > LARGEST_LOG_RATIO ? 0.0 : 1.0;
    sums->n_clamped += fabs(x) > LARGEST_LOG_RATIO;
    return *slope == 0.0 ? copysign(LARGEST_LOG_RATIO, x) : x;
}

void stm_add_to_tokens(const stm_tokens *t, double factor)
{
    for (size_t k = 0; k < t->n; k++)
        t->dlogp[k] += t->mask[k] ? factor : 0.0;
}

double stm_h_of(const stm_tokens *t)
{
    return t->ref ? stm_sum_of(t, t->logp) - stm_sum_of(t, t->ref) : 0.0;
}

void stm_observe_response(const stm_tokens *t, stm_objective_sums *sums)
{
    for (size_t k = 0; k < t->n; k++)
        if (t->mask[k])
            stm_objective_observe(t, k, sums);
    if (t->n_masked == 0 || stm_is_other(t->response))
        return;
    const double rho = exp(fmin(t->old ? stm_sum_of(t, t->logp) - stm_sum_of(t, t->old) : 0.0, LARGEST_LOG_RATIO));
    sums->n_samples += 1;
    sums->h_samples += stm_h_of(t);
    sums->rho += rho;
    sums->rho_squares += rho * rho;
}

void stm_observe_pair(const stm_tokens *winner, const stm_tokens *loser, double z, stm_objective_sums *sums)
{
    sums->n_pairs += 1;
    sums->n_pairs_right += z > 0;
    sums->h_winners += stm_h_of(winner);
    sums->h_losers += stm_h_of(loser);
}

double stm_add_kl_term(stm_kl_form form, const stm_tokens *t, const double *row, double mean_of_others, double factor)
{
    double sum = 0;
    if (form != STM_KL_FORM_TOKEN) {
        const double S = stm_sum_of(t, t->logp), h = S - stm_sum_of(t, row) - mean_of_others;
        stm_add_to_tokens(t, factor * h);
        return factor * h * S;
    }
    for (size_t k = 0; k < t->n; k++) {
        if (!t->mask[k])
            continue;
        const double difference = t->logp[k] - row[k];
        t->dlogp[k] += factor * difference;
        sum += factor * difference * t->logp[k];
    }
    return sum;
}

void stm_mean_h_of_others(size_t n, const stm_tokens *views, stm_row row, double *out)
{
    double sum = 0, n_policy = 0;
    for (size_t i = 0; i < n; i++) {
        const stm_tokens *t = &views[i];
        out[i] = 0;
        if (t->n_masked == 0 || stm_is_other(t->response))
            continue;
        out[i] = stm_sum_of(t, t->logp) - stm_sum_of(t, stm_row_of(t, row));
        sum += out[i];
        n_policy += 1;
    }
    for (size_t i = 0; i < n; i++)
        out[i] = n_policy > 1 ? (sum - out[i]) / (n_policy - 1) : 0.0;
}
