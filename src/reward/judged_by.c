#include "reward/judged_by.h"

#include <jansson.h>
#include <string.h>

static stm_status mark(const stm_reward_item *items, size_t n, const json_t *name, size_t place, bool *judges)
{
    bool found = false;
    for (size_t i = 0; i < n && json_is_string(name); i++)
        if (strcmp(items[i].kind->name, json_string_value(name)) == 0)
            found = judges[i] = true;
    if (found)
        return STM_OK;
    return stm_fail(STM_ERR_INPUT, "judged_by[%zu]: found %s, expected the name of a reward of the input file", place,
                    json_is_string(name) ? json_string_value(name) : "no text");
}

stm_status stm_reward_judged_by(const stm_reward_item *items, size_t n, const char *fields_json, bool *judges)
{
    stm_status status = STM_OK;
    const bool may_name = fields_json && strstr(fields_json, "\"judged_by\""); /* most lines are not worth reading */
    json_t *fields = may_name ? json_loads(fields_json, 0, NULL) : NULL, *name;
    const json_t *names = json_object_get(fields, "judged_by");
    size_t place;
    for (size_t i = 0; i < n; i++)
        judges[i] = !names;
    if (names && !json_is_array(names))
        status = stm_fail(STM_ERR_INPUT, "judged_by: expected a list of names of rewards");
    json_array_foreach(names, place, name)
    {
        STM_GOTO_OUT(mark(items, n, name, place, judges));
    }
out:
    json_decref(fields);
    return status;
}
