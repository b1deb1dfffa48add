#include "train/report.h"

#include <math.h>

/* Moments of numbers seen one after the other. */
typedef struct {
    double n, sum, squares, min, max;
} moments;

static void add(moments *m, double x)
{
    m->min = m->n > 0 ? fmin(m->min, x) : x;
    m->max = m->n > 0 ? fmax(m->max, x) : x;
    m->n += 1;
    m->sum += x;
    m->squares += x * x;
}

static double mean(const moments *m)
{
    return m->n > 0 ? m->sum / m->n : NAN;
}

static double deviation(const moments *m)
{
    return m->n > 0 ? sqrt(fmax(m->squares / m->n - mean(m) * mean(m), 0.0)) : NAN;
}

void stm_report_batch(stm_record *record, const stm_batch *batch)
{
    moments rewards = {0}, lengths = {0}, turns = {0}, kept = {0}, truncated = {0};
    double n_equal = 0;
    for (size_t g = 0; g < batch->n_groups; g++) {
        const stm_group *group = &batch->groups[g];
        n_equal += group->n_responses > 0 && group->responses[0].has_reward && stm_group_is_equal(group);
        for (size_t i = 0; i < group->n_responses; i++) {
            const stm_response *response = &group->responses[i];
            if (response->has_reward)
                add(&rewards, response->reward);
            add(&lengths, (double)response->n);
            if (response->outcome.n_turns > 0)
                add(&turns, (double)response->outcome.n_turns);
            add(&truncated, response->finish == STM_FINISH_LENGTH);
            for (size_t k = 0; response->kept_mass && k < response->n; k++)
                add(&kept, response->kept_mass[k]);
        }
    }
    record->groups = (double)batch->n_groups;
    record->response_tokens_mean = mean(&lengths);
    record->response_tokens_max = lengths.max;
    record->turns_mean = mean(&turns);
    if (rewards.n == 0)
        return;
    record->reward_mean = mean(&rewards);
    record->reward_std = deviation(&rewards);
    record->reward_min = rewards.min;
    record->reward_max = rewards.max;
    record->groups_equal = n_equal;
    record->truncated_share = mean(&truncated);
    record->kept_mass = mean(&kept);
}

void stm_update_totals_add(stm_update_totals *totals, const stm_update_counts *counts)
{
    totals->rows += counts->rows;
    totals->rows_repeated += counts->rows_repeated;
    if (counts->skipped)
        return;
    totals->n_updates += 1;
    totals->grad_norm += counts->grad_norm;
    /* The last field is a maximum, the others are sums. */
    double *to = &totals->sums.loss;
    const double *from = &counts->sums.loss;
    for (size_t i = 0; i < offsetof(stm_objective_sums, logp_difference_max) / sizeof(double); i++)
        to[i] += from[i];
}

/* What only the objectives on whole responses count. */
static void report_preferences(stm_record *record, const stm_objective_sums *s, bool has_reference)
{
    if (s->n_sides > 0)
        record->clip_share = s->n_sides_clipped / s->n_sides;
    if (s->n_pairs > 0) {
        record->pairs = s->n_pairs;
        record->pairs_right = s->n_pairs_right / s->n_pairs;
        record->h_chosen = has_reference ? s->h_winners / s->n_pairs : NAN;
        record->h_rejected = has_reference ? s->h_losers / s->n_pairs : NAN;
    }
    if (s->n_samples > 0) {
        record->h_samples = has_reference ? s->h_samples / s->n_samples : NAN;
        record->ratio_ess = s->rho * s->rho / (s->rho_squares * s->n_samples);
        record->responses_clamped = s->n_clamped;
    }
    if (s->n_spread > 0 && has_reference)
        record->group_entropy = s->spread / s->n_spread;
}

void stm_report_updates(stm_record *record, const stm_update_totals *t, bool has_reference)
{
    record->updates_skipped = t->n_skipped;
    record->tokens_computed = t->rows;
    record->tokens_repeated = t->rows_repeated;
    if (t->n_updates > 0) {
        record->loss = t->sums.loss / t->n_updates;
        record->grad_norm = t->grad_norm / t->n_updates;
    }
    if (t->sums.n_tokens > 0) {
        record->clip_share = t->sums.n_clipped / t->sums.n_tokens;
        record->entropy = t->sums.entropy / t->sums.n_tokens;
        record->kl_old = t->sums.ratio_minus_one_minus_log / t->sums.n_tokens;
        record->kl_reference = has_reference ? t->sums.kl_k3 / t->sums.n_tokens : NAN;
    }
    report_preferences(record, &t->sums, has_reference);
}

void stm_report_evaluation(stm_record *record, const stm_evaluation *e)
{
    record->eval_reward = e->mean_reward;
    record->eval_pass_at_1 = stm_evaluation_pass_at(e, 1);
    record->eval_k = (double)e->n_samples;
    record->eval_pass_at_k = stm_evaluation_pass_at(e, e->n_samples);
}
