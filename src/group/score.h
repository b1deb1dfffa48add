/* src/group/score.h: log-probs of a whole batch, and the gradient of an objective over it. */
#ifndef STM_GROUP_SCORE_H
#define STM_GROUP_SCORE_H

#include "group/engine.h"
#include "objective/objective.h"

/* One number for each token of each response: those of response i of group g begin at first[response_0[g] + i]. */
typedef struct {
    size_t n_tokens;
    size_t *response_0; /* [n_groups] */
    size_t *first;      /* [n_responses + 1] */
    double *logp, *entropy;
} stm_scores;
void stm_scores_clear(stm_scores *scores);

/* Log-prob and entropy of every token at its group's temperature, the same on every rank, masked tokens too. The caller
 * clears *out, also after a failure. Collective over the engine's world; same status everywhere. Fails: STM_ERR_NUMERIC
 * and what the engine says. */
stm_status stm_score_batch(stm_engine *engine, const stm_grid *grid, const stm_batch *batch, stm_scores *out);

/* Loss and gradient of an objective over a batch; its sums and means run over the whole of it. An objective that
 * couples tokens (its scope) has one forward of the batch without gradient first. Groups that stm_objective_skips_equal
 * names are not computed. `gradient` [n_parameters]: this rank's part is added. *sums: over all ranks. Collective; same
 * status everywhere. Fails: STM_ERR_INPUT where the batch lacks what the objective needs, STM_ERR_NUMERIC, and what the
 * engine says. */
stm_status stm_objective_gradient(stm_engine *engine, const stm_grid *grid, const stm_batch *batch,
                                  const stm_objective *objective, const stm_objective_options *options, void *gradient,
                                  stm_objective_sums *sums);

/* True if all rewards of the group are equal: no advantage, nothing to learn. */
bool stm_group_is_equal(const stm_group *group);

#endif
