#include "train/clusters.h"

#include <stdlib.h>

#include "objective/objective.h"

stm_status stm_clusters_create(const stm_policy *policy, stm_answers **out)
{
    const stm_options *o = policy->options;
    *out = NULL;
    if (!(stm_objective_find(o->objective.name)->needs(&o->objective) & STM_NEEDS_CLUSTERS))
        return STM_OK;
    if (!policy->tokenizer)
        return stm_fail(STM_ERR_INPUT,
                        "objective.seed_alpha: compares texts, which responses have not: the model has no "
                        "tokenizer.json");
    return stm_answers_create(o->rollout.answer, o->rollout.answer_extract, out);
}

static stm_status cluster_here(const stm_answers *answers, const stm_verdicts *v, const stm_batch *batch,
                               int64_t *clusters)
{
    for (size_t g = 0, at = 0; g < batch->n_groups; at += batch->groups[g++].n_responses)
        STM_TRY(stm_answers_cluster(answers, batch->groups[g].n_responses, (const char *const *)(v->texts + at),
                                    clusters + at));
    return STM_OK;
}

static stm_status hand_out(const int64_t *clusters, stm_batch *batch)
{
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++) {
            stm_response *response = &batch->groups[g].responses[i];
            STM_TRY(stm_response_take_notes(response));
            response->notes->cluster = *clusters++;
            response->notes->has_cluster = true;
        }
    return STM_OK;
}

stm_status stm_cluster_answers(const stm_policy *policy, const stm_answers *answers, const stm_verdicts *v,
                               stm_batch *batch)
{
    const stm_grid *grid = policy->grid;
    int64_t *clusters = NULL; /* [v->n] */
    if (!answers)
        return STM_OK;
    stm_status status = stm_alloc(v->n, sizeof *clusters, &clusters);
    if (status == STM_OK && grid->rank == 0)
        status = cluster_here(answers, v, batch, clusters);
    status = stm_agree(grid, status);
    if (status == STM_OK) {
        stm_broadcast(grid->world, 0, clusters, v->n * sizeof *clusters);
        status = stm_agree(grid, hand_out(clusters, batch));
    }
    free(clusters);
    return status;
}
