/* Pairs out of a group. Every two responses that have tokens with loss may make one; their scores say who wins. Best
 * with worst; all whose scores differ; every two, whatever their order; the first half with the second and the policy's
 * with another model's, as online trainers do. A sample of the group before that: RSO, arXiv:2309.06657. */
#include <math.h>

#include "base/random.h"
#include "objective/preference.h"

bool stm_is_other(const stm_response *response)
{
    return response->notes && response->notes->other_origin;
}

/* Probability that response i is better than j. */
static double preference(const stm_objective_options *o, const stm_group *group, size_t i, size_t j)
{
    return o->oracle == STM_ORACLE_RECORDED
               ? group->preferences[i * group->n_responses + j]
               : stm_sigmoid(o->label_scale * (group->responses[i].reward - group->responses[j].reward));
}

double stm_win_rate(const stm_objective_options *o, const stm_group *group, size_t i, bool against_other)
{
    double sum = 0, n = 0;
    for (size_t j = 0; j < group->n_responses; j++) {
        const stm_response *opponent = &group->responses[j];
        if (j == i || !stm_response_has_loss(opponent) || (against_other && !stm_is_other(opponent)))
            continue;
        sum += preference(o, group, i, j);
        n += 1;
    }
    return n > 0 ? sum / n : 0.5;
}

double stm_score_of(const stm_objective_options *o, const stm_group *group, size_t i)
{
    return o->score == STM_SCORE_WIN_RATE ? stm_win_rate(o, group, i, false) : group->responses[i].reward;
}

/* The draw is a function of the response's tokens and its place, so that any rank and any restart repeats it. */
static bool is_drawn(const stm_objective_options *o, const stm_group *group, size_t i, double highest)
{
    const stm_response *response = &group->responses[i];
    const stm_random_key key = {.seed = stm_hash(response->ids, response->ids ? response->n * sizeof(int32_t) : 0),
                                .use = STM_RANDOM_PAIRS,
                                .token = (uint32_t)i};
    return stm_random_uniform(&key) < exp((response->reward - highest) / o->pair_filter);
}

/* The responses that may be paired; their number. */
static size_t list_members(const stm_objective_options *o, const stm_group *group, size_t *members)
{
    size_t n = 0;
    double highest = -INFINITY;
    for (size_t i = 0; i < group->n_responses; i++)
        if (stm_response_has_loss(&group->responses[i]))
            highest = fmax(highest, group->responses[i].reward);
    for (size_t i = 0; i < group->n_responses; i++)
        if (stm_response_has_loss(&group->responses[i]) && (o->pair_filter == 0 || is_drawn(o, group, i, highest)))
            members[n++] = i;
    return n;
}

typedef struct {
    const stm_group *group;
    const double *u;       /* scores */
    const size_t *members; /* [n] */
    size_t n, n_pairs;
    stm_pair *pairs;
} pairing;

static void add(pairing *p, size_t winner, size_t loser)
{
    p->pairs[p->n_pairs++] = (stm_pair){winner, loser, p->u[winner] - p->u[loser], 1.0};
}

/* The first wins unless the other's score is higher. */
static void add_better_first(pairing *p, size_t i, size_t j)
{
    if (p->u[i] >= p->u[j])
        add(p, i, j);
    else
        add(p, j, i);
}

static void best_with_worst(pairing *p, double margin)
{
    if (p->n == 0)
        return;
    size_t best = p->members[0], worst = p->members[0];
    for (size_t k = 1; k < p->n; k++) {
        const size_t i = p->members[k];
        best = p->u[i] > p->u[best] ? i : best;
        worst = p->u[i] < p->u[worst] ? i : worst;
    }
    if (p->u[best] - p->u[worst] > margin)
        add(p, best, worst);
}

static void all_that_differ(pairing *p, double margin)
{
    for (size_t a = 0; a < p->n; a++)
        for (size_t b = 0; b < p->n; b++)
            if (p->u[p->members[a]] - p->u[p->members[b]] > margin)
                add(p, p->members[a], p->members[b]);
}

static void every_two(pairing *p)
{
    for (size_t a = 0; a < p->n; a++)
        for (size_t b = a + 1; b < p->n; b++)
            add(p, p->members[a], p->members[b]);
}

static void halves(pairing *p)
{
    for (size_t k = 0; k < p->n / 2; k++)
        add_better_first(p, p->members[k], p->members[k + p->n / 2]);
}

/* The next member from k on of that origin; n when there is none. */
static size_t next_of(const pairing *p, size_t k, bool other)
{
    while (k < p->n && stm_is_other(&p->group->responses[p->members[k]]) != other)
        k++;
    return k;
}

static void policy_with_other(pairing *p)
{
    size_t a = next_of(p, 0, false), b = next_of(p, 0, true);
    while (a < p->n && b < p->n) {
        add_better_first(p, p->members[a], p->members[b]);
        a = next_of(p, a + 1, false);
        b = next_of(p, b + 1, true);
    }
}

static bool is_wider(const stm_pair *a, const stm_pair *b)
{
    if (a->margin != b->margin)
        return a->margin > b->margin;
    return a->winner != b->winner ? a->winner < b->winner : a->loser < b->loser;
}

static void keep_widest(pairing *p, size_t n)
{
    for (size_t k = 0; k < n && k < p->n_pairs; k++)
        for (size_t j = k + 1; j < p->n_pairs; j++)
            if (is_wider(&p->pairs[j], &p->pairs[k])) {
                const stm_pair wider = p->pairs[j];
                p->pairs[j] = p->pairs[k];
                p->pairs[k] = wider;
            }
    p->n_pairs = STM_MIN(p->n_pairs, n);
}

static stm_pairing pairing_of(const stm_objective_options *o, stm_pairing usual)
{
    return o->pairing == STM_PAIRING_AUTO ? usual : o->pairing;
}

static double label_of(const stm_objective_options *o, const stm_group *group, const stm_pair *pair)
{
    switch (o->label) {
    case STM_LABEL_ORACLE:
        return preference(o, group, pair->winner, pair->loser);
    case STM_LABEL_BT:
        return stm_sigmoid(o->label_scale * pair->margin);
    case STM_LABEL_HARD:
        break;
    }
    return 1.0;
}

/* Of a work array: scores, members, pairs. */
_Static_assert(sizeof(size_t) <= sizeof(double), "members fit in as many numbers");
enum { NUMBERS_OF_PAIR = (sizeof(stm_pair) + sizeof(double) - 1) / sizeof(double) };

size_t stm_pairs_n_work(const stm_group *group)
{
    const size_t n = group->n_responses;
    return 2 * n + n * (n - 1) / 2 * NUMBERS_OF_PAIR; /* of two, one wins */
}

size_t stm_make_pairs(const stm_objective_options *o, stm_pairing usual, const stm_group *group, double *work,
                      const stm_pair **pairs)
{
    const size_t n = group->n_responses;
    size_t *members = (size_t *)(work + n);
    pairing p = {.group = group, .u = work, .members = members, .pairs = (stm_pair *)(work + 2 * n)};
    for (size_t i = 0; i < n; i++)
        work[i] = stm_score_of(o, group, i);
    p.n = list_members(o, group, members);
    switch (pairing_of(o, usual)) {
    case STM_PAIRING_AUTO:
    case STM_PAIRING_BEST_WORST:
        best_with_worst(&p, o->pair_margin);
        break;
    case STM_PAIRING_ALL:
        all_that_differ(&p, o->pair_margin);
        if (o->max_pairs > 0)
            keep_widest(&p, (size_t)o->max_pairs);
        break;
    case STM_PAIRING_EVERY:
        every_two(&p);
        break;
    case STM_PAIRING_HALVES:
        halves(&p);
        break;
    case STM_PAIRING_ORIGIN:
        policy_with_other(&p);
        break;
    }
    for (size_t k = 0; k < p.n_pairs; k++)
        p.pairs[k].q = label_of(o, group, &p.pairs[k]);
    *pairs = p.pairs;
    return p.n_pairs;
}

void stm_count_pairs(stm_objective_batch *b)
{
    stm_totals *totals = &b->totals;
    for (size_t g = 0; g < b->batch->n_groups; g++) {
        const stm_pair *pairs;
        const size_t n = stm_make_pairs(b->options, b->objective->usual_pairing, &b->batch->groups[g], b->work, &pairs);
        totals->n_pairs += n;
        totals->n_paired_groups += n > 0;
        for (size_t k = 0; k < n; k++)
            totals->n_chosen_tokens += b->n_masked[b->response_0[g] + pairs[k].winner];
    }
}

double stm_pair_weight(const stm_objective_options *o, const stm_totals *totals, size_t n_pairs)
{
    return o->pair_aggregate == STM_PAIR_MEAN ? 1.0 / (double)totals->n_pairs
                                              : 1.0 / ((double)totals->n_paired_groups * (double)n_pairs);
}

unsigned stm_oracle_needs(const stm_objective_options *o)
{
    return o->oracle == STM_ORACLE_RECORDED ? STM_NEEDS_PREFERENCES : STM_NEEDS_REWARDS;
}

unsigned stm_pairs_needs(const stm_objective_options *o, stm_pairing usual)
{
    unsigned needs = o->score == STM_SCORE_WIN_RATE ? stm_oracle_needs(o) : STM_NEEDS_REWARDS;
    needs |= o->label == STM_LABEL_ORACLE ? stm_oracle_needs(o) : 0;
    needs |= o->pair_filter > 0 ? STM_NEEDS_REWARDS : 0;
    return needs | (pairing_of(o, usual) == STM_PAIRING_ORIGIN ? STM_NEEDS_ORIGINS : 0);
}

stm_status stm_check_pairs(const stm_objective_options *o, stm_pairing usual, bool soft_labels)
{
    const bool every = pairing_of(o, usual) == STM_PAIRING_EVERY;
    if (o->score == STM_SCORE_LOGL || o->score == STM_SCORE_LRATIO)
        return stm_fail(STM_ERR_INPUT, "objective.score: found %s, expected auto, reward or win_rate with pairs",
                        o->score == STM_SCORE_LOGL ? "logl" : "lratio");
    if (!soft_labels && o->label != STM_LABEL_HARD)
        return stm_fail(STM_ERR_INPUT, "objective.label: found %s, expected hard, or loss sigmoid or ipo of dpo",
                        o->label == STM_LABEL_ORACLE ? "oracle" : "bt");
    if (every && usual != STM_PAIRING_EVERY && !soft_labels)
        return stm_fail(STM_ERR_INPUT,
                        "objective.pairing: found every, expected auto, best_worst, all, halves or origin: "
                        "soft labels for every pair are for losses sigmoid and ipo of dpo");
    if (every && usual != STM_PAIRING_EVERY && o->label == STM_LABEL_HARD)
        return stm_fail(STM_ERR_INPUT,
                        "objective.label: found hard, expected oracle or bt with objective.pairing=every");
    return STM_OK;
}

stm_status stm_check_beta(const stm_objective_options *o)
{
    if (o->beta > 0)
        return STM_OK;
    return stm_fail(STM_ERR_INPUT, "objective.beta: found 0, expected a number above 0 with objective.name=%s",
                    o->name);
}
