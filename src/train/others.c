#include "train/others.h"

#include <stdlib.h>
#include <string.h>

#include "model/layout.h"
#include "model/stages.h"

struct stm_others {
    stm_parameter_set *reference;
    double share;
    stm_mixture mixture; /* engine NULL: the reference or the policy samples alone */
    stm_model model;
};

bool stm_others_mix(const stm_options *options)
{
    return options->reference.samples > 0 && options->reference.mixture > 0 && options->reference.mixture < 1;
}

size_t stm_others_bytes(const stm_options *options, const stm_model *model)
{
    return stm_others_mix(options) ? stm_model_weights_bytes(model) : 0;
}

/* The reference's weights, whole, and an engine. Collective. */
static stm_status take_model(stm_others *o, const stm_policy *policy)
{
    STM_TRY(stm_parameter_set_exchange(o->reference));
    stm_status status = stm_agree(policy->grid, stm_model_share(policy->model, &o->model));
    const stm_status restored = stm_parameter_set_exchange(o->reference);
    STM_TRY(restored == STM_OK ? status : restored);
    status = stm_engine_create(&o->model, policy->grid, policy->options, stm_engine_static_bytes(policy->engine),
                               &o->mixture.engine);
    o->mixture.model = &o->model;
    o->mixture.share = o->share;
    return stm_agree(policy->grid, status);
}

stm_status stm_others_create(const stm_policy *policy, stm_parameter_set *reference, double mixture, stm_others **out)
{
    stm_others *o;
    STM_TRY(stm_agree(policy->grid, stm_alloc(1, sizeof *o, &o)));
    *o = (stm_others){.reference = reference, .share = mixture};
    const stm_status status = mixture > 0 && mixture < 1 ? take_model(o, policy) : STM_OK;
    if (status != STM_OK) {
        stm_others_destroy(o);
        return status;
    }
    *out = o;
    return STM_OK;
}

void stm_others_destroy(stm_others *others)
{
    if (!others)
        return;
    stm_engine_destroy(others->mixture.engine);
    stm_model_unshare(&others->model);
    free(others);
}

/* The responses of `others` become the last of a group. */
static stm_status join(stm_group *group, stm_group *others)
{
    stm_response *responses = realloc(group->responses, (group->n_responses + others->n_responses) * sizeof *responses);
    if (!responses)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    group->responses = responses;
    for (size_t i = 0; i < others->n_responses; i++) {
        STM_TRY(stm_response_take_notes(&others->responses[i]));
        others->responses[i].notes->other_origin = true;
    }
    memcpy(responses + group->n_responses, others->responses, others->n_responses * sizeof *responses);
    group->n_responses += others->n_responses;
    others->n_responses = 0;
    return STM_OK;
}

static stm_status join_all(stm_batch *batch, stm_batch *others)
{
    for (size_t g = 0; g < batch->n_groups; g++)
        STM_TRY(join(&batch->groups[g], &others->groups[g]));
    return STM_OK;
}

static stm_status roll_out(const stm_policy *policy, const stm_sampling *sampling, stm_batch *batch,
                           stm_rollout_counts *counts)
{
    return stm_rollout(policy->engine, policy->model, policy->grid, sampling, batch, counts);
}

/* The reference in the policy's place. */
static stm_status roll_out_reference(stm_parameter_set *reference, const stm_policy *policy,
                                     const stm_sampling *sampling, stm_batch *batch, stm_rollout_counts *counts)
{
    STM_TRY(stm_parameter_set_exchange(reference));
    const stm_status status = roll_out(policy, sampling, batch, counts);
    const stm_status restored = stm_parameter_set_exchange(reference);
    return restored == STM_OK ? status : restored; /* worse than a number that is not finite */
}

/* Both; what the policy's engine was set to, a calibration maybe, holds for the other. */
static stm_status roll_out_mixture(const stm_mixture *mixture, const stm_policy *policy, stm_sampling *sampling,
                                   stm_batch *batch, stm_rollout_counts *counts)
{
    *stm_engine_settings_of(mixture->engine) = *stm_engine_settings_of(policy->engine);
    sampling->mixture = mixture;
    return roll_out(policy, sampling, batch, counts);
}

stm_status stm_others_roll_out(stm_others *o, const stm_policy *policy, const stm_sampling *sampling, size_t n,
                               stm_batch *batch, stm_rollout_counts *counts)
{
    stm_sampling own = *sampling;
    stm_batch others = {0};
    stm_status status;
    own.group_size = n;
    own.use = STM_RANDOM_OTHERS;
    STM_GOTO_OUT(stm_agree(policy->grid, stm_batch_copy_prompts(batch, &others)));
    if (o->mixture.engine)
        STM_GOTO_OUT(roll_out_mixture(&o->mixture, policy, &own, &others, counts));
    else if (o->share == 1)
        STM_GOTO_OUT(roll_out_reference(o->reference, policy, &own, &others, counts));
    else
        STM_GOTO_OUT(roll_out(policy, &own, &others, counts));
    STM_GOTO_OUT(stm_agree(policy->grid, join_all(batch, &others)));
out:
    stm_batch_clear(&others);
    return status;
}
