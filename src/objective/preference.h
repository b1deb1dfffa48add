/* src/objective/preference.h: what the objectives on preferences share: pairs of a group, win rates, log-probs of whole
 * responses. For src/objective alone.
 *
 * A response without a token with loss takes part in nothing. S: sum of a row's log-probs over a response's tokens with
 * loss; what is masked has no effect, whatever it is. sp(x) = log(1 + e^x), s(x) = 1 / (1 + e^-x). */
#ifndef STM_OBJECTIVE_PREFERENCE_H
#define STM_OBJECTIVE_PREFERENCE_H

#include "objective/registry.h"

typedef struct {
    size_t winner, loser;
    double margin, q; /* difference of scores; probability that the winner is better */
} stm_pair;

/* Pairs (pairs.c) */

bool stm_is_other(const stm_response *response); /* sampled by another model than the policy */

/* Mean probability that response i beats the group's others, or only those of other models; 1/2 without any. */
double stm_win_rate(const stm_objective_options *options, const stm_group *group, size_t i, bool against_other);

/* Reward or win rate of a response, as objective.score says. */
double stm_score_of(const stm_objective_options *options, const stm_group *group, size_t i);

/* The group's pairs, in work [stm_pairs_n_work]; usual: what pairing=auto stands for. */
size_t stm_make_pairs(const stm_objective_options *options, stm_pairing usual, const stm_group *group, double *work,
                      const stm_pair **pairs);
size_t stm_pairs_n_work(const stm_group *group);

/* stm_objective.prepare: adds the pairs of all groups to the totals. */
void stm_count_pairs(stm_objective_batch *batch);

/* Weight of a pair of a group that has so many. */
double stm_pair_weight(const stm_objective_options *options, const stm_totals *totals, size_t n_pairs);

unsigned stm_pairs_needs(const stm_objective_options *options, stm_pairing usual);
unsigned stm_oracle_needs(const stm_objective_options *options);
stm_status stm_check_pairs(const stm_objective_options *options, stm_pairing usual, bool soft_labels);
stm_status stm_check_beta(const stm_objective_options *options); /* above 0 */

/* Whole responses (sequence.c) */

double stm_softplus(double x);
double stm_sigmoid(double x);

/* S of log-probs `row` [t->n], or of a copy of the model; 0 where it was not recorded. */
double stm_sum_of(const stm_tokens *t, const double *row);
const double *stm_row_of(const stm_tokens *t, stm_row row);

/* log(policy / policy when sampled) of the response, held within [-20, 20] and counted; *slope: its derivative by S. */
double stm_sequence_log_ratio(const stm_tokens *t, double *slope, stm_objective_sums *sums);

/* dlogp += factor, at each token with loss. */
void stm_add_to_tokens(const stm_tokens *t, double factor);

/* Statistics of a response with all its tokens, and of a pair; z > 0: the policy orders it as the label does. */
void stm_observe_response(const stm_tokens *t, stm_objective_sums *sums);
void stm_observe_pair(const stm_tokens *winner, const stm_tokens *loser, double z, stm_objective_sums *sums);

/* log(policy / reference) of a response; 0 where no reference was recorded. */
double stm_h_of(const stm_tokens *t);

/* Score-function term K of KL(policy || row) for a response sampled from the policy, h = S - S^row, constants in sg():
 *
 *   token  sum_t sg(logp - row) logp | sequence  sg(h) S | sequence-loo  sg(h - mean of the others' h) S
 *
 * Adds factor K to the gradient and returns it. mean_of_others: 0 for the other forms. */
double stm_add_kl_term(stm_kl_form form, const stm_tokens *t, const double *row, double mean_of_others, double factor);

/* For each response of a group that the policy sampled, the mean h of the others that it sampled; out [n]. */
void stm_mean_h_of_others(size_t n, const stm_tokens *views, stm_row row, double *out);

#endif
