#include "objective/recorded.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/cases.h"
#include "objective/objective.h"

static stm_status no_memory(void)
{
    return stm_fail(STM_ERR_MEMORY, "out of memory");
}

/* objective.KEY=VALUE for each member; JSON is YAML. null leaves the default. */
static stm_status set_options(const json_t *values, stm_options *options)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)values, key, value)
    {
        char *argument, *text;
        if (json_is_null(value))
            continue;
        text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
        if (!text)
            return no_memory();
        stm_status status = stm_format(&argument, "objective.%s=%s", key, text);
        free(text);
        STM_TRY(status);
        status = stm_options_read_arguments(options, STM_COMMAND_GRAD, 1, &argument);
        free(argument);
        STM_TRY(status);
    }
    return STM_OK;
}

stm_status stm_recorded_options(const json_t *document, const json_t *one, stm_options *options)
{
    const char *name = json_string_value(json_object_get(one, "objective"));
    json_t *named = json_pack("{s:s}", "name", name ? name : "");
    if (!named)
        return no_memory();
    stm_status status = set_options(named, options);
    json_decref(named);
    STM_TRY(status);
    STM_TRY(stm_objective_check_name(options->objective.name));
    if (strcmp(name, "grpo") == 0)
        STM_TRY(set_options(json_object_get(document, "defaults"), options));
    return set_options(json_object_get(one, "options"), options);
}

static stm_status append(json_t *list, json_t *value)
{
    return value && json_array_append_new(list, value) == 0 ? STM_OK : no_memory();
}

/* JSON has no NaN: null. */
static json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static stm_status list_gradients(const stm_batch *batch, const double *dlogp, json_t *groups)
{
    for (size_t g = 0; g < batch->n_groups; g++) {
        STM_TRY(append(groups, json_array()));
        for (size_t i = 0; i < batch->groups[g].n_responses; i++) {
            STM_TRY(append(json_array_get(groups, g), json_array()));
            json_t *list = json_array_get(json_array_get(groups, g), i);
            for (size_t k = 0; k < batch->groups[g].responses[i].n; k++)
                STM_TRY(append(list, number(*dlogp++)));
        }
    }
    return STM_OK;
}

static stm_status evaluate(const stm_options *options, const stm_batch *batch, const double *logp, json_t *entry)
{
    const stm_objective *objective = stm_objective_find(options->objective.name);
    if (stm_objective_weighs_tokens(objective, &options->objective))
        return stm_fail(STM_ERR_INPUT,
                        "objective.token_weight_alpha: found %g, expected 0 (token_weights, if any): "
                        "weights need a model's distributions",
                        options->objective.token_weight_alpha);
    stm_objective_batch view = {0};
    stm_objective_sums sums = {0};
    double *dlogp = NULL;
    stm_status status;
    STM_GOTO_OUT(stm_objective_batch_create(objective, &options->objective, batch, &view));
    STM_GOTO_OUT(stm_alloc(view.n_tokens, sizeof *dlogp, &dlogp));
    stm_objective_collect(&view, logp);
    for (size_t g = 0; g < batch->n_groups; g++)
        stm_objective_group(&view, g, logp, NULL, dlogp, &sums);
    json_t *groups = json_array();
    if (!groups || json_object_set_new(entry, "loss", number(sums.loss)) != 0 ||
        json_object_set_new(entry, "dlogp", groups) != 0)
        status = no_memory();
    else
        status = list_gradients(batch, dlogp, groups);
out:
    stm_objective_batch_clear(&view);
    free(dlogp);
    return status;
}

stm_status stm_recorded_evaluate(const json_t *document, const json_t *one, json_t *entry)
{
    stm_options options;
    stm_batch batch = {0};
    double *logp = NULL;
    stm_status status;
    STM_TRY(stm_options_init(&options));
    STM_GOTO_OUT(stm_recorded_options(document, one, &options));
    STM_GOTO_OUT(stm_case_read(document, one, &batch, &logp));
    STM_GOTO_OUT(evaluate(&options, &batch, logp, entry));
out:
    stm_options_clear(&options);
    stm_batch_clear(&batch);
    free(logp);
    return status;
}
