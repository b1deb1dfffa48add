/* Policy gradient on win rates: SPO (arXiv:2401.04056), Nash-MD (2312.00886), Nash-MP. p_i: mean probability that
 * response i beats the group's others, or only those of other models (opponent):
 *
 *   L = mean over the policy's responses of  -(p_i - 1/2) S_i + beta K_i(ref) + (beta / prox_eta) K_i(target)
 *
 * K: score-function term of KL (preference.h); the last term only with prox_eta > 0. No ratio: samples are of the
 * policy itself, one update for each batch. */
#include "objective/preference.h"

static unsigned needs(const stm_objective_options *o)
{
    return stm_oracle_needs(o) | (o->beta > 0 ? STM_NEEDS_REFERENCE : 0) |
           (o->beta > 0 && o->prox_eta > 0 ? STM_NEEDS_TARGET : 0) |
           (o->opponent == STM_OPPONENT_OTHER ? STM_NEEDS_ORIGINS : 0);
}

static bool couples(const stm_objective_options *o)
{
    return o->kl_form == STM_KL_FORM_SEQUENCE_LOO && o->beta > 0;
}

static stm_scope scope(const stm_objective_options *o)
{
    return couples(o) ? STM_SCOPE_GROUP : STM_SCOPE_RESPONSE;
}

static void prepare(stm_objective_batch *b)
{
    for (size_t g = 0; g < b->batch->n_groups; g++)
        for (size_t i = 0; i < b->batch->groups[g].n_responses; i++)
            b->advantages[b->response_0[g] + i] =
                stm_win_rate(b->options, &b->batch->groups[g], i, b->options->opponent == STM_OPPONENT_OTHER) - 0.5;
}

static void add(const stm_objective_options *o, const stm_totals *totals, const stm_tokens *t, double ref_of_others,
                double target_of_others, stm_objective_sums *sums)
{
    if (t->n_masked == 0)
        return;
    stm_observe_response(t, sums);
    if (stm_is_other(t->response))
        return;
    const double weight = 1.0 / (double)totals->n_policy;
    sums->loss -= weight * *t->advantages * stm_sum_of(t, t->logp);
    stm_add_to_tokens(t, -weight * *t->advantages);
    if (o->beta > 0)
        sums->loss += stm_add_kl_term(o->kl_form, t, t->ref, ref_of_others, weight * o->beta);
    if (o->beta > 0 && o->prox_eta > 0)
        sums->loss += stm_add_kl_term(o->kl_form, t, stm_row_of(t, STM_ROW_TARGET), target_of_others,
                                      weight * o->beta / o->prox_eta);
}

static void tokens(const stm_objective_options *o, const stm_totals *totals, const stm_tokens *t,
                   stm_objective_sums *sums)
{
    if (!couples(o))
        add(o, totals, t, 0, 0, sums);
}

static void group(const stm_objective_options *o, const stm_totals *totals, const stm_group *group,
                  const stm_tokens *views, double *work, stm_objective_sums *sums)
{
    const size_t n = group->n_responses;
    double *ref = work, *target = work + n;
    if (!couples(o))
        return;
    stm_mean_h_of_others(n, views, STM_ROW_REF, ref);
    stm_mean_h_of_others(n, views, STM_ROW_TARGET, target);
    for (size_t i = 0; i < n; i++)
        add(o, totals, &views[i], ref[i], target[i], sums);
}

const stm_objective stm_objective_self_play = {
    .name = "self_play",
    .summary = "win rates against the group or another model, within a divergence from the start model",
    .reads = STM_KEYS(STM_READS_ORACLE, "beta", "kl_form", "opponent", "prox_eta", "prox_every"),
    .needs_rewards = true,
    .needs = needs,
    .scope_by = scope,
    .work_per_response = 2,
    .prepare = prepare,
    .tokens = tokens,
    .group = group,
};
