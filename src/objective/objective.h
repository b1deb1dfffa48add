/* src/objective/objective.h: objectives, and the one registry of them.
 *
 * An objective is a pure function of one group: no MPI, no allocation, no globals. It declares its scope, so that the
 * engine can call it as early as it may: a token objective on any token range of one response. Loss is minimised; the
 * batch's loss is the sum over groups. Local. */
#ifndef STM_OBJECTIVE_OBJECTIVE_H
#define STM_OBJECTIVE_OBJECTIVE_H

#include "config/options.h"
#include "data/groups.h"

/* What is known of the whole batch before backward. */
typedef struct {
    size_t n_groups, n_responses, n_tokens; /* responses: empty and fully masked ones too; tokens: with loss */
} stm_totals;

/* Tokens [first, first + n) of one response. logp, entropy: of this forward; old may be NULL: ratio 1 with gradient.
 * dlogp: += . */
typedef struct {
    size_t n;
    const double *logp, *entropy, *old, *ref;
    const uint8_t *mask;
    double *dlogp;
} stm_tokens;

/* Sums over tokens with loss; added over ranges, ranks and groups. All plain sums, so that any split gives the same. */
typedef struct {
    double loss, n_tokens, n_clipped, kl_k3, entropy, ratio_minus_one_minus_log, logp_difference_max;
} stm_objective_sums; /* logp_difference_max is a maximum */

typedef enum { STM_SCOPE_TOKEN, STM_SCOPE_RESPONSE, STM_SCOPE_GROUP } stm_scope;

typedef struct {
    const char *name, *summary;
    stm_scope scope;
    bool needs_rewards;
    /* Advantage of each response of a group from its rewards: advantage [n_responses]. */
    void (*advantages)(const stm_objective_options *options, size_t n_responses, const double *rewards,
                       double *advantage);
    /* Adds loss and dlogp of one token range. `weight`: c of the aggregation, stm_objective_weight. */
    void (*tokens)(const stm_objective_options *options, double advantage, double weight, const stm_tokens *tokens,
                   stm_objective_sums *sums);
} stm_objective;

/* NULL when there is none of that name; stm_objective_names lists them for messages. */
const stm_objective *stm_objective_find(const char *name);
size_t stm_objective_names(const char *const **names);

/* Fails: STM_ERR_INPUT "objective.name: found .., expected .. or ..; did you mean ..?" for a name that is not
 * registered. */
stm_status stm_objective_check_name(const char *name);

/* The factor of every token of one response with n_masked tokens that have loss (0 when n_masked is 0): 1/(n_responses
 * n_masked), 1/n_tokens or 1/(n_responses max_tokens). */
double stm_objective_weight(const stm_objective_options *options, const stm_totals *totals, size_t n_masked);

/* Totals of a batch. */
void stm_totals_of(const stm_batch *batch, stm_totals *totals);

#endif
