/* Which objective reads which options: each row of the registry lists its own. What is set and not read would do
 * nothing, and a run with it would be taken for another method; so it is refused. Values count, not whether they were
 * given: an input file of a run folder gives all of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "objective/registry.h"

/* Read of responses before any objective sees them. */
static const char *const read_by_all[] = {"name", "mask_truncated", "mask_after", NULL};

/* Forms of an objective that leave options unread. Coefficients of 0 are none: a sweep may begin there. */
static const stm_option_condition conditions[] = {
    {"whiten_eps", "advantage_scale", {"whiten"}},
    {"budget_probs", "advantage_baseline", {"brpo"}},
    {"max_tokens", "aggregate", {"fixed-length"}},
    {"control_tokens", "aggregate", {"control-split"}},
    {"control_coef", "aggregate", {"control-split"}},
    {"dual_clip", "surrogate", {"clip"}},
    {"clip_low", "surrogate", {"clip", "cispo", "geometric"}},
    {"clip_high", "surrogate", {"clip", "cispo", "geometric"}},
    {"is_level", "is_correction", {"truncate", "mask"}},
    {"is_min", "is_correction", {"truncate", "mask"}},
    {"is_max", "is_correction", {"truncate", "mask"}},
    {"kl_estimator", "kl_in", {"loss"}},
    {"kl_unbiased", "kl_in", {"loss"}},
    {"max_pairs", "pairing", {"all"}},
    {"target_beta", "target", {"exponential"}},
    {"target_threshold", "target", {"constraint"}},
    {"log_z", "normaliser", {"given"}},
};

const stm_option_condition *stm_objective_condition(size_t i)
{
    return i < sizeof conditions / sizeof *conditions ? &conditions[i] : NULL;
}

static bool has(const char *const *keys, const char *key)
{
    for (size_t i = 0; keys[i]; i++)
        if (strcmp(keys[i], key) == 0)
            return true;
    return false;
}

bool stm_objective_reads(const stm_objective *objective, const char *key)
{
    return has(read_by_all, key) || has(objective->reads, key);
}

/* "a", "a and b", "a, b and c" */
static void join(const char *const *words, size_t n, const char *last_comma, char *text, size_t size)
{
    *text = 0;
    for (size_t i = 0, used = 0; i < n && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s",
                                 i == 0       ? ""
                                 : i + 1 == n ? last_comma
                                              : ", ",
                                 words[i]);
}

/* Of the registered objectives that read the key, or that do not. Returns their number. */
static size_t list(const char *key, bool read, const char *last_comma, char *text, size_t size)
{
    const char *const *names, *chosen[STM_MOST_OBJECTIVES];
    const size_t n_names = stm_objective_names(&names);
    size_t n = 0;
    for (size_t i = 0; i < n_names; i++)
        if (stm_objective_reads(stm_objective_find(names[i]), key) == read)
            chosen[n++] = names[i];
    join(chosen, n, last_comma, text, size);
    return n;
}

void stm_objective_readers(const char *name, char *text, size_t size)
{
    static const char section[] = "objective.";
    const char *const *names;
    const size_t n_names = stm_objective_names(&names);
    *text = 0;
    if (strncmp(name, section, sizeof section - 1) != 0)
        return;
    const char *key = name + sizeof section - 1;
    const size_t n = list(key, true, ", ", text, size);
    if (n == n_names)
        *text = 0;
    else if (2 * n > n_names && size > 8)
        list(key, false, " and ", text + snprintf(text, size, "not "), size - 4);
}

/* instead: "objective.name=dpo"; readers [n] that would read the option. */
static stm_status refuse(const stm_changed_option *changed, const char *instead, const char *readers, size_t n)
{
    return stm_fail(STM_ERR_INPUT, "%s: found %s, expected its default, %s, with objective.%s: %s %s it", changed->name,
                    changed->value, changed->preset, instead, readers, n == 1 ? "alone reads" : "read");
}

/* Of an option that the objective reads, under some value of another one. */
static stm_status check_condition(const stm_options *options, const stm_changed_option *changed, const char *key)
{
    stm_status status = STM_OK;
    for (size_t i = 0; status == STM_OK && i < sizeof conditions / sizeof *conditions; i++) {
        const stm_option_condition *c = &conditions[i];
        char name[64], instead[128], readers[128], *value;
        size_t n = 0;
        if (strcmp(c->key, key) != 0)
            continue;
        snprintf(name, sizeof name, "objective.%s", c->of);
        STM_TRY(stm_options_value(options, name, &value));
        while (c->values[n])
            n++;
        snprintf(instead, sizeof instead, "%s=%s", c->of, value);
        join(c->values, n, " and ", readers, sizeof readers);
        status = has(c->values, value) ? STM_OK : refuse(changed, instead, readers, n);
        free(value);
    }
    return status;
}

static stm_status check_one(const stm_options *options, const stm_objective *objective,
                            const stm_changed_option *changed)
{
    const char *key = strchr(changed->name, '.') + 1;
    char readers[256], instead[64];
    if (stm_objective_reads(objective, key))
        return check_condition(options, changed, key);
    const size_t n = list(key, true, " and ", readers, sizeof readers);
    snprintf(instead, sizeof instead, "name=%s", objective->name);
    return refuse(changed, instead, readers, n);
}

stm_status stm_objective_check_unread(const stm_options *options)
{
    const stm_objective_options *o = &options->objective;
    const stm_objective *objective = stm_objective_find(o->name);
    stm_changed_option changed = {0};
    for (size_t row = 0;;) {
        STM_TRY(stm_options_next_changed(options, "objective", &row, &changed));
        if (!changed.name)
            break;
        const stm_status status = check_one(options, objective, &changed);
        stm_changed_option_clear(&changed);
        STM_TRY(status);
    }
    if (o->kl_coef_start != 0.0 && o->kl_coef_steps == 0)
        return stm_fail(STM_ERR_INPUT,
                        "objective.kl_coef_start: found %g, expected 0, or objective.kl_coef_steps above 0: the steps "
                        "in which it goes to kl_coef",
                        o->kl_coef_start);
    return STM_OK;
}
