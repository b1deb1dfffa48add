#include "data/groups_parser.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const response_keys[] = {"text",
                                            "ids",
                                            "reward",
                                            "mask",
                                            "old_logprobs",
                                            "ref_logprobs",
                                            "kept_mass",
                                            "finish",
                                            "sampler_logprobs",
                                            "token_weights",
                                            "off_policy",
                                            "cluster",
                                            "twin_logprobs",
                                            "target_logprobs",
                                            "origin",
                                            "reward_parts",
                                            "step",
                                            "step_advantages",
                                            "member",
                                            "segment",
                                            "answer"};
enum { N_RESPONSE_KEYS = sizeof response_keys / sizeof *response_keys };

const char *stm_groups_place(const stm_groups_parser *p, const char *key, char where[STM_PLACE_BYTES])
{
    snprintf(where, STM_PLACE_BYTES, "responses[%zu].%s", p->i, key);
    return where;
}

static stm_status check_keys(const stm_groups_parser *p, const json_t *object)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        bool known = false;
        for (size_t k = 0; k < N_RESPONSE_KEYS && !known; k++)
            known = strcmp(key, response_keys[k]) == 0;
        if (known)
            continue;
        const char *near = stm_nearest_name(key, response_keys, N_RESPONSE_KEYS);
        return stm_json_lines_fail(p->lines, "responses[%zu]: unknown key \"%.60s\"%s%s%s", p->i, key,
                                   near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    }
    return STM_OK;
}

stm_status stm_groups_column(const stm_groups_parser *p, const json_t *object, const char *key, size_t n,
                             json_t **array)
{
    char where[STM_PLACE_BYTES];
    stm_json_found_text found;
    *array = stm_json_get(object, key);
    if (*array && !json_is_array(*array))
        return stm_json_lines_fail(p->lines, "%s: found %s, expected an array of numbers",
                                   stm_groups_place(p, key, where), stm_json_found(*array, found));
    if (*array && json_array_size(*array) != n)
        return stm_json_lines_fail(p->lines, "%s: found %zu numbers, expected %zu, one for each id",
                                   stm_groups_place(p, key, where), json_array_size(*array), n);
    return STM_OK;
}

stm_status stm_groups_wrong(const stm_groups_parser *p, const char *key, size_t k, const json_t *value,
                            const char *expected)
{
    stm_json_found_text found;
    char where[STM_PLACE_BYTES];
    return stm_json_lines_fail(p->lines, "%s[%zu]: found %s, expected %s", stm_groups_place(p, key, where), k,
                               stm_json_found(value, found), expected);
}

static stm_status read_mask(const stm_groups_parser *p, const json_t *object, stm_response *response)
{
    json_t *array;
    STM_TRY(stm_groups_column(p, object, "mask", response->n, &array));
    STM_TRY(stm_alloc(response->n, 1, &response->mask));
    for (size_t k = 0; k < response->n; k++) {
        const json_t *value = array ? json_array_get(array, k) : NULL;
        const json_int_t bit = value && json_is_integer(value) ? json_integer_value(value) : -1;
        if (value && bit != 0 && bit != 1)
            return stm_groups_wrong(p, "mask", k, value, "0 or 1");
        response->mask[k] = !value || (p->use & STM_GROUPS_IGNORE_MASK) || bit == 1;
    }
    return STM_OK;
}

stm_status stm_groups_numbers(const stm_groups_parser *p, const json_t *object, const char *key, size_t n,
                              const stm_groups_number *kind, void *out)
{
    json_t *array;
    char *numbers;
    STM_TRY(stm_groups_column(p, object, key, n, &array));
    if (!array)
        return STM_OK;
    STM_TRY(stm_alloc(n, kind->bytes, &numbers));
    memcpy(out, &numbers, sizeof numbers);
    for (size_t k = 0; k < n; k++)
        if (!kind->take(json_array_get(array, k), numbers + k * kind->bytes))
            return stm_groups_wrong(p, key, k, json_array_get(array, k), kind->expected);
    return STM_OK;
}

static bool take_double(const json_t *value, void *to)
{
    *(double *)to = json_number_value(value);
    return json_is_number(value);
}

stm_status stm_groups_doubles(const stm_groups_parser *p, const json_t *object, const char *key, size_t n, double **out)
{
    static const stm_groups_number number = {sizeof **out, take_double, "a number"};
    return stm_groups_numbers(p, object, key, n, &number, out);
}

static stm_status read_kept_mass(const stm_groups_parser *p, const json_t *object, stm_response *response)
{
    const double rounding = 1e-3; /* a sum in single precision may pass 1 */
    STM_TRY(stm_groups_doubles(p, object, "kept_mass", response->n, &response->kept_mass));
    for (size_t k = 0; response->kept_mass && k < response->n; k++)
        if (!(response->kept_mass[k] > 0) || response->kept_mass[k] > 1 + rounding)
            return stm_groups_wrong(p, "kept_mass", k, json_array_get(json_object_get(object, "kept_mass"), k),
                                    "a number above 0, at most 1");
    return STM_OK;
}

static stm_status read_reward(const stm_groups_parser *p, const json_t *object, stm_response *response)
{
    char where[STM_PLACE_BYTES];
    stm_json_found_text found;
    const json_t *value = stm_json_get(object, "reward");
    if (value ? !json_is_number(value) : (p->use & STM_GROUPS_NEED_REWARDS) != 0)
        return stm_json_lines_fail(p->lines, "%s: found %s, expected a number", stm_groups_place(p, "reward", where),
                                   stm_json_found(value, found));
    response->has_reward = value != NULL;
    response->reward = value ? json_number_value(value) : 0.0;
    return STM_OK;
}

static stm_status read_finish(const stm_groups_parser *p, const json_t *object, stm_response *response)
{
    char where[STM_PLACE_BYTES];
    stm_json_found_text found;
    const json_t *value = stm_json_get(object, "finish");
    const char *word = !value ? "stop" : json_is_string(value) ? json_string_value(value) : "";
    if (strcmp(word, "stop") != 0 && strcmp(word, "length") != 0)
        return stm_json_lines_fail(p->lines, "%s: found %s, expected \"stop\" or \"length\"",
                                   stm_groups_place(p, "finish", where), stm_json_found(value, found));
    response->finish = strcmp(word, "stop") == 0 ? STM_FINISH_STOP : STM_FINISH_LENGTH;
    return STM_OK;
}

static stm_status read_tokens(const stm_groups_parser *p, const json_t *object, size_t n_prompt, stm_response *response)
{
    char where[STM_PLACE_BYTES];
    const json_t *ids = stm_json_get(object, "ids"), *text = stm_json_get(object, "text");
    if (!ids && !text)
        return stm_json_lines_fail(p->lines, "responses[%zu]: found neither \"ids\" nor \"text\", expected one of them",
                                   p->i);
    if (text && !json_is_string(text)) {
        stm_json_found_text found;
        return stm_json_lines_fail(p->lines, "%s: found %s, expected text", stm_groups_place(p, "text", where),
                                   stm_json_found(text, found));
    }
    if (ids)
        STM_TRY(stm_context_ids(p->context, p->lines, stm_groups_place(p, "ids", where), ids, &response->ids,
                                &response->n));
    else
        STM_TRY(stm_context_text(p->context, p->lines, stm_groups_place(p, "text", where), text, &response->ids,
                                 &response->n));
    if (n_prompt + response->n > p->context->max_positions)
        return stm_json_lines_fail(
            p->lines,
            "responses[%zu]: found %zu tokens after a prompt of %zu, expected at most %zu in all, "
            "the model's positions",
            p->i, response->n, n_prompt, p->context->max_positions);
    return STM_OK;
}

static stm_status read_response(const stm_groups_parser *p, const json_t *object, size_t n_prompt,
                                stm_response *response)
{
    stm_json_found_text found;
    char where[STM_PLACE_BYTES];
    if (!json_is_object(object))
        return stm_json_lines_fail(p->lines, "responses[%zu]: found %s, expected an object with \"ids\" or \"text\"",
                                   p->i, stm_json_found(object, found));
    STM_TRY(check_keys(p, object));
    STM_TRY(read_tokens(p, object, n_prompt, response));
    STM_TRY(read_mask(p, object, response));
    STM_TRY(stm_groups_doubles(p, object, "old_logprobs", response->n, &response->old_logprobs));
    STM_TRY(stm_groups_doubles(p, object, "ref_logprobs", response->n, &response->ref_logprobs));
    if (!response->ref_logprobs && (p->use & STM_GROUPS_NEED_REFERENCE))
        return stm_json_lines_fail(p->lines, "%s: found nothing, expected an array of %zu numbers, one for each id",
                                   stm_groups_place(p, "ref_logprobs", where), response->n);
    STM_TRY(read_kept_mass(p, object, response));
    STM_TRY(read_reward(p, object, response));
    STM_TRY(stm_groups_notes(p, object, response));
    return read_finish(p, object, response);
}

/* A group's unknown keys are its own, unless one is surely meant to be the temperature. */
static stm_status read_temperature(const stm_json_lines *lines, const json_t *object, double *temperature)
{
    static const char *const names[] = {"temperature"};
    stm_json_found_text found;
    const json_t *value = stm_json_get(object, names[0]);
    const char *key;
    json_t *ignored;
    *temperature = value && json_is_number(value) ? json_number_value(value) : value ? 0.0 : 1.0;
    if (!(*temperature > 0))
        return stm_json_lines_fail(lines, "temperature: found %s, expected a number above 0",
                                   stm_json_found(value, found));
    json_object_foreach(
        (json_t *)object, key,
        ignored) if (!value &&
                     stm_nearest_name(
                         key, names,
                         1)) return stm_json_lines_fail(lines, "unknown key \"%.60s\"; did you mean \"temperature\"?",
                                                        key);
    return STM_OK;
}

static stm_status get_responses(const stm_json_lines *lines, const json_t *object, json_t **responses)
{
    stm_json_found_text found;
    *responses = stm_json_get(object, "responses");
    if (!json_is_array(*responses))
        return stm_json_lines_fail(lines, "responses: found %s, expected an array of objects",
                                   stm_json_found(*responses, found));
    if (json_array_size(*responses) == 0)
        return stm_json_lines_fail(lines, "responses: found an empty array, expected at least one response");
    return STM_OK;
}

static stm_status wrong_preference(const stm_groups_parser *p, size_t i, size_t j, const json_t *value,
                                   const char *expected)
{
    stm_json_found_text found;
    return stm_json_lines_fail(p->lines, "preferences[%zu][%zu]: found %s, expected %s", i, j,
                               stm_json_found(value, found), expected);
}

/* Both orders of two responses must agree; what stands on the diagonal is not read. */
static stm_status read_preferences(const stm_groups_parser *p, const json_t *object, stm_group *group)
{
    static const double TOLERANCE = 1e-6;
    const size_t n = group->n_responses;
    const json_t *rows = stm_json_get(object, "preferences");
    stm_json_found_text found;
    if (!rows)
        return STM_OK;
    if (!json_is_array(rows) || json_array_size(rows) != n)
        return stm_json_lines_fail(p->lines, "preferences: found %s, expected %zu rows of as many numbers",
                                   stm_json_found(rows, found), n);
    STM_TRY(stm_alloc(n * n, sizeof(double), &group->preferences));
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            const json_t *value = json_array_get(json_array_get(rows, i), j);
            const double probability = json_number_value(value);
            if (json_array_size(json_array_get(rows, i)) != n || !json_is_number(value) || probability < 0 ||
                probability > 1)
                return wrong_preference(p, i, j, value, "a number from 0 to 1 for each two responses");
            if (j < i && fabs(group->preferences[j * n + i] + probability - 1) > TOLERANCE)
                return wrong_preference(p, i, j, value, "1 less that of the other order");
            group->preferences[i * n + j] = probability;
        }
    return STM_OK;
}

/* What has been read counts at once, so that stm_batch_clear frees it after a failure. */
static stm_status read_group(stm_groups_parser *p, const json_t *object, stm_group *group)
{
    stm_prompt_kind kind;
    json_t *responses;
    STM_TRY(get_responses(p->lines, object, &responses));
    STM_TRY(read_temperature(p->lines, object, &group->temperature));
    STM_TRY(stm_context_prompt(p->context, p->lines, object, &kind, &group->prompt, &group->n_prompt));
    if (group->n_prompt > p->context->max_positions)
        return stm_json_lines_fail(p->lines, "prompt: found %zu tokens, expected at most %zu, the model's positions",
                                   group->n_prompt, p->context->max_positions);
    const size_t n = json_array_size(responses);
    STM_TRY(stm_alloc(n, sizeof *group->responses, &group->responses));
    group->n_responses = n;
    for (p->i = 0; p->i < n; p->i++)
        STM_TRY(read_response(p, json_array_get(responses, p->i), group->n_prompt, &group->responses[p->i]));
    STM_TRY(read_preferences(p, object, group));
    return stm_groups_scores(p, object, group);
}

static stm_status read_groups(stm_json_lines *lines, const stm_text_context *context, unsigned use, stm_batch *batch)
{
    size_t capacity = 0;
    stm_groups_parser p = {context, lines, use, 0};
    for (;;) {
        json_t *object;
        STM_TRY(stm_json_lines_next(lines, &object));
        if (!object)
            break;
        stm_status status = stm_reserve(&batch->groups, &capacity, batch->n_groups + 1, sizeof *batch->groups);
        if (status == STM_OK) {
            stm_group *group = &batch->groups[batch->n_groups++];
            *group = (stm_group){0};
            status = read_group(&p, object, group);
        }
        json_decref(object);
        STM_TRY(status);
    }
    return batch->n_groups ? STM_OK
                           : stm_fail(STM_ERR_INPUT, "%s: found no group, expected one on each line", lines->name);
}

stm_status stm_groups_read(const char *name, const char *text, size_t n, const stm_text_context *context, unsigned use,
                           stm_batch *out)
{
    stm_json_lines lines = {.name = name, .text = text, .n = n};
    stm_batch batch = {0};
    const stm_status status = read_groups(&lines, context, use, &batch);
    if (status == STM_OK)
        *out = batch;
    else
        stm_batch_clear(&batch);
    return status;
}
