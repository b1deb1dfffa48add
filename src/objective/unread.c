/* Which objective reads which options: each row of the registry lists its own. What is set and not read would do
 * nothing, and a run with it would be taken for another method; so it is refused. Values count, not whether they were
 * given: an input file of a run folder gives all of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "objective/registry.h"

/* Read of responses before any objective sees them. */
static const char *const read_by_all[] = {"name", "mask_truncated", "mask_after", NULL};

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

/* "a", "a and b", "a, b and c" of the registered objectives that read the key, or that do not. Returns their number. */
static size_t list(const char *key, bool read, const char *last_comma, char *text, size_t size)
{
    const char *const *names, *chosen[STM_MOST_OBJECTIVES];
    const size_t n_names = stm_objective_names(&names);
    size_t n = 0, used = 0;
    *text = 0;
    for (size_t i = 0; i < n_names; i++)
        if (stm_objective_reads(stm_objective_find(names[i]), key) == read)
            chosen[n++] = names[i];
    for (size_t i = 0; i < n && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s",
                                 i == 0       ? ""
                                 : i + 1 == n ? last_comma
                                              : ", ",
                                 chosen[i]);
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

static stm_status refuse(const stm_objective_options *o, const stm_changed_option *changed, const char *key)
{
    char readers[256];
    const size_t n = list(key, true, " and ", readers, sizeof readers);
    return stm_fail(STM_ERR_INPUT, "%s: found %s, expected its default, %s, with objective.name=%s: %s %s it",
                    changed->name, changed->value, changed->preset, o->name, readers, n == 1 ? "alone reads" : "read");
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
        const char *key = strchr(changed.name, '.') + 1;
        const stm_status status = stm_objective_reads(objective, key) ? STM_OK : refuse(o, &changed, key);
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
