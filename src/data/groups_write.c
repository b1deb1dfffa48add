#include "data/groups_file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static stm_status no_memory(void)
{
    return stm_fail(STM_ERR_MEMORY, "out of memory");
}

/* The object takes over `value`, also when this fails. */
static stm_status set(json_t *object, const char *key, json_t *value)
{
    return value && json_object_set_new(object, key, value) == 0 ? STM_OK : no_memory();
}

static stm_status set_integers(json_t *object, const char *key, const int32_t *ids, const uint8_t *bits, size_t n)
{
    json_t *array = json_array();
    for (size_t k = 0; array && k < n; k++)
        if (json_array_append_new(array, json_integer(ids ? ids[k] : bits[k])) != 0) {
            json_decref(array);
            return no_memory();
        }
    return set(object, key, array);
}

static stm_status set_double(json_t *object, const char *key, double number)
{
    if (!isfinite(number))
        return stm_fail(STM_ERR_NUMERIC, "%s: found %g, which JSON cannot hold", key, number);
    return set(object, key, json_real(number));
}

static stm_status set_doubles(json_t *object, const char *key, const double *numbers, size_t n)
{
    if (!numbers)
        return STM_OK;
    json_t *array = json_array();
    for (size_t k = 0; array && k < n; k++) {
        if (isfinite(numbers[k]) && json_array_append_new(array, json_real(numbers[k])) == 0)
            continue;
        json_decref(array);
        return isfinite(numbers[k])
                   ? no_memory()
                   : stm_fail(STM_ERR_NUMERIC, "%s[%zu]: found %g, which JSON cannot hold", key, k, numbers[k]);
    }
    return set(object, key, array);
}

/* Byte-level tokens may end in the middle of a character: such a text is shown with replacement characters. */
static stm_status set_text(json_t *object, const char *text)
{
    stm_string valid = {0};
    stm_status status = stm_utf8_repair(text, strlen(text), &valid);
    if (status == STM_OK)
        status = set(object, "text", json_stringn(valid.n ? valid.bytes : "", valid.n));
    free(valid.bytes);
    return status;
}

static stm_status fill_response(json_t *object, const stm_response *response, const char *text)
{
    if (text)
        STM_TRY(set_text(object, text));
    STM_TRY(set_integers(object, "ids", response->ids, NULL, response->n));
    if (response->n && memchr(response->mask, 0, response->n))
        STM_TRY(set_integers(object, "mask", NULL, response->mask, response->n));
    STM_TRY(set_doubles(object, "old_logprobs", response->old_logprobs, response->n));
    STM_TRY(set_doubles(object, "ref_logprobs", response->ref_logprobs, response->n));
    STM_TRY(set_doubles(object, "kept_mass", response->kept_mass, response->n));
    if (response->has_reward)
        STM_TRY(set_double(object, "reward", response->reward));
    return set(object, "finish", json_string(response->finish == STM_FINISH_STOP ? "stop" : "length"));
}

static stm_status set_numbers(json_t *object, const char *key, const int64_t *numbers, size_t n)
{
    json_t *array = json_array();
    for (size_t k = 0; array && k < n; k++)
        if (json_array_append_new(array, json_integer(numbers[k])) != 0) {
            json_decref(array);
            return no_memory();
        }
    return set(object, key, array);
}

/* Members in parts, all of whose scores are there. */
static bool has_scores(const stm_group *group)
{
    bool all = group->n_members > 0 && group->scores;
    for (size_t k = 0; all && k < group->n_members * group->n_budgets * group->n_summaries; k++)
        all = isfinite(group->scores[k]);
    return all;
}

/* What rollouts leave of notes: clusters of answers, and where thinking was cut. */
static stm_status fill_notes(json_t *object, bool in_parts, const stm_response *response)
{
    const stm_response_notes *notes = response->notes;
    if (notes && notes->has_cluster)
        STM_TRY(set(object, "cluster", json_integer(notes->cluster)));
    if (!notes || !in_parts)
        return STM_OK;
    STM_TRY(set(object, "member", json_integer((json_int_t)notes->member)));
    if (notes->segment)
        STM_TRY(set_numbers(object, "segment", notes->segment, response->n));
    return notes->answer ? set_numbers(object, "answer", notes->answer, response->n) : STM_OK;
}

/* [members][budgets][summaries] */
static stm_status set_scores(json_t *object, const stm_group *group)
{
    json_t *members = json_array();
    const double *score = group->scores;
    STM_TRY(set(object, "scores", members));
    for (size_t m = 0; m < group->n_members; m++) {
        json_t *budgets = json_array();
        if (!budgets || json_array_append_new(members, budgets) != 0)
            return no_memory();
        for (size_t s = 0; s < group->n_budgets; s++) {
            json_t *summaries = json_array();
            if (!summaries || json_array_append_new(budgets, summaries) != 0)
                return no_memory();
            for (size_t a = 0; a < group->n_summaries; a++)
                if (json_array_append_new(summaries, json_real(*score++)) != 0)
                    return no_memory();
        }
    }
    return STM_OK;
}

static stm_status fill_responses(json_t *array, const stm_group *group, const char *const *texts)
{
    for (size_t i = 0; i < group->n_responses; i++) {
        json_t *object = json_object();
        if (!object || json_array_append_new(array, object) != 0)
            return no_memory();
        stm_status status = fill_response(object, &group->responses[i], texts ? texts[i] : NULL);
        if (status == STM_OK)
            status = fill_notes(object, has_scores(group), &group->responses[i]);
        if (status != STM_OK)
            return stm_fail_context(status, "responses[%zu]", i);
    }
    return STM_OK;
}

static stm_status set_preferences(json_t *object, const stm_group *group)
{
    if (!group->preferences)
        return STM_OK;
    json_t *rows = json_array();
    for (size_t i = 0; rows && i < group->n_responses; i++) {
        json_t *row = json_array();
        for (size_t k = 0; k < group->n_responses; k++)
            (void)json_array_append_new(row, json_real(group->preferences[i * group->n_responses + k]));
        if (json_array_size(row) != group->n_responses || json_array_append(rows, row) != 0) {
            json_decref(row);
            json_decref(rows);
            return no_memory();
        }
        json_decref(row);
    }
    return set(object, "preferences", rows);
}

/* The prompt's own fields; those that the group has, too, are replaced later. */
static stm_status start_object(const char *fields_json, json_t **object)
{
    json_error_t error;
    *object = fields_json ? json_loads(fields_json, JSON_ALLOW_NUL, &error) : json_object();
    if (!json_is_object(*object)) {
        json_decref(*object);
        *object = NULL;
        return fields_json ? stm_fail(STM_ERR_INPUT, "a prompt's fields are not a JSON object") : no_memory();
    }
    return STM_OK;
}

stm_status stm_group_write(const stm_group *group, const char *fields_json, const char *const *texts, stm_string *out)
{
    json_t *object, *responses;
    STM_TRY(start_object(fields_json, &object));
    char *line = NULL;
    stm_status status;
    STM_GOTO_OUT(set_integers(object, "prompt_ids", group->prompt, NULL, group->n_prompt));
    STM_GOTO_OUT(set_double(object, "temperature", group->temperature));
    STM_GOTO_OUT(set_preferences(object, group));
    STM_GOTO_OUT(set(object, "responses", responses = json_array()));
    STM_GOTO_OUT(fill_responses(responses, group, texts));
    if (has_scores(group))
        STM_GOTO_OUT(set_scores(object, group));
    if (!(line = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(17)))) {
        status = no_memory();
        goto out;
    }
    STM_GOTO_OUT(stm_string_add_text(out, line));
    STM_GOTO_OUT(stm_string_add(out, "\n", 1));
out:
    free(line);
    json_decref(object);
    return status;
}
