/* Advantages by budgets of thinking: BRPO, AnytimeReasoner, arXiv:2505.13438. A response's thinking is cut at S
 * budgets, and at each cut summaries are scored; x_is is the mean score of response i at cut s, p_s the budget's
 * weight:
 *
 *   R_is = sum_{j >= s} p_j x_ij,  V2 = mean over i of R_is (0 for a group of one),
 *   V1   = (sum_{j < s} 2^(j-1) x_ij / sum_{j < s} 2^(j-1)) sum_{j >= s} p_j,
 *   A of the thinking between cuts s-1 and s: R_is - ((s-1) V1 + (S-s+1) V2) / S
 *
 * A of a summary: its score less the mean of those of its cut; of a single one, less the group's mean at that cut. */
#include "objective/registry.h"

/* Thinkings and what hangs on them: one response each, or several that note their member. */
static size_t n_members(const stm_group *group)
{
    return group->n_members > 0 ? group->n_members : group->n_responses;
}

size_t stm_brpo_n_work(const stm_group *group)
{
    return (2 * n_members(group) + 1) * group->n_budgets;
}

/* Weights of the budgets, sum 1. */
static void weigh_budgets(const stm_objective_options *o, size_t n, double *p)
{
    double sum = 0;
    for (size_t s = 0; s < n; s++)
        sum += p[s] = o->budget_probs.n == 0 ? (s + 1 == n) : s < o->budget_probs.n ? o->budget_probs.items[s] : 0.0;
    for (size_t s = 0; s < n; s++)
        p[s] = sum > 0 ? p[s] / sum : 0.0;
}

static double thinking(const stm_group *group, const double *p, const double *mean, const double *rest, size_t i,
                       size_t s)
{
    const size_t S = group->n_budgets, n = n_members(group);
    double group_value = 0, past = 0, weights = 0, to_come = 0, weight = 1;
    for (size_t j = 0; n > 1 && j < n; j++)
        group_value += rest[j * S + s] / (double)n;
    for (size_t j = s; j < S; j++)
        to_come += p[j];
    for (size_t j = 0; j < s; j++, weight *= 2) {
        past += weight * mean[i * S + j];
        weights += weight;
    }
    past = s > 0 ? past / weights * to_come : 0.0;
    return rest[i * S + s] - ((double)s * past + (double)(S - s) * group_value) / (double)S;
}

static double summary(const stm_group *group, const double *mean, size_t i, size_t index)
{
    const size_t S = group->n_budgets, A = group->n_summaries, s = index / A;
    double base = mean[i * S + s];
    if (A == 1) {
        base = 0;
        for (size_t j = 0; j < n_members(group); j++)
            base += mean[j * S + s] / (double)n_members(group);
    }
    return group->scores[i * S * A + index] - base;
}

void stm_brpo_advantages(const stm_objective_options *o, const stm_group *group, double *work, double *advantages)
{
    const size_t S = group->n_budgets, A = group->n_summaries, n = n_members(group);
    double *p = work, *mean = p + S, *rest = mean + n * S; /* [S], [n, S], [n, S] */
    weigh_budgets(o, S, p);
    for (size_t i = 0; i < n; i++)
        for (size_t s = S; s-- > 0;) {
            mean[i * S + s] = 0;
            for (size_t a = 0; a < A; a++)
                mean[i * S + s] += group->scores[(i * S + s) * A + a] / (double)A;
            rest[i * S + s] = p[s] * mean[i * S + s] + (s + 1 < S ? rest[i * S + s + 1] : 0.0);
        }
    for (size_t i = 0; i < group->n_responses; i++) {
        const stm_response_notes *notes = group->responses[i].notes;
        const size_t member = group->n_members > 0 ? notes->member : i;
        for (size_t k = 0; k < group->responses[i].n; k++) {
            const int64_t cut = notes->segment[k], index = notes->answer[k];
            *advantages++ = cut >= 0     ? thinking(group, p, mean, rest, member, (size_t)cut)
                            : index >= 0 ? summary(group, mean, member, (size_t)index)
                                         : 0.0;
        }
    }
}
