/* Leaving out responses with hardly any advantage: LOOP, arXiv:2502.01600. Their rewards have done their part in the
 * advantages of the others; what stays of them is their place in the number of responses. */
#include <math.h>

#include "objective/registry.h"

stm_status stm_objective_check_drop(const stm_objective_options *o)
{
    static const char message[] = "objective.min_advantage: found %g with %s, expected 0: %s";
    if (o->min_advantage == 0.0)
        return STM_OK;
    const char *which = o->advantage_scale == STM_SCALE_WHITEN ? "objective.advantage_scale=whiten"
                        : (o->kl_coef != 0.0 || o->kl_coef_start != 0.0) && o->kl_in != STM_KL_IN_LOSS
                            ? "a KL term in the reward"
                        : o->seed_alpha != 0.0 ? "objective.seed_alpha"
                                               : NULL;
    /* The others' advantages would change with the tokens that are taken out. */
    return which ? stm_fail(STM_ERR_INPUT, message, o->min_advantage, which,
                            "advantages are made of tokens with loss there")
                 : STM_OK;
}

static bool is_small(const stm_objective_batch *b, size_t r, double least)
{
    const size_t first = b->by_token ? b->first_token[r] : r, end = b->by_token ? b->first_token[r + 1] : r + 1;
    for (size_t k = first; k < end; k++)
        if (!(fabs(b->advantages[k]) < least)) /* what is not a number must be seen */
            return false;
    return true;
}

stm_status stm_objective_drop(const stm_objective *objective, const stm_objective_options *options, stm_batch *batch,
                              size_t *n)
{
    stm_objective_batch view;
    *n = 0;
    if (options->min_advantage == 0.0)
        return STM_OK;
    const stm_status status = stm_objective_batch_create(objective, options, batch, &view);
    for (size_t g = 0, r = 0; status == STM_OK && g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++, r++) {
            if (view.n_masked[r] == 0 || !is_small(&view, r, options->min_advantage))
                continue;
            for (size_t k = 0; k < batch->groups[g].responses[i].n; k++)
                batch->groups[g].responses[i].mask[k] = 0;
            ++*n;
        }
    stm_objective_batch_clear(&view);
    return status;
}
