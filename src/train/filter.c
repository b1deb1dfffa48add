#include "train/filter.h"

#include <stdlib.h>

#include "rollout/rollout.h"
#include "train/batch.h"

void stm_filter_clear(stm_filter *filter)
{
    free(filter->which);
    stm_prompts_unselect(&filter->items);
    *filter = (stm_filter){0};
}

bool stm_filter_keeps(const stm_group *group, double min_reward)
{
    for (size_t i = 0; i < group->n_responses; i++)
        if (group->responses[i].has_reward && group->responses[i].reward > min_reward)
            return true;
    return false;
}

/* Prompts which[0..n), the first of them number `first` of the set; those that stay are added to the filter. */
static stm_status ask(const stm_policy *policy, stm_reward_set *rewards, const stm_prompt_set *set, const size_t *which,
                      size_t n, stm_filter *filter)
{
    stm_batch batch = {0};
    stm_verdicts verdicts = {0};
    stm_sampling sampling;
    stm_status status;
    STM_GOTO_OUT(stm_agree(policy->grid, stm_batch_of_prompts(&set->prompts, which, n, &batch)));
    stm_sampling_init(policy->options, policy->model, policy->tokenizer, STM_RANDOM_FILTER, which[0], &sampling);
    sampling.group_size = (size_t)policy->options->data.filter_samples;
    sampling.watch = policy->watch;
    stm_environment_join(policy->environment, &set->prompts, which, &sampling);
    STM_GOTO_OUT(stm_rollout(policy->engine, policy->model, policy->grid, &sampling, &batch, NULL));
    if (stm_watch_leaves(policy->watch))
        goto out;
    STM_GOTO_OUT(stm_judge(policy, rewards, set, which, &batch, false, &verdicts));
    if (stm_watch_leaves(policy->watch))
        goto out;
    for (size_t g = 0; g < n; g++)
        if (stm_filter_keeps(&batch.groups[g], policy->options->replay.min_reward))
            filter->which[filter->n++] = which[g];
out:
    stm_verdicts_clear(&verdicts);
    stm_batch_clear(&batch);
    return status;
}

static stm_status ask_all(const stm_policy *policy, stm_reward_set *rewards, const stm_prompt_set *set, size_t *which,
                          stm_filter *filter)
{
    const size_t n_all = set->prompts.n, batch_n = (size_t)policy->options->rollout.prompts_per_step;
    for (size_t first = 0; first < n_all; first += batch_n) {
        const size_t n = STM_MIN(batch_n, n_all - first);
        for (size_t i = 0; i < n; i++)
            which[i] = first + i;
        STM_TRY(ask(policy, rewards, set, which, n, filter));
        if (stm_watch_leaves(policy->watch))
            return STM_OK;
    }
    filter->known = true;
    return STM_OK;
}

stm_status stm_filter_find(const stm_policy *policy, stm_reward_set *rewards, const stm_prompt_set *set,
                           stm_filter *filter)
{
    const stm_options *o = policy->options;
    size_t *which = NULL;
    stm_status status = stm_alloc((size_t)o->rollout.prompts_per_step, sizeof *which, &which);
    filter->n = 0;
    free(filter->which);
    filter->which = NULL;
    if (status == STM_OK)
        status = stm_alloc(set->prompts.n, sizeof *filter->which, &filter->which);
    status = stm_agree(policy->grid, status);
    if (status == STM_OK)
        status = ask_all(policy, rewards, set, which, filter);
    free(which);
    if (status == STM_OK && filter->known && filter->n == 0)
        status = stm_fail(STM_ERR_INPUT,
                          "data.filter_samples: %s: none of %zu prompts has a response with a reward above %g in %lld",
                          set->path, set->prompts.n, o->replay.min_reward, (long long)o->data.filter_samples);
    return status;
}

stm_status stm_filter_select(stm_filter *filter, const stm_prompt_set *set, stm_prompt_set *out)
{
    stm_prompts_unselect(&filter->items);
    STM_TRY(stm_prompts_select(&set->prompts, filter->which, filter->n, &filter->items));
    *out = (stm_prompt_set){.path = set->path, .prompts = filter->items, .present = true};
    return STM_OK;
}

stm_status stm_filter_save(const stm_filter *filter, size_t n_prompts, stm_kept *out)
{
    if (!filter->known)
        return STM_OK;
    STM_TRY(stm_kept_put_number(out, n_prompts));
    for (size_t i = 0; i < filter->n; i++)
        STM_TRY(stm_kept_put_number(out, filter->which[i]));
    return STM_OK;
}

stm_status stm_filter_restore(stm_filter *filter, const char *where, const stm_kept *kept, size_t n_prompts)
{
    static const char what[] = "%s: /kept/filter: found %s, expected numbers of %zu prompts";
    stm_kept_reader reader = {kept->bytes, kept->n};
    uint64_t n, which;
    if (kept->n == 0)
        return STM_OK;
    if (!stm_kept_take_number(&reader, &n) || n != n_prompts)
        return stm_fail(STM_ERR_INPUT, what, where, "those of another set", n_prompts);
    STM_TRY(stm_alloc(n_prompts, sizeof *filter->which, &filter->which));
    while (filter->n < n_prompts && stm_kept_take_number(&reader, &which)) {
        if (which >= n_prompts)
            break;
        filter->which[filter->n++] = (size_t)which;
    }
    filter->known = reader.n == 0 && filter->n > 0;
    return filter->known ? STM_OK : stm_fail(STM_ERR_INPUT, what, where, "other bytes", n_prompts);
}
